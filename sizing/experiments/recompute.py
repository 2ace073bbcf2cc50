"""recompute: time and peak memory of a step without, with selective and with full recompute.

Selective recompute drops what eager attention keeps; a flash kernel keeps none of it, so that
there only "none" and "full" differ.
"""

from __future__ import annotations

from ..compute import flops
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

CHOICES = (
    ("eager", "none"),
    ("eager", "selective"),
    ("eager", "full"),
    ("flash", "none"),
    ("flash", "full"),
)


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
) -> list[Row]:
    """One step for each sensible pair of attention and recompute.

    Args:
        model: name of a preset; by default pythia-410m on a GPU, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 2048 on a GPU, 512 on a CPU.
        micro_batch: sequences in a step; by default 1 per 20 GB of a GPU, 2 on a CPU.
    """
    return [
        describe(
            Run(
                named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)),
                sequence=sequence or (2048 if device.cuda else 512),
                micro_batch=micro_batch
                or (max(1, int(device.memory // 20e9)) if device.cuda else 2),
                precision=default_precision(device),
                attention=attention,
                recompute=recompute,
            )
        )
        for attention, recompute in CHOICES
    ]


def measure(point: Row, device: Device) -> Row:
    """Time and peak memory; ``hardware_flops`` counts recomputed products, ``flops`` does not."""
    run = as_run(point)
    return {"hardware_flops": flops(run).total, **measure_step(run, device)}


EXPERIMENT = Experiment("recompute", grid, measure)
