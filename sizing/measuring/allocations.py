"""Memory of one training step: its peak on any device, and the CPU allocator's events.

On CUDA torch keeps the peak itself. On a CPU the process's size says little, because freed memory
stays with the process; torch's profiler instead reports every block that torch's CPU allocator
hands out or takes back (`sizing.trace.allocations`). Scratch memory inside kernels is in neither.
"""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from itertools import accumulate

import torch
from torch.distributed.tensor import DTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..trace.allocations import Allocation, cpu_events, optimizer_tensors, storage_bytes
from ..trace.step import Step
from .device import Device


def peak(call: Callable[[], object], device: Device, resident: int = 0) -> dict:
    """Make a call and report the most memory in use during it.

    Args:
        resident: bytes that were there before the call and stay, which a CPU's events do not show.

    Returns:
        ``peak_bytes``, allocated by tensors; ``transient_bytes``, the part of it that was not there
        before; ``reserved_bytes``, what torch held from the driver at most; ``requested_bytes``,
        the peak without the allocator's rounding of blocks; ``library_bytes``, cuBLAS's workspaces,
        which are in all of them (these three on CUDA only); ``peak_source``, who counted.
    """
    if device.cuda:
        load_libraries()
        device.release()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return {
            "peak_bytes": torch.cuda.max_memory_allocated(),
            "transient_bytes": torch.cuda.max_memory_allocated() - before,
            "reserved_bytes": torch.cuda.max_memory_reserved(),
            "requested_bytes": torch.cuda.memory_stats()["requested_bytes.all.peak"],
            "library_bytes": library_bytes(),
            "peak_source": "torch.cuda.max_memory_allocated",
        }
    device.release()  # what an earlier call left would be freed during this one
    above = max(accumulate((event.bytes for event in cpu_events(call)), initial=0))
    return {
        "peak_bytes": resident + above,
        "transient_bytes": above,
        "reserved_bytes": None,
        "requested_bytes": None,
        "library_bytes": None,
        "peak_source": "CPU allocator events",
    }


def load_libraries() -> None:
    """Let cuBLAS take its workspaces: one for this thread, one for the backward pass's.

    They lie in torch's allocator, 32 MiB each on a Hopper GPU, and stay; what is measured after
    this does not count them as its own.
    """
    x = torch.zeros(16, 16, device="cuda", requires_grad=True)
    (x @ x).sum().backward()


def library_bytes() -> int:
    """Bytes of cuBLAS's workspaces, which are given back: the next product takes them anew."""
    held = torch.cuda.memory_allocated()
    torch._C._cuda_clearCublasWorkspaces()
    return held - torch.cuda.memory_allocated()


def steady(build: Callable[[], Callable[[], object]], device: Device, warmup: int = 2) -> dict:
    """Memory of a step that an engine takes: what stays between steps, and the most during one.

    Args:
        build: makes the engine and returns its step; all that it allocates counts from here on, so
            that nothing about the engine's own buffers need be known.
        warmup: steps before the one that is watched.

    Returns:
        ``resident_bytes`` before the step and the columns of `peak`.
    """
    if device.cuda:
        load_libraries()
        device.release()
        before = torch.cuda.memory_allocated()
        step = build()
        for _ in range(warmup):
            step()
        device.synchronize()
        return {"resident_bytes": torch.cuda.memory_allocated() - before, **peak(step, device)}
    with LiveStorages() as live:
        live.watching = False
        step = build()
        for _ in range(warmup):
            step()
        gc.collect()
        resident = live.peak = live.bytes
        live.watching = True
        step()
    return {
        "resident_bytes": resident,
        "peak_bytes": live.peak,
        "transient_bytes": live.peak - resident,
        "reserved_bytes": None,
        "requested_bytes": None,
        "library_bytes": None,
        "peak_source": "live tensors after every operation",
    }


class LiveStorages(TorchDispatchMode):
    """Bytes of all tensors made since it was entered and still alive, after every operation.

    Unlike the allocator's events it also sees what another thread frees, as those of a process
    group do, and storages that an engine shrinks to nothing, as FSDP2 does.

    Attributes:
        peak: the most so far, in bytes; the caller may set it back.
        watching: whether the peak is kept; to add up all that is alive takes time.
    """

    def __init__(self):
        super().__init__()
        self.peak = 0
        self.watching = True
        self._alive: dict[int, weakref.ref] = {}

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if DTensor in types:
            return NotImplemented  # first let it become operations on plain tensors
        out = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor) and not tensor.is_meta:  # those hold shapes alone
                self._add(tensor.untyped_storage())
        if self.watching:
            self.peak = max(self.peak, self.bytes)
        return out

    @property
    def bytes(self) -> int:
        """Bytes alive now."""
        storages = [reference() for reference in list(self._alive.values())]
        return sum(storage.nbytes() for storage in storages if storage is not None)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._alive:
            self._alive[key] = weakref.ref(storage, lambda _: self._alive.pop(key, None))


def resident(step: Step) -> int:
    """Bytes that stay between steps: weights, buffers, optimizer state, the batch."""
    return storage_bytes(
        *step.model.parameters(),
        *step.model.buffers(),
        *optimizer_tensors(step.optimizer.state),
        *step.buffers,
        step.batch,
    )


__all__ = [
    "Allocation",
    "LiveStorages",
    "cpu_events",
    "library_bytes",
    "load_libraries",
    "optimizer_tensors",
    "peak",
    "resident",
    "steady",
    "storage_bytes",
]
