"""Whether a step fits a GPU: what its memory holds beside the tensors."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from ..hardware import GPU, gpu
from ..units import DATA

VERDICTS = ("fits", "tight", "does not fit")


@dataclass(frozen=True)
class Fit:
    """A step's memory on one GPU, in bytes.

    Attributes:
        allocated: what tensors hold at the peak, `Memory.total`.
        buffers: cuBLAS's workspaces, which lie in torch's allocator as well.
        reserved: what torch takes from the driver for both, with expandable segments
            (PYTORCH_ALLOC_CONF=expandable_segments:True): gaps between blocks included.
        context: what the driver takes for the process, its kernels included.
        total: reserved and context.
        memory: of the GPU.
        verdict: "fits" also with torch's default segments, at their average waste; "tight": with
            expandable segments; or "does not fit".
    """

    allocated: int
    buffers: int
    reserved: int
    context: int
    memory: int
    verdict: str

    @property
    def total(self) -> int:
        return self.reserved + self.context


def fit(allocated: int, device: str | GPU) -> Fit:
    """What `allocated` bytes of tensors become on a GPU; margins are in data/device_memory.csv.

    Args:
        allocated: bytes of tensors at the peak.
        device: a `GPU`, or its name in data/gpus.csv.

    Raises:
        ValueError: there is no such GPU.
    """
    card = gpu(device) if isinstance(device, str) else device
    buffers = int(_margin("threads", card.name) * _margin("workspace", card.name))
    context = int(_margin("context", card.name))
    held = allocated + buffers
    reserved = int(held * (1 + _margin("gaps", card.name)))
    if held * _margin("segments", card.name) + context <= card.memory:
        verdict = "fits"
    else:
        verdict = "tight" if reserved + context <= card.memory else "does not fit"
    return Fit(allocated, buffers, reserved, context, card.memory, verdict)


def _margin(name: str, device: str) -> float:
    """The first row of that name for this GPU, by the first word of its name, or for all."""
    family = device.split("-")[0]
    return next(
        value for which, gpus, value in _margins() if which == name and {family, "all"} & gpus
    )


@cache
def _margins() -> tuple[tuple[str, frozenset[str], float], ...]:
    with (DATA / "device_memory.csv").open(newline="", encoding="utf-8") as file:
        return tuple(
            (row["name"], frozenset(row["gpus"].split()), float(row["value"]))
            for row in csv.DictReader(file)
        )
