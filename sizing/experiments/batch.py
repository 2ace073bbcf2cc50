"""batch: throughput and peak memory against the micro-batch, up to and beyond the knee."""

from __future__ import annotations

from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import (
    BYTES_MODEL,
    as_run,
    default_precision,
    describe,
    measure_step,
    named,
)
from ..run import Run


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batches: tuple[int, ...] | None = None,
) -> list[Row]:
    """One step for each micro-batch.

    Args:
        model: name of a preset; by default pythia-410m on a GPU, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 1024 on a GPU, 32 on a CPU.
        micro_batches: sequences in a step; by default 1 to 256 on a GPU, 1 to 64 on a CPU.
    """
    return [
        describe(
            Run(
                named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)),
                sequence=sequence or (1024 if device.cuda else 32),
                micro_batch=micro_batch,
                precision=default_precision(device),
            )
        )
        for micro_batch in micro_batches or [2**k for k in range(9 if device.cuda else 7)]
    ]


def measure(point: Row, device: Device) -> Row:
    """Time, tokens per second and peak memory of a step."""
    return measure_step(as_run(point), device)


EXPERIMENT = Experiment("batch", grid, measure)
