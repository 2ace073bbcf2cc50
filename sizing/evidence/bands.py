"""What `step_time` says of itself: errors by engine, card and kind, and whether its bands hold."""

from __future__ import annotations

import csv
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
    return (
        sorted(
            [*rows[:-1], _trust_row(key, pairs)],
            key=lambda row: (row["engine"], row["card"], row["kind"]),
        )
        + rows[-1:]
    )


def _trust_rows(rows: Iterable[Compared]) -> list[dict[str, str]]:
    found: dict[tuple[str, str, str], list[tuple[Run, float, str]]] = {}
    for c in rows:
        key = (c.row.run.engine, c.row.gpu, c.row.kind)
        found.setdefault(key, []).append((c.row.run, c.error, c.row.group))
    every = [pair for pairs in found.values() for pair in pairs]
    groups = [_trust_row(key, pairs) for key, pairs in sorted(found.items())]
    return [*groups, _trust_row(("all", "all", "all"), every)]


def _trust_row(key: tuple[str, str, str], pairs: list[tuple[Run, float, str]]) -> dict[str, str]:
    found = sorted(error for _, error, _ in pairs)
    gpus = [run.gpus for run, _, _ in pairs]
    sizes = [run.model.parameters.total for run, _, _ in pairs]
    sources = len({source for _, _, source in pairs})
    tenth = int(0.1 * (len(found) - 1))
    values = (
        *key, len(found), sources, min(gpus), max(gpus), min(sizes), max(sizes),
        f"{size(found):.3f}", f"{min(found[tenth], -0.02):.3f}",
        f"{max(found[-1 - tenth], 0.02):.3f}",
    )  # fmt: skip
    return dict(zip(_TRUST, map(str, values), strict=True))


@lru_cache
def left_out() -> list[bool]:
    """Of each row, whether it lies in the band that the rows of all other sources give it."""
    held = []
    for source in sorted({c.row.group for c in judged()}):
        rest = [c for c in judged() if c.row.group != source]
        groups = tuple(map(group_of, _trust_rows(rest)))
        for c in judged():
            if c.row.group == source:
                low, high = trust(c.row.run, c.row.gpu, c.time.total, groups).band
                held.append(low <= c.time.total * (1 + c.error) <= high)
    return held


def record_trust() -> None:
    """Write data/step_time_error.csv."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _TRUST, lineterminator="\n")
        writer.writeheader()
        writer.writerows(trusted())
