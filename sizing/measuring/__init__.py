"""How anything is measured: the same way on a laptop's CPU and on any GPU.

`protocol` runs a grid and keeps its rows, `recording` stores and reads them with their provenance,
`device` says where; `timing`, `allocations` and `traffic` measure seconds, bytes held, bytes sent;
`training` takes real steps, `workers` starts several processes. The experiments themselves are
next door.
"""

import importlib

from .recording import Recording, load, recorded_only
from .rooflines import roofline, roofline_of

# These bring torch: they load when first used.
_LAZY = {
    "BYTES_MODEL": "training",
    "as_run": "training",
    "named": "training",
    "find": "device",
    "peak": "allocations",
}


def __getattr__(name: str):
    if name in _LAZY:
        return getattr(importlib.import_module(f".{_LAZY[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["Recording", "load", "recorded_only", "roofline", "roofline_of", *_LAZY]
