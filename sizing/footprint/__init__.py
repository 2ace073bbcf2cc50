"""What does a GPU hold in a training step, at its peak and phase by phase.

`memory` and `saved_tensors` rest on a `tape` of the forward pass (`forward`, and for each family a
layer in `decoder`, `classic` or `layers`), walked `backward`; `optimizer` adds its state,
`sharding` divides it all over GPUs.
`literature` has the formulas of papers, to compare.
"""

from .literature import bytes_per_parameter, korthikanti
from .saved import Saved, saved_tensors
from .sharding import in_flight, zero_state
from .step import PARTS, PHASES, Memory, ModelState, memory, memory_grid, model_state

__all__ = [
    "PARTS",
    "PHASES",
    "Memory",
    "ModelState",
    "Saved",
    "bytes_per_parameter",
    "in_flight",
    "korthikanti",
    "memory",
    "memory_grid",
    "model_state",
    "saved_tensors",
    "zero_state",
]
