"""Drawings of mechanisms, made from the library's own data and stepped with a slider.

Each function gives a `Drawing`: SVG pictures with a sentence per step, for a notebook, a slide or
a screen reader.
"""

from .all_reduce import ring
from .attention import flash
from .decoder_layer import layer, saves
from .mixture_routes import experts
from .overlap import lanes
from .schedules import pipeline
from .sequence_cuts import context
from .tensor import splits
from .zero_stages import zero

__all__ = [
    "context",
    "experts",
    "flash",
    "lanes",
    "layer",
    "pipeline",
    "ring",
    "saves",
    "splits",
    "zero",
]
