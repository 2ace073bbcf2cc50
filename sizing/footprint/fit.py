"""Whether a step fits a GPU: what its memory holds beside the tensors."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from ..hardware import GPU, gpu
from ..parallel import gradient_bytes
from ..recomputing import every_layer
from ..run import Run
from ..units import DATA

VERDICTS = ("fits", "tight", "does not fit")


@dataclass(frozen=True)
class Fit:
    """A step's memory on one GPU, in bytes.

    Attributes:
        allocated: what tensors hold at the peak, `Memory.total`.
        buffers: what libraries hold: cuBLAS's workspaces and an engine's buckets, which lie in
            torch's allocator as well, and NCCL's, which do not.
        reserved: what torch takes from the driver, with expandable segments
            (PYTORCH_ALLOC_CONF=expandable_segments:True): gaps between blocks included.
        reserved_band: from that to the worst that is known of torch's default segments, where
            layers are run again or are not.
        context: what the driver takes for the process, its kernels included.
        total: what nvidia-smi shows: reserved, NCCL's buffers and context.
        memory: of the GPU.
        verdict: "fits" also with torch's default segments, at their usual waste; "tight": with
            expandable segments; or "does not fit".
    """

    allocated: int
    buffers: int
    reserved: int
    context: int
    memory: int
    verdict: str
    reserved_band: tuple[int, int] = (0, 0)
    nccl: int = 0

    @property
    def total(self) -> int:
        return self.reserved + self.nccl + self.context


def communicators(run: Run) -> int:
    """Groups of GPUs that one GPU talks in, each with buffers of its own in NCCL."""
    divided = run.data // run.replicate
    return sum(n > 1 for n in (divided, run.replicate, run.tensor, run.pipeline, run.context))


def whole_layers_again(run: Run) -> bool:
    """Whether whole layers are run again in the backward pass.

    Then torch's default segments waste more. The logits, in fp32, are a step's largest blocks, and
    each is a segment of its own. What is allocated for longer, the optimizer's state above all, is
    laid into the one that the first step left, and the next step's logits need another. Kept
    activations fill the rest of the first one; where layers are run again there are few.
    """
    return every_layer(run.recompute) > 0


def fit(
    allocated: int, device: str | GPU, groups: int = 0, bucket: int = 0, again: bool = False
) -> Fit:
    """What `allocated` bytes of tensors become on a GPU; margins are in data/device_memory.csv.

    Args:
        allocated: bytes of tensors at the peak.
        device: a `GPU`, or its name in data/gpus.csv.
        groups: NCCL communicators of the GPU, see `communicators`.
        bucket: bytes of an engine's buckets, such as `deepspeed_buckets`.
        again: see `whole_layers_again`.

    Raises:
        ValueError: there is no such GPU.
    """
    card = gpu(device) if isinstance(device, str) else device
    workspaces, gaps, usual, worst, beside, nccl = _margins_of(card.name, groups, again)
    held = allocated + workspaces + bucket
    reserved = int(held * gaps)
    if held * usual + beside <= card.memory:
        verdict = "fits"
    else:
        verdict = "tight" if reserved + beside <= card.memory else "does not fit"
    band = (reserved, int(held * worst))
    buffers = workspaces + bucket + nccl
    return Fit(allocated, buffers, reserved, beside - nccl, card.memory, verdict, band, nccl)


def room(device: str | GPU, groups: int = 0, verdict: str = "tight", again: bool = False) -> int:
    """Bytes of tensors that a GPU takes at most for a verdict, "tight" or "fits".

    Raises:
        ValueError: there is no such GPU.
    """
    card = gpu(device) if isinstance(device, str) else device
    workspaces, gaps, usual, _, beside, _ = _margins_of(card.name, groups, again)
    return int((card.memory - beside) / (gaps if verdict == "tight" else usual)) - workspaces


def deepspeed_buckets(run: Run, elements: int | None = None) -> int:
    """Bytes that DeepSpeed holds to reduce gradients in: two buckets, of which one is filled while
    the other is sent (overlap_comm), in the gradients' dtype; under stage 0 none.

    Args:
        run: the training run.
        elements: reduce_bucket_size, 5e8 by default.
    """
    size = _margin("bucket", "") if elements is None else elements
    return int(2 * size * gradient_bytes(run)) if run.zero else 0


@cache
def _margins_of(name: str, groups: int, again: bool) -> tuple[int, float, float, float, int, int]:
    """Workspaces, what reserved is over allocated at best, as usual and at worst, what lies beside
    torch's allocator, NCCL's part of that."""
    nccl = groups * int(_margin("nccl_channel", name) * _margin("nccl_channels", name))
    kind = "sharded" if groups else "segments_again" if again else "segments"
    return (
        int(_margin("threads", name) * _margin("workspace", name)),
        1 + _margin("gaps", name),
        _margin(kind, name),
        _margin(f"{kind}_worst", name),
        int(_margin("context", name)) + nccl,
        nccl,
    )


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
