"""What is the model: its weights, tensor by tensor, from a Hugging Face config.

`Model` reads a config and counts; `presets` names those that come with the course. A family is a
table of weights in `families`, its defaults stand in `fields`, its building blocks in `weights`.
"""

from .model import Model, Parameters, presets
from .weights import Block, Weight

__all__ = ["Block", "Model", "Parameters", "Weight", "presets"]
