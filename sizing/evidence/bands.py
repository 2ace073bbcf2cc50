"""What `step_time` says of itself: errors by engine, card and kind, and whether its bands hold."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable
from functools import lru_cache

from ..run import Run
from ..speed.trust import KINDS, TABLE, group_of, trust
from . import ultrascale
from .published_runs import Compared, judged, size

_TRUST = (
    "engine", "card", "kind", "runs", "sources", "least_gpus", "most_gpus", "least_parameters",
    "most_parameters", "median", "low", "high",
)  # fmt: skip


def trusted() -> list[dict[str, str]]:
    """data/step_time_error.csv: errors by engine, card and kind, then of all published rows, beside
    which nanotron's runs of one source would weigh too much."""
    rows = _trust_rows(judged())
    nodes = ultrascale.held_out(ultrascale.compare(row) for row in ultrascale.measured())
    key = ("nanotron", "h100-sxm", KINDS[0])
    pairs = [(row.measured.run, row.throughput_error, "Ultra-Scale") for row in nodes]
    engines = [row for row in rows if row["engine"] != "all"]
    ordered = sorted(
        [*engines, _trust_row(key, pairs)],
        key=lambda row: (row["engine"], row["card"], row["kind"]),
    )
    return ordered + [row for row in rows if row["engine"] == "all"]


def _trust_rows(rows: Iterable[Compared]) -> list[dict[str, str]]:
    found: dict[tuple[str, str, str], list[tuple[Run, float, str]]] = {}
    for c in rows:
        key = (c.row.run.engine, c.row.gpu, c.row.kind)
        found.setdefault(key, []).append((c.row.run, c.error, c.row.group))
    every = [pair for pairs in found.values() for pair in pairs]
    groups = [_trust_row(key, pairs) for key, pairs in sorted(found.items())]
    for kind in KINDS:
        of_kind = [pair for key, pairs in found.items() if key[2] == kind for pair in pairs]
        if of_kind:
            groups.append(_trust_row(("all", "all", kind), of_kind, equal=True))
    return [*groups, _trust_row(("all", "all", "all"), every, equal=True)]


def _trust_row(
    key: tuple[str, str, str], pairs: list[tuple[Run, float, str]], equal: bool = False
) -> dict[str, str]:
    """A row of the table; `equal`: each source counts as much as any other, for bands of a source
    that nobody has seen."""
    found = sorted(error for _, error, _ in pairs)
    rows_of = Counter(source for _, _, source in pairs)
    weighed = sorted((error, 1 / rows_of[source] if equal else 1) for _, error, source in pairs)
    gpus = [run.gpus for run, _, _ in pairs]
    sizes = [run.model.parameters.total for run, _, _ in pairs]
    sources = len({source for _, _, source in pairs})
    low, high = (_quantile(weighed, part) for part in (0.1, 0.9))
    values = (
        *key, len(found), sources, min(gpus), max(gpus), min(sizes), max(sizes),
        f"{size(found):.3f}", f"{min(low, -0.02):.3f}", f"{max(high, 0.02):.3f}",
    )  # fmt: skip
    return dict(zip(_TRUST, map(str, values), strict=True))


def _quantile(weighed: list[tuple[float, float]], part: float) -> float:
    """The value below which a part of the weight lies, of (value, weight), the outer of two."""
    total, below = sum(weight for _, weight in weighed), 0.0
    order = weighed if part < 0.5 else weighed[::-1]
    for value, weight in order:
        below += weight
        if below > min(part, 1 - part) * total:
            return value
    return order[-1][0]


@lru_cache
def left_out() -> dict[str, list[bool]]:
    """{source: of each of its rows, whether it lies in the band that all other sources give it}."""
    held: dict[str, list[bool]] = {}
    for source in sorted({c.row.group for c in judged()}):
        rest = [c for c in judged() if c.row.group != source]
        groups = tuple(map(group_of, _trust_rows(rest)))
        for c in judged():
            if c.row.group == source:
                low, high = trust(c.row.run, c.row.gpu, c.time.total, groups).band
                inside = low <= c.time.total * (1 + c.error) <= high
                held.setdefault(source, []).append(inside)
    return held


def record_trust() -> None:
    """Write data/step_time_error.csv."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _TRUST, lineterminator="\n")
        writer.writeheader()
        writer.writerows(trusted())
