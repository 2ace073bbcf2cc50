"""Counts the bytes of every tensor storage alive, after every operation that PyTorch dispatches."""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from functools import cache

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten = torch.ops.aten
PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "temporary")


@dataclass(frozen=True)
class Trace:
    """What a steady training step held, in bytes.

    Attributes:
        phases: {phase: {part: bytes}} at the largest total within each phase; parts are
            parameters, gradients, optimizer, activations, logits, temporary.
        peak_phase: the phase with the largest total; `total` is that total.
        timeline: (phase, bytes alive) after every operation that changed it.
    """

    phases: dict[str, dict[str, int]]
    timeline: tuple[tuple[str, int], ...]

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=lambda phase: sum(self.phases[phase].values()))

    @property
    def parts(self) -> dict[str, int]:
        """The peak by part."""
        return self.phases[self.peak_phase]

    @property
    def total(self) -> int:
        return sum(self.parts.values())


class LiveBytes(TorchDispatchMode):
    """Bytes alive by part, their peak in each phase, and the timeline.

    A storage counts from the operation that creates it until nothing refers to it, views included,
    which is what the allocator of a real device sees. Rounding to blocks and fragmentation are not
    seen. To watch changes what is watched: under any dispatch mode autograd adds two gradients of
    one tensor into a third, also where it would otherwise add into the first. This mode adds into
    the first where autograd would if nobody watched. So it does with the gradient of `gather`, of
    which fake tensors, as all subclasses, get two copies.

    Args:
        logits_shape: (tokens, vocabulary).
        scratch: from an operator and its arguments to the bytes that its kernel allocates and frees
            inside itself, of which a trace sees nothing.
        answer: from a tensor of one element to the number that is read of it, which a fake one has
            not.

    Attributes:
        phase: the name under which peaks are kept now; the caller moves it on.
        live: bytes alive now by part.
        peaks: {phase: {part: bytes}} at the largest total in each phase.
        timeline: [(phase, bytes)] after every operation that changed the total.
    """

    def __init__(
        self,
        logits_shape: tuple[int, int],
        scratch=lambda operator, args: 0,
        answer=lambda tensor: 1.0,
    ):
        super().__init__()
        self.answer = answer
        self.scratch = scratch
        self._alone = _held_alone()
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
            return self.answer(args[0])
        if func is _aten.add.Tensor and self._in_place(*args, **(kwargs or {})):
            func = _aten.add_.Tensor
        if func is _aten.scatter_add.default and _in_backward():
            func = _aten.scatter_add_.default
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor, func, args)
        self._record(self.scratch(func, args))
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

    def _record(self, scratch: int = 0) -> None:
        if not self.timeline or self.timeline[-1] != (self.phase, self.total):
            self.timeline.append((self.phase, self.total))
        total = self.total + scratch
        peak = self.peaks.get(self.phase)
        if peak is None or total > peak["total"]:
            held = self.live["temporary"] + scratch
            self.peaks[self.phase] = {**self.live, "temporary": held, "total": total}

    def _in_place(self, first, second, alpha=1) -> bool:
        """Whether this sum is autograd's, of two gradients, and would be made in place.

        Autograd adds into the first gradient that reaches a tensor if it holds that one alone
        (torch/csrc/autograd/input_buffer.cpp): not a view, and referred to by nothing else.
        """
        if not _in_backward():
            return False
        both = isinstance(first, torch.Tensor) and isinstance(second, torch.Tensor)
        if not both or first.shape != second.shape or alpha != 1:
            return False
        return not first._is_view() and _uses(first) == self._alone


def _in_backward() -> bool:
    """Whether autograd is at work, and not to run a forward pass again."""
    return not torch.is_grad_enabled() and torch._C._current_graph_task_id() != -1


def _uses(tensor: torch.Tensor) -> int:
    """How often torch refers to a tensor. A torch that does not tell (before 2.12) is taken to hold
    every gradient alone, which is wrong only for one that two operations hand on unchanged."""
    return tensor._use_count() if hasattr(tensor, "_use_count") else 0


@cache
def _held_alone() -> int:
    """How often torch refers to a gradient that autograd holds alone when its sum is dispatched."""
    counts = []

    class Sums(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            if func is _aten.add.Tensor and not torch.is_grad_enabled():
                counts.append(_uses(args[0]))
            return func(*args, **(kwargs or {}))

    with torch.enable_grad(), Sums():
        x = torch.zeros(2, device="cpu", requires_grad=True) * 1
        ((x * 2).sum() + (x * 3).sum()).backward()
    return counts[0]
