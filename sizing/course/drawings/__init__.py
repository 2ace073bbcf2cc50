"""Drawings of mechanisms, made from the library's own data and stepped with a slider.

Each function gives a `Drawing`: SVG pictures with a sentence per step, for a notebook, a slide or
a screen reader.
"""

from .all_reduce import ring
from .decoder_layer import layer, saves
from .zero_stages import zero

__all__ = ["layer", "ring", "saves", "zero"]
