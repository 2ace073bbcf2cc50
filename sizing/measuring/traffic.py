"""What a process gives to collectives, counted as torch hands them to the process group."""

from __future__ import annotations

from collections import Counter

from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..parallel import ring_factor

# Operations of c10d and of functional collectives: kind, position of the tensor that is whole or,
# for the functional gather, of the share that all ranks' shares make whole.
_OPERATIONS = {
    "c10d.allreduce_": ("all_reduce", 0),
    "c10d.allreduce_coalesced_": ("all_reduce", 0),
    "c10d._allgather_base_": ("all_gather", 0),
    "c10d.allgather_": ("all_gather", 0),
    "c10d._reduce_scatter_base_": ("reduce_scatter", 1),
    "c10d.reduce_scatter_": ("reduce_scatter", 1),
    "c10d.reduce_": ("reduce", 0),
    "c10d.broadcast_": ("broadcast", 0),
    "c10d.send": ("point_to_point", 0),
    "_c10d_functional.all_reduce": ("all_reduce", 0),
    "_c10d_functional.all_reduce_": ("all_reduce", 0),
    "_c10d_functional.all_gather_into_tensor": ("all_gather", 0),
    "_c10d_functional.reduce_scatter_tensor": ("reduce_scatter", 0),
}
_SHARES = ("_c10d_functional.all_gather_into_tensor",)
PASSED_ON = ("reduce", "broadcast")  # every rank of the ring but one sends all of it, once
KINDS = tuple(dict.fromkeys(kind for kind, _ in _OPERATIONS.values()))


class Traffic(TorchDispatchMode):
    """Counts collectives while it is entered.

    Attributes:
        calls: how many of each kind.
        payload: bytes of the whole tensors, by kind.

    Args:
        ranks: size of the group that they run over.
    """

    def __init__(self, ranks: int):
        super().__init__()
        self.ranks = ranks
        self.calls, self.payload = Counter(), Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # first let it become operations on plain tensors
        name = str(function).removesuffix(".default")
        if name in _OPERATIONS:
            kind, position = _OPERATIONS[name]
            scale = self.ranks if name in _SHARES else 1
            self.calls[kind] += 1
            self.payload[kind] += scale * _bytes(args[position])
        return function(*args, **(kwargs or {}))

    def sent(self, kind: str) -> float:
        """Bytes that each rank of a ring sends for the collectives of one kind."""
        if kind in PASSED_ON:
            return self.payload[kind] * (self.ranks - 1) / self.ranks
        return self.payload[kind] * ring_factor(kind, self.ranks)

    @property
    def total(self) -> float:
        """Bytes that each rank of a ring sends for all of them."""
        return sum(self.sent(kind) for kind in self.payload)


def _bytes(found) -> int:
    if isinstance(found, Tensor):
        return found.numel() * found.element_size()
    return sum(map(_bytes, found)) if isinstance(found, list | tuple) else 0
