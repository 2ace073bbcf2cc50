"""Size the training of language models before spending a GPU hour.

What a lesson needs is here: `Model` and `Run`, the functions that size a run, units. The rooms
(`sizing.architecture`, `footprint`, `speed`, ...) are named by the question that they answer;
docs/ARCHITECTURE.md shows the way through them.
"""

import importlib

from . import hardware, units
from .architecture import Model, presets
from .hardware import gpu, gpus
from .lora import Lora
from .run import Run
from .settings import Distillation, Dpo
from .units import DATA, GB, GIB, count, duration, gb, gib, si

# What the other rooms hand out loads when it is first used: importing stays quick, and the floors
# that bring torch or widgets stay out of it.
_ROOMS = (
    "architecture",
    "calculators",
    "compute",
    "course",
    "evidence",
    "experiments",
    "footprint",
    "measuring",
    "parallel",
    "planning",
    "speed",
    "trace",
)
_HOMES = {
    "compute": ("flops", "matmuls", "megatron", "palm", "six_nd"),
    "footprint": (
        "bytes_per_parameter",
        "in_flight",
        "memory",
        "memory_grid",
        "model_state",
        "saved_tensors",
        "zero_state",
    ),
    "parallel": ("communication",),
    "partition": ("stages",),
    "planning": (
        "batch_laws",
        "checkpoint",
        "cost",
        "disk",
        "launch",
        "optimal",
        "plan",
        "report",
        "saving",
        "scaling",
        "scaling_fits",
        "token_files",
        "training_time",
    ),
    "speed": ("step_time", "sustained_rates"),
}
_HOME_OF = {name: room for room, names in _HOMES.items() for name in names}


def __getattr__(name: str):
    if name in _ROOMS:
        return importlib.import_module(f".{name}", __name__)
    if name in _HOME_OF:
        found = getattr(importlib.import_module(f".{_HOME_OF[name]}", __name__), name)
        globals()[name] = found
        return found
    raise AttributeError(f"module 'sizing' has no attribute {name!r}")


def __dir__():
    return sorted({*__all__, *_ROOMS})


__all__ = [
    "DATA",
    "GB",
    "GIB",
    "Distillation",
    "Dpo",
    "Lora",
    "Model",
    "Run",
    "batch_laws",
    "bytes_per_parameter",
    "checkpoint",
    "communication",
    "compute",
    "cost",
    "count",
    "disk",
    "duration",
    "flops",
    "gb",
    "gib",
    "gpu",
    "gpus",
    "hardware",
    "in_flight",
    "launch",
    "matmuls",
    "megatron",
    "memory",
    "memory_grid",
    "model_state",
    "optimal",
    "palm",
    "parallel",
    "plan",
    "presets",
    "report",
    "saved_tensors",
    "saving",
    "scaling",
    "scaling_fits",
    "si",
    "six_nd",
    "stages",
    "step_time",
    "sustained_rates",
    "token_files",
    "training_time",
    "units",
    "zero_state",
]
