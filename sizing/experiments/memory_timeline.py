"""memory-timeline: what is alive during one training step, moment by moment and by category.

The events are the allocator's own: on a CPU from torch's profiler, on CUDA from its memory
history. A block's category follows from when it lives, so that no tensor has to be asked:

- resident: there before the step and after it (weights, optimizer state);
- logits: just the size of tokens x vocabulary, not allocated by the optimizer;
- activations: allocated in the forward pass, alive when the backward pass begins;
- gradients: allocated in a backward pass, alive when the optimizer begins;
- temporary: all the rest.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..measuring.allocations import Allocation, cpu_events, resident
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import BYTES_MODEL, as_run, default_precision, describe, named, real_step
from ..run import Run

CATEGORIES = ("activations", "logits", "gradients", "temporary")
ROUNDING = 512  # bytes; CUDA's allocator hands out multiples of it
MOMENTS = 200  # rows of one timeline at most


@dataclass(frozen=True)
class Block:
    """Memory from the event that allocates it to the one that frees it; `end` is None if it stays.

    Events are named by their place in the list: a clock may give two of them the same time.
    """

    start: int
    end: int | None
    bytes: int


def grid(
    device: Device,
    models: tuple[str, ...] | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
) -> list[Row]:
    """One step without and with full recompute of each model.

    Args:
        models: names of presets; by default pythia-410m on a GPU; on a CPU a byte-level model and
            pythia-14m, whose vocabulary of 50 304 gives another picture.
        sequence: tokens in a sequence; by default 1024 on a GPU, 256 on a CPU.
        micro_batch: sequences in a step; by default 1 per 10 GB of a GPU, 2 on a CPU.
    """
    models = models or (("pythia-410m",) if device.cuda else (BYTES_MODEL.name, "pythia-14m"))
    return [
        describe(
            Run(
                named(name),
                sequence=sequence or (1024 if device.cuda else 256),
                micro_batch=micro_batch
                or (max(1, int(device.memory // 10e9)) if device.cuda else 2),
                precision=default_precision(device),
                recompute=recompute,
            )
        )
        for name in models
        for recompute in ("none", "full")
    ]


def measure(point: Row, device: Device) -> list[Row]:
    """Bytes by category at every moment of a steady step at which they changed most."""
    run = as_run(point)
    step = real_step(run, device)
    step()
    base = torch.cuda.memory_allocated() if device.cuda else resident(step)
    marks: list[tuple[str, int]] = []

    def enter(phase: str) -> None:
        device.synchronize()
        marks.append((phase, time.time_ns()))

    record = _cuda_events if device.cuda else cpu_events
    events = record(lambda: step(enter))
    logits = _logits_sizes(run)
    times = [event.time for event in events]
    marks = [(phase, bisect_left(times, begins)) for phase, begins in marks]
    return _rows(categorised(paired(events), marks, logits), times, marks, base)


def paired(events: list[Allocation]) -> list[Block]:
    """Blocks from events in order; what was freed but not allocated here is left out."""
    alive, blocks = {}, []
    for place, event in enumerate(events):
        if event.bytes > 0:
            alive[event.address] = place
        elif event.address in alive:
            start = alive.pop(event.address)
            blocks.append(Block(start, place, events[start].bytes))
    return blocks + [Block(start, None, events[start].bytes) for start in alive.values()]


def categorised(
    blocks: list[Block], marks: list[tuple[str, int]], logits: tuple[int, ...]
) -> list[tuple[int, str, int]]:
    """(event, category, change in bytes) of every allocation and release, in order.

    Args:
        marks: (phase, its first event), in order; phases are "forward", "loss" (the
            backward pass begins) and "optimizer".
        logits: bytes of the logits in each dtype in which they may be.
    """
    changes = []
    for block in blocks:
        category = _category(block, marks, logits)
        changes.append((block.start, category, block.bytes))
        if block.end is not None:
            changes.append((block.end, category, -block.bytes))
    return sorted(changes)


def _logits_sizes(run: Run) -> tuple[int, ...]:
    elements = run.micro_batch * run.sequence * run.model.vocab
    return (4 * elements,) if run.precision == "fp32" else (2 * elements, 4 * elements)


def _category(block: Block, marks: list[tuple[str, int]], logits: tuple[int, ...]) -> str:
    born = [phase for phase, begins in marks if begins <= block.start][-1:]
    reached = [
        phase
        for phase, begins in marks
        if block.start < begins and (block.end is None or begins <= block.end)
    ]
    if born != ["optimizer"] and any(size <= block.bytes < size + ROUNDING for size in logits):
        return "logits"
    if born == ["forward"] and "loss" in reached:
        return "activations"
    if born == ["loss"] and "optimizer" in reached:
        return "gradients"
    return "temporary"


def _rows(
    changes: list[tuple[int, str, int]], times: list[int], marks: list[tuple[str, int]], base: int
) -> list[Row]:
    """Totals over time: of each of `MOMENTS` stretches of events, its largest."""
    now, moments = dict.fromkeys(CATEGORIES, 0), []
    for place, category, change in changes:
        now[category] += change
        phase = [name for name, begins in marks if begins <= max(place, marks[0][1])][-1]
        # Profiling slows the step down: only the share of its time means anything.
        share = (times[place] - times[0]) / (times[-1] - times[0])
        total = base + sum(now.values())
        moments.append({"time": share, "phase": phase, "resident": base, **now, "total": total})
    width = -(-len(moments) // MOMENTS)
    stretches = [moments[i : i + width] for i in range(0, len(moments), width)]
    return [max(stretch, key=lambda row: row["total"]) for stretch in stretches]


def _cuda_events(call: Callable[[], object]) -> list[Allocation]:
    """What the CUDA caching allocator handed out and took back during a call, in order."""
    begin = time.time_ns() // 1000
    torch.cuda.memory._record_memory_history(context=None, max_entries=1_000_000)
    try:
        call()
        torch.cuda.synchronize()
        trace = torch.cuda.memory._snapshot()["device_traces"][torch.cuda.current_device()]
    finally:
        torch.cuda.memory._record_memory_history(enabled=None)
    sign = {"alloc": 1, "free_completed": -1}
    return [
        Allocation(1000 * event["time_us"], event["addr"], sign[event["action"]] * event["size"])
        for event in trace
        if event["action"] in sign and event["time_us"] >= begin  # history outlives a recording
    ]


EXPERIMENT = Experiment("memory-timeline", grid, measure)
