"""What is the model: its weights, tensor by tensor, from a Hugging Face config.

`Model` counts; `reading` finds the config in what it is given, `presets` names those that come with
the course. A family is a row of `family_rows` for `decoder`, or a function in `classic`; `families`
names them all, `fields` has their defaults, `weights` the building blocks.
"""

from .model import Model, Parameters, presets
from .weights import Block, Weight

__all__ = ["Block", "Model", "Parameters", "Weight", "presets"]
