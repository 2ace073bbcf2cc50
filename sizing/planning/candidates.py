"""A run on a card, priced, and the words that say why it and what it lacks."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, fields, replace

from ..footprint.fit import communicators, fit, whole_layers_again
from ..hardware import GPU
from ..run import Run
from ..speed.step import step_time
from ..units import gb
from .costs import Cost


@dataclass(frozen=True)
class Candidate:
    """A run on a card, priced.

    Attributes:
        run: with its degrees.
        device: the card.
        memory: bytes at the peak of the fullest GPU.
        fits: "fits", "tight" or "does not fit", as `Memory.on` judges.
        cost: hours, days, dollars with their bands; None where it does not fit.
        reason: why this one, in words.
        missing: what it lacks, in words; empty for a feasible one.
    """

    run: Run
    device: GPU
    memory: int
    fits: str
    cost: Cost | None
    reason: str
    missing: str = ""

    @property
    def gpu(self) -> str:
        """The card's slug."""
        return self.device.name

    @property
    def capacity(self) -> int:
        """Bytes of the card."""
        return self.device.memory

    @property
    def feasible(self) -> bool:
        return not self.missing

    @property
    def gpus(self) -> int:
        return self.run.gpus

    @property
    def layout(self) -> str:
        """The fields that the search has set, in words."""
        return layout(self.run)


def layout(run: Run) -> str:
    """Degrees, ZeRO, recompute and micro-batch of a run in words, what is not used left out."""
    words = [
        f"{name} {degree}"
        for name, degree in (
            ("data", run.data),
            ("tensor", run.tensor),
            ("pipeline", run.pipeline),
            ("context", run.context),
            ("expert", run.expert),
            ("copies", run.replicate),
            ("stages per GPU", run.interleave),
        )
        if degree > 1
    ] or ["one GPU"]
    if run.zero:
        words.append(f"ZeRO-{run.zero}")
    if run.recompute != "none":
        words.append(f"{run.recompute} recompute")
    words.append(f"micro-batch {run.micro_batch} x {run.accumulation}")
    return ", ".join(words)


_PARTS = {
    "attention": "attention",
    "elementwise": "memory traffic between the matrix products",
    "recompute": "recompute",
    "host": "waiting for Python to launch kernels",
    "tensor_parallel": "tensor-parallel communication",
    "context_parallel": "context-parallel communication",
    "expert_parallel": "tokens on their way to experts",
    "pipeline_transfer": "messages between stages",
    "pipeline_bubble": "the pipeline's bubble",
    "data_parallel": "data-parallel communication",
    "optimizer": "the optimizer",
}


def priced_candidate(run, device, held, priced, skipped, network, node) -> Candidate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = step_time(run, device, network=network, node=node).parts
    total = sum(parts.values())
    largest = max(_PARTS, key=lambda name: parts[name])
    words = [
        f"{parts['matmul'] / total:.0%} of a step are matrix products, "
        f"{parts[largest] / total:.0%} {_PARTS[largest]}"
    ]
    if skipped:
        other, needed = skipped
        words.append(
            f"quicker would be {_difference(other, run)}, which needs {gb(needed)} of "
            f"{gb(device.memory)}"
        )
    elif run.gpus > 1:
        words.append("the quickest of all layouts on these GPUs")
    return Candidate(
        run, device, held,
        fit(held, device, communicators(run), again=whole_layers_again(run)).verdict, priced,
        "; ".join(words),
    )  # fmt: skip


def _difference(other: Run, run: Run) -> str:
    """What the other run does differently."""
    names = [field.name for field in fields(Run) if field.name not in ("model", "accumulation")]
    changed = [name for name in names if getattr(other, name) != getattr(run, name)]
    return ", ".join(f"{name}={getattr(other, name)!r}" for name in changed) or "the same"


def within(candidate: Candidate, deadline: float | None, budget: float | None) -> Candidate:
    """A priced candidate with what it lacks to be done in so many days and for so many dollars."""
    days, dollars = candidate.cost.days, candidate.cost.dollars
    lacks = []
    if deadline is not None and days > deadline:
        lacks.append(
            f"{days - deadline:,.1f} days over the deadline of {deadline:g}: it would take "
            f"{_up(days / deadline):.2f} times as many GPUs, or {_down(deadline / days)} of the "
            "tokens"
        )
    if budget is not None and dollars > budget:
        lacks.append(
            f"{dollars - budget:,.0f} dollars over the budget of {budget:,.0f}: it would take a "
            f"price of {candidate.cost.price * budget / dollars:.2f} dollars per GPU-hour, or "
            f"{_down(budget / dollars)} of the tokens"
        )
    return replace(candidate, missing="; ".join(lacks))


def _up(times: float) -> float:
    return math.ceil(100 * times) / 100


def _down(share: float) -> str:
    """A share that is kept if one does as it says."""
    return f"{math.floor(100 * share)}%" if share >= 0.01 else f"{share:.1g}"
