"""Hours, days and energy of published runs beside what `sizing.cost` says of them.

The layouts are rows of data/layouts.csv. Where one is published it is taken as it is. Where none
is, the run gets the quickest layout that fits with full recompute: the safe choice, which most runs
of 2020 to 2023 that say something made. `python -m sizing.evidence` prints the table.
"""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from ..architecture.model import Model
from ..compute import six_nd
from ..hardware import gpu as find_gpu
from ..planning.costs import FASTEST, SLOWEST, TERMS, Cost, cost, megatron_days
from ..planning.search import plan
from ..run import Run
from ..units import DATA, HOUR

BATCH = 2**22  # tokens in a step where the paper prints none
RULE = 0.40  # MFU of the rule of thumb: 6 N D at 40 %
NEAR = {True: 0.2, False: 0.3}  # the error aimed at, with a published layout and without


@dataclass(frozen=True)
class Published:
    """A published run.

    Attributes:
        name: in data/runs.csv.
        run: with its layout, or the one that it gets here.
        gpu: the card's slug.
        tokens: seen in training.
        hours: GPU-hours as published, or GPUs times days.
        flops: 6 N D, N the parameters that a token meets.
        known: whether its layout is published.
        network: bytes/s that each GPU has between nodes.
        steps_only: whether the published hours are steps times seconds, without any time lost.
        why: a sentence on a prediction that is far off.
    """

    name: str
    run: Run
    gpu: str
    tokens: float
    hours: float
    flops: float
    known: bool
    network: float
    steps_only: bool
    why: str

    @property
    def mfu(self) -> float:
        """The utilisation that the published hours imply."""
        return implied_mfu(self.flops, self.hours, self.gpu)


@dataclass(frozen=True)
class Compared:
    """A published run beside its prediction."""

    published: Published
    cost: Cost

    @property
    def hours(self) -> float:
        """Predicted GPU-hours, of what the published ones count."""
        useful = self.cost.goodput.useful if self.published.steps_only else 1.0
        return self.cost.gpu_hours * useful

    @property
    def error(self) -> float:
        """Predicted GPU-hours over published ones, less one."""
        return self.hours / self.published.hours - 1

    @property
    def near(self) -> bool:
        """Whether the error is within what is aimed at."""
        return abs(self.error) <= NEAR[self.published.known]

    @property
    def band(self) -> tuple[float, float]:
        """GPU-hours, low and high end, without lost time where the published ones have none."""
        low, high = self.cost.band
        lost = next(term for term in TERMS if term.name == "lost time")
        return low, high / (lost.high if self.published.steps_only else 1)

    @property
    def within(self) -> bool:
        """Whether the band contains the published hours."""
        low, high = self.band
        return low <= self.published.hours <= high

    @property
    def rule(self) -> float:
        """The error of 6 N D at 40 % MFU."""
        return self.published.mfu / RULE - 1


def implied_mfu(flops: float, hours: float, gpu: str) -> float:
    """Model FLOPs, 6 N D, over what the dense 16-bit peak would do in so many device-hours."""
    card = find_gpu(gpu)
    peak = card.peak_flops("bf16" if "bf16" in card.peak else "fp16")
    return flops / (hours * HOUR * peak)


def _table(name: str) -> dict[str, dict[str, str]]:
    """{name: row} of a table in data/."""
    with (DATA / f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file)}


def _hours(row: dict[str, str]) -> float:
    """Device-hours of a row of data/runs.csv: as printed, or devices times days; 0 without both."""
    return float(row["gpu_hours"] or float(row["gpus"] or 0) * float(row["days"] or 0) * 24)


def _flops(row: dict[str, str]) -> float:
    return six_nd(float(row["active_params"] or row["params"]), float(row["tokens"] or 0))


@lru_cache
def published() -> tuple[Published, ...]:
    """Runs of data/layouts.csv whose hours data/runs.csv has."""
    runs = _table("runs")
    return tuple(_published(row, runs[name]) for name, row in _table("layouts").items())


def unpredicted() -> list[tuple[str, float, float, float | None]]:
    """(name, hours, implied MFU, printed MFU) of published runs without a prediction: TPUs, and
    GPUs that were assumed and not seen."""
    known = _table("layouts")
    return [
        (
            name,
            _hours(row),
            implied_mfu(_flops(row), _hours(row), row["gpu"]),
            float(row["mfu"]) if row["mfu"] else None,
        )
        for name, row in _table("runs").items()
        if row["kind"] == "run" and name not in known and _hours(row) and row["tokens"]
    ]


def _published(layout: dict[str, str], row: dict[str, str]) -> Published:
    source = layout["model"]
    model = Model(json.loads(source), name=row["name"]) if source[0] == "{" else Model(source)
    network = float(layout["network_gb_s"]) * 1e9
    run = _as_given(model, layout) if layout["data"] else _usual(model, layout, row, network)
    return Published(
        name=row["name"],
        run=run,
        gpu=row["gpu"],
        tokens=float(row["tokens"]),
        hours=_hours(row),
        flops=_flops(row),
        known=layout["published"] == "yes",
        network=network,
        steps_only=layout["hours"] == "steps",
        why=layout["why"],
    )


def _as_given(model: Model, layout: dict[str, str]) -> Run:
    numbers = ("sequence", "micro_batch", "accumulation", "data", "zero", "tensor", "pipeline")
    words = ("precision", "gradients", "recompute", "attention", "engine")
    return Run(
        model,
        optimizer="adamw-fused",
        interleave=int(layout["virtual"] or 1),
        replicate=int(layout["replicate"] or 1),
        expert=int(layout["expert"] or 1),
        overlap_dispatch=layout["overlap_dispatch"] == "yes",
        scaling=layout["scaling"] or None,
        sequence_parallel=layout["sequence_parallel"] != "no",
        **{name: int(layout[name]) for name in numbers},
        **{name: layout[name] for name in words},
    )


def _usual(model: Model, layout: dict[str, str], row: dict[str, str], network: float) -> Run:
    """The quickest layout that fits with full recompute, on a power of two of GPUs; with the ZeRO
    stage, the copies and the engine of which the source speaks."""
    most = int(row["gpus"] or 1024)
    number = min(2048, 2 ** (most.bit_length() - 1))
    template = Run(
        model,
        sequence=int(layout["sequence"]),
        precision=layout["precision"],
        gradients="fp32" if layout["precision"] == "bf16-master" else "same",
        optimizer="adamw-fused",
        recompute="full",
        engine=layout["engine"] or None,
        replicate=int(layout["replicate"] or 1),
    )
    said = {"zero": (int(layout["zero"]),)} if layout["zero"] else {}
    batch = float(row["batch_tokens"] or BATCH)
    found = plan(
        template,
        {row["gpu"]: number},
        1e9,
        counts=(number,),
        batch=batch,
        rank="time",
        prices={row["gpu"]: 1.0},
        network=network,
        keep=1,
        vary={"recompute": ("full",)} | said,
    )
    if found.best is None:
        raise ValueError(f"{row['name']}: no layout found\n{found}\n{found.dropped}")
    return found.best.run


@lru_cache
def compare(row: Published) -> Compared:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        whole = cost(row.run, row.gpu, row.tokens, 1.0, network=row.network)
    return Compared(row, whole)


def table() -> list[Compared]:
    return [compare(row) for row in published()]


@dataclass(frozen=True)
class Energy:
    """Metered energy of a run beside what `sizing.cost` says."""

    name: str
    metered: float  # kWh
    predicted: float  # kWh

    @property
    def error(self) -> float:
        return self.predicted / self.metered - 1


def energy() -> list[Energy]:
    """OLMo 2 7B, whose nodes were metered; its layout is OLMo-core's for one micro-batch of two."""
    with (DATA / "energy.csv").open(newline="", encoding="utf-8") as file:
        rows = {row["name"]: row for row in csv.DictReader(file)}
    run = Run(
        "olmo-2-7b",
        sequence=4096,
        micro_batch=2,
        precision="bf16-master",
        optimizer="adamw-fused",
        data=512,
        zero=3,
    )
    spent = cost(run, "h100-sxm", 4.05e12, 1.0)
    return [Energy("OLMo 2 7B", float(rows["OLMo 2 7B"]["mwh"]) * 1000, spent.energy)]


# The closed forms that papers print of their own runs.
MEGATRON = (
    # Narayanan et al. (arXiv:2104.04473), section 5.1: parameters, tokens, GPUs, FLOP/s, days.
    ("GPT-3 175B on 1024 A100s", 175e9, 300e9, 1024, 140e12, 34),
    ("1T on 3072 A100s", 1e12, 450e9, 3072, 163e12, 84),
)
# DeepSeek-AI (arXiv:2412.19437), Table 1: H800 hours of all phases, dollars per hour, dollars.
DEEPSEEK = (2_664_000, 119_000, 5_000, 2.0, 5.576e6)


def text() -> str:
    """The tables as printed."""
    rows = table()
    lines = [
        "GPU-hours of published runs: predicted, error, band, MFU that the published ones imply",
        f"{'':<22} {'layout':>9} {'published':>11} {'predicted':>11} {'error':>7} "
        f"{'low':>11} {'high':>11} {'in':>3} {'MFU':>5}",
    ]
    for row in rows:
        run, (low, high) = row.published, row.band
        lines.append(
            f"{run.name:<22} {'published' if run.known else 'ours':>9} {run.hours:11,.0f} "
            f"{row.hours:11,.0f} {row.error:+7.0%} {low:11,.0f} {high:11,.0f} "
            f"{'yes' if row.within else 'no':>3} {run.mfu:5.0%}"
        )
    for known, name in ((True, "layout published"), (False, "layout ours")):
        chosen = [row for row in rows if row.published.known == known]
        close = sum(row.near for row in chosen)
        lines.append(
            f"{name}: {len(chosen)} runs, median error "
            f"{median(abs(row.error) for row in chosen):.0%}, {close} within {NEAR[known]:.0%}"
        )
    inside = sum(row.within for row in rows)
    rule = median(abs(row.rule) for row in rows)
    lines += [
        f"bands of {FASTEST:.2f} to {SLOWEST:.2f} times the hours without loss hold {inside} of "
        f"{len(rows)}; 6ND at {RULE:.0%} MFU is {rule:.0%} off in the median",
        "",
        "Why the others are further off",
        *(f"{row.published.name:<22} {row.published.why}" for row in rows if not row.near),
        "",
        "MFU that the published hours of other runs imply, and MFU as printed",
    ]
    for name, taken, mfu, printed in unpredicted():
        beside = f"{printed:6.0%}" if printed else "     -"
        lines.append(f"{name:<22} {taken:21,.0f} {mfu:6.0%} {beside}")
    lines += [
        "",
        "Days by Megatron-LM's rule, 8TP/nX",
    ]
    for name, size, tokens, number, rate, printed in MEGATRON:
        days = megatron_days(size, tokens, number, rate)
        lines.append(f"{name:<26} {days:5.1f} days, printed {printed}")
    *phases, dollars, printed = DEEPSEEK
    whole = next(row.published for row in rows if row.published.name == "DeepSeek-V3")
    lines += [
        f"DeepSeek-V3: {sum(phases):,} hours at {dollars:.2f} dollars: "
        f"{sum(phases) * dollars / 1e6:.3f} M, printed {printed / 1e6:.3f} M; "
        f"MFU {implied_mfu(whole.flops, sum(phases), whole.gpu):.1%} of the 16-bit peak, "
        f"{whole.mfu:.1%} in pre-training alone",
        "",
        "Energy at the nodes",
    ]
    for row in energy():
        lines.append(
            f"{row.name:<12} {row.predicted / 1000:6.0f} MWh, metered {row.metered / 1000:.0f} "
            f"({row.error:+.0%})"
        )
    return "\n".join(lines)
