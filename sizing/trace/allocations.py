"""What torch's CPU allocator hands out and takes back while a call runs, and bytes of tensors."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import is_traceable_wrapper_subclass


@dataclass(frozen=True)
class Allocation:
    """A block handed out (bytes > 0) or taken back (bytes < 0) by the CPU allocator.

    Attributes:
        time: nanoseconds on the profiler's clock.
        address: of the block.
        bytes: its size, negative when it is freed.
    """

    time: int
    address: int
    bytes: int


def cpu_events(call: Callable[[], object]) -> list[Allocation]:
    """Make a call and list what the CPU's allocator did meanwhile, in order."""
    profiler = profile(activities=[ProfilerActivity.CPU], profile_memory=True)
    with _quiet():
        profiler.start()
    call()
    with _quiet():
        profiler.stop()
    tree = profiler.profiler.kineto_results.experimental_event_tree()
    found = [
        Allocation(event.start_time_ns, event.extra_fields.ptr, event.extra_fields.alloc_size)
        for event in _walk(tree)
        if event.tag == torch._C._profiler._EventType.Allocation
    ]
    return sorted(found, key=lambda event: event.time)


def storage_bytes(*tensors: torch.Tensor) -> int:
    """Bytes of the storages under tensors; one that several share counts once."""
    storages = [tensor.untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def optimizer_tensors(state) -> Iterator[torch.Tensor]:
    """Every tensor in an optimizer's state, however nested, or made of others."""
    if is_traceable_wrapper_subclass(state):
        for name in state.__tensor_flatten__()[0]:
            yield from optimizer_tensors(getattr(state, name))
    elif isinstance(state, torch.Tensor):
        yield state
    elif isinstance(state, dict):
        for value in state.values():
            yield from optimizer_tensors(value)
    elif isinstance(state, list | tuple):
        for value in state:
            yield from optimizer_tensors(value)


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what torch's profiler writes to the process's stderr as it starts and stops."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _walk(events) -> Iterator:
    for event in events:
        yield event
        yield from _walk(event.children)
