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
from ..planning.costs import FASTEST, SLOWEST, Cost, cost, megatron_days
from ..planning.search import plan
from ..run import Run
from ..units import DATA, HOUR

BATCH = 2**22  # tokens in a step where the paper prints none
RULE = 0.40  # MFU of the rule of thumb: 6 N D at 40 %


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
    """

    name: str
    run: Run
    gpu: str
    tokens: float
    hours: float
    flops: float
    known: bool
    network: float

    @property
    def mfu(self) -> float:
        """The utilisation that the published hours imply: 6 N D over what the peak would do."""
        dtype = "fp16" if "fp16" in self.run.precision else "bf16"
        return self.flops / (self.hours * HOUR * find_gpu(self.gpu).peak_flops(dtype))


@dataclass(frozen=True)
class Compared:
    """A published run beside its prediction."""

    published: Published
    cost: Cost

    @property
    def error(self) -> float:
        """Predicted GPU-hours over published ones, less one."""
        return self.cost.gpu_hours / self.published.hours - 1

    @property
    def within(self) -> bool:
        """Whether the band contains the published hours."""
        low, high = self.cost.band
        return low <= self.published.hours <= high

    @property
    def rule(self) -> float:
        """The error of 6 N D at 40 % MFU."""
        return self.published.mfu / RULE - 1


@lru_cache
def published() -> tuple[Published, ...]:
    """Runs of data/layouts.csv whose hours data/runs.csv has."""
    with (DATA / "runs.csv").open(newline="", encoding="utf-8") as file:
        runs = {row["name"]: row for row in csv.DictReader(file)}
    with (DATA / "layouts.csv").open(newline="", encoding="utf-8") as file:
        return tuple(_published(row, runs[row["name"]]) for row in csv.DictReader(file))


def _published(layout: dict[str, str], row: dict[str, str]) -> Published:
    source = layout["model"]
    model = Model(json.loads(source), name=row["name"]) if source[0] == "{" else Model(source)
    hours = row["gpu_hours"] or float(row["gpus"]) * float(row["days"]) * 24
    network = float(layout["network_gb_s"]) * 1e9
    run = _as_given(model, layout) if layout["data"] else _usual(model, layout, row, network)
    size = float(row["active_params"] or row["params"])
    return Published(
        name=row["name"],
        run=run,
        gpu=row["gpu"],
        tokens=float(row["tokens"]),
        hours=float(hours),
        flops=six_nd(size, float(row["tokens"])),
        known=layout["published"] == "yes",
        network=network,
    )


def _as_given(model: Model, layout: dict[str, str]) -> Run:
    numbers = ("sequence", "micro_batch", "accumulation", "data", "zero", "tensor", "pipeline")
    words = ("precision", "gradients", "recompute", "attention", "engine")
    return Run(
        model,
        optimizer="adamw-fused",
        interleave=int(layout["virtual"] or 1),
        sequence_parallel=layout["sequence_parallel"] != "no",
        **{name: int(layout[name]) for name in numbers},
        **{name: layout[name] for name in words},
    )


def _usual(model: Model, layout: dict[str, str], row: dict[str, str], network: float) -> Run:
    """The quickest layout that fits with full recompute, on a power of two of GPUs."""
    most = int(row["gpus"] or 1024)
    number = min(2048, 2 ** (most.bit_length() - 1))
    template = Run(
        model,
        sequence=int(layout["sequence"]),
        precision=layout["precision"],
        gradients="fp32" if layout["precision"] == "bf16-master" else "same",
        optimizer="adamw-fused",
        recompute="full",
    )
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
        vary={"recompute": ("full",)},
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
        run, (low, high) = row.published, row.cost.band
        lines.append(
            f"{run.name:<22} {'published' if run.known else 'ours':>9} {run.hours:11,.0f} "
            f"{row.cost.gpu_hours:11,.0f} {row.error:+7.0%} {low:11,.0f} {high:11,.0f} "
            f"{'yes' if row.within else 'no':>3} {run.mfu:5.0%}"
        )
    for known, name in ((True, "layout published"), (False, "layout ours")):
        chosen = [row for row in rows if row.published.known == known]
        limit = 0.2 if known else 0.3
        close = sum(abs(row.error) <= limit for row in chosen)
        lines.append(
            f"{name}: {len(chosen)} runs, median error "
            f"{median(abs(row.error) for row in chosen):.0%}, {close} within {limit:.0%}"
        )
    inside = sum(row.within for row in rows)
    rule = median(abs(row.rule) for row in rows)
    lines += [
        f"bands of {FASTEST:.2f} to {SLOWEST:.2f} times the hours without loss hold {inside} of "
        f"{len(rows)}; 6ND at {RULE:.0%} MFU is {rule:.0%} off in the median",
        "",
        "Days by Megatron-LM's rule, 8TP/nX",
    ]
    for name, size, tokens, number, rate, printed in MEGATRON:
        days = megatron_days(size, tokens, number, rate)
        lines.append(f"{name:<26} {days:5.1f} days, printed {printed}")
    *phases, dollars, printed = DEEPSEEK
    lines += [
        f"DeepSeek-V3: {sum(phases):,} hours at {dollars:.2f} dollars: "
        f"{sum(phases) * dollars / 1e6:.3f} M, printed {printed / 1e6:.3f} M",
        "",
        "Energy at the nodes",
    ]
    for row in energy():
        lines.append(
            f"{row.name:<12} {row.predicted / 1000:6.0f} MWh, metered {row.metered / 1000:.0f} "
            f"({row.error:+.0%})"
        )
    return "\n".join(lines)
