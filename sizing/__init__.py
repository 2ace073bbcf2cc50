"""Size the training of language models before spending a GPU hour."""

import importlib

from . import hardware, launch
from .flops import flops
from .memory import memory
from .model import Model, presets
from .parallel import communication
from .run import Run
from .step_time import step_time

# Floors above the core bring torch or widgets: they load when first used.
_LAZY = ("trace", "experiments", "calculators", "course")


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sizing' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_LAZY])


__all__ = [
    "Model",
    "Run",
    "communication",
    "flops",
    "hardware",
    "launch",
    "memory",
    "presets",
    "step_time",
]
