"""Counts the bytes of every tensor storage alive, after every operation that PyTorch dispatches."""

from __future__ import annotations

import weakref

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "temporary")


class LiveBytes(TorchDispatchMode):
    """Bytes alive by part, their peak in each phase, and the timeline.

    A storage counts from the operation that creates it until nothing refers to it, views included,
    which is what the allocator of a real device sees. What a kernel allocates and frees inside
    itself is not seen, nor are rounding to blocks and fragmentation.

    Attributes:
        phase: the name under which peaks are kept now; the caller moves it on.
        live: bytes alive now by part.
        peaks: {phase: {part: bytes}} at the largest total in each phase.
        timeline: [(phase, bytes)] after every operation that changed the total.
    """

    def __init__(self, logits_shape: tuple[int, int]):
        super().__init__()
        self.phase = "start"
        self.live = dict.fromkeys(PARTS, 0)
        self.total = 0
        self.peaks: dict[str, dict[str, int]] = {}
        self.timeline: list[tuple[str, int]] = []
        self._tokens, self._vocab = logits_shape
        self._seen: dict[int, list] = {}  # storage -> [bytes, part, weak reference]

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        # Optimizers read step counters and norms as Python numbers; a fake tensor holds none.
        if func is _aten._local_scalar_dense.default:
            return 1.0
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor, func, args)
        self._record()
        return out

    def tag(self, tensor: torch.Tensor, part: str) -> None:
        """Count the tensor's storage under `part` from now on."""
        key = tensor.untyped_storage()._cdata
        if key not in self._seen:
            self._insert(tensor, part)
        size, old, _ = self._seen[key]
        self.live[old] -= size
        self.live[part] += size
        self._seen[key][1] = part

    def start(self) -> None:
        """Forget peaks and timeline, keep what is alive: call it when the steady step begins."""
        self.peaks, self.timeline = {}, []

    def _add(self, tensor, func, args) -> None:
        if tensor.untyped_storage()._cdata not in self._seen:
            self._insert(tensor, self._part(tensor, func, args))

    def _insert(self, tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()

        def freed(_):
            part = self._seen.pop(key)[1]
            self.live[part] -= size
            self.total -= size

        self._seen[key] = [size, part, weakref.ref(storage, freed)]
        self.live[part] += size
        self.total += size

    def _part(self, tensor, func, args) -> str:
        if tensor.shape[-1:] == (self._vocab,) and tensor.numel() == self._tokens * self._vocab:
            return "logits"
        if self.phase != "forward":
            return "temporary"
        if func is _aten._to_copy.default:  # autocast's copy of a weight
            source = self._seen.get(args[0].untyped_storage()._cdata)
            if source is not None and source[1] == "parameters":
                return "temporary"
        return "activations"

    def _record(self) -> None:
        if not self.timeline or self.timeline[-1] != (self.phase, self.total):
            self.timeline.append((self.phase, self.total))
        peak = self.peaks.get(self.phase)
        if peak is None or self.total > peak["total"]:
            self.peaks[self.phase] = {**self.live, "total": self.total}
