"""Size the training of language models before spending a GPU hour.

What a lesson needs is here: `Model` and `Run`, the functions that size a run, units. The rooms
(`sizing.architecture`, `footprint`, `speed`, ...) are named by the question that they answer;
docs/ARCHITECTURE.md shows the way through them.
"""

import importlib

from . import compute, hardware, parallel, units
from .architecture import Model, presets
from .compute import flops, matmuls, megatron, palm, six_nd
from .footprint import (
    bytes_per_parameter,
    in_flight,
    memory,
    memory_grid,
    model_state,
    saved_tensors,
    zero_state,
)
from .hardware import gpu, gpus
from .parallel import communication, stages
from .planning import (
    batch_laws,
    checkpoint,
    cost,
    disk,
    launch,
    optimal,
    plan,
    report,
    saving,
    scaling,
    scaling_fits,
    token_files,
    training_time,
)
from .run import Lora, Run
from .speed import step_time, sustained_rates
from .units import DATA, GB, GIB, count, duration, gb, gib, si

# Floors above the core bring torch or widgets, or read large tables: they load when first used.
_LAZY = ("trace", "evidence", "measuring", "experiments", "calculators", "course")


def __getattr__(name: str):
    if name in _LAZY:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'sizing' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_LAZY])


__all__ = [
    "DATA",
    "GB",
    "GIB",
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
