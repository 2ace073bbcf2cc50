"""How far a step's seconds can be trusted: the published runs that are nearest to it.

data/step_time_error.csv holds a row for each engine, card and kind of run that `sizing.evidence`
compares with published runs, and how far off those are; `python -m sizing.evidence record
published` writes it.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from ..run import Run
from ..units import DATA
from .engines import PLAIN

KINDS = ("16 bits, dense", "fp8 matmuls", "adapters", "mixtures of experts")
TABLE = DATA / "step_time_error.csv"
FEW = 5  # runs below which their spread says little, and the band is that of all of their kind
SOURCES = 3  # that printed them, at least: else a band is that of a source nobody has seen
REACH = 2  # times beyond the largest, or below the smallest published run that still interpolates


def kind_of(run: Run) -> str:
    """Which of `KINDS` a run is: those are off by different amounts."""
    if run.lora is not None:
        return KINDS[2]
    if any(w.chosen is not None for block in run.model.blocks for w in block.weights):
        return KINDS[3]
    return KINDS[1] if run.recipe.products == "fp8" else KINDS[0]


@dataclass(frozen=True)
class Group:
    """Published runs of one engine, card and kind, and how far off `step_time` is on them.

    Attributes:
        engine, card, kind: of the runs.
        runs: how many; none of them set a constant.
        sources: that printed them.
        gpus, parameters: the smallest and the largest.
        median: of the error's size.
        low, high: errors, predicted over published rate less one, that eight in ten lie between.
    """

    engine: str
    card: str
    kind: str
    runs: int
    sources: int
    gpus: tuple[int, int]
    parameters: tuple[float, float]
    median: float
    low: float
    high: float


@dataclass(frozen=True)
class Trust:
    """What published runs say of a prediction.

    Attributes:
        interpolates: whether runs of its engine, card and kind, of about its size, are published.
        beyond: in which ways it is not: some of "engine", "card", "kind", "GPUs", "model size".
        group: the nearest published runs.
        band: (low, high) seconds that eight in ten published runs like those would lie between;
            where it extrapolates, or those are few or of few sources, as wide as that of all runs,
            and of all of its kind, each source counting the same. Of a source whose rows no band
            knows it holds eight in ten as well (`sizing.evidence.bands.left_out`).
    """

    interpolates: bool
    beyond: tuple[str, ...]
    group: Group
    band: tuple[float, float]

    def __str__(self) -> str:
        how = "interpolates" if self.interpolates else f"extrapolates in {', '.join(self.beyond)}"
        group = self.group
        return (
            f"{how}: nearest are {group.runs} published runs of {group.engine} on {group.card} "
            f"({group.kind}), median error {group.median:.1%}; "
            f"{self.band[0]:.3g} to {self.band[1]:.3g} s"
        )


def trust(run: Run, card: str, seconds: float, groups: tuple[Group, ...] | None = None) -> Trust:
    """How near published runs are to a run that is said to take so many seconds on a card; all of
    them, unless `groups` are given."""
    engine, kind = run.engine or PLAIN, kind_of(run)
    groups = groups or _groups()
    near = max(
        (group for group in groups if group.engine != "all"),
        key=lambda g: (
            2 * (g.kind == kind) + 2 * (g.engine == engine) + (g.card == card),
            g.engine == engine,
            g.runs,
        ),
    )
    beyond = [
        name
        for name, mine, theirs in (
            ("engine", engine, near.engine),
            ("card", card, near.card),
            ("kind", kind, near.kind),
        )
        if mine != theirs
    ]
    for name, value, (least, most) in (
        ("GPUs", run.gpus, near.gpus),
        ("model size", run.model.parameters.total, near.parameters),
    ):
        if not least / REACH <= value <= most * REACH:
            beyond.append(name)
    low, high = near.low, near.high
    if beyond or near.runs < FEW or near.sources < SOURCES:
        for every in groups:
            if every.engine == "all" and every.kind in (kind, "all"):
                low, high = min(low, every.low), max(high, every.high)
    return Trust(not beyond, tuple(beyond), near, (seconds * (1 + low), seconds * (1 + high)))


@cache
def _groups() -> tuple[Group, ...]:
    with TABLE.open(newline="", encoding="utf-8") as file:
        return tuple(group_of(row) for row in csv.DictReader(file))


def group_of(row: dict[str, str]) -> Group:
    """A row of data/step_time_error.csv."""
    return Group(
        engine=row["engine"],
        card=row["card"],
        kind=row["kind"],
        runs=int(row["runs"]),
        sources=int(row["sources"]),
        gpus=(int(row["least_gpus"]), int(row["most_gpus"])),
        parameters=(float(row["least_parameters"]), float(row["most_parameters"])),
        median=float(row["median"]),
        low=float(row["low"]),
        high=float(row["high"]),
    )
