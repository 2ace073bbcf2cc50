"""Two logarithmic axes, days and dollars, whose ticks move with the plans that they show.

To draw matplotlib's own again takes 150 ms; here ticks are words at computed places.
"""

from __future__ import annotations

import math

from ..planning.search import Candidate

STEPS = (1, 1.5, 2, 3, 5, 7)  # of an axis, in each decade


class Plane:
    """Days and dollars of plans on two logarithmic axes from 0 to 1, and their ticks."""

    def __init__(self, priced: list[Candidate]):
        self.days = round_ends([c.cost.days for c in priced])
        self.dollars = round_ends([c.cost.dollars for c in priced])

    def x(self, values) -> list[float]:
        return [_place(v, self.days) for v in values]

    def y(self, values) -> list[float]:
        return [_place(v, self.dollars) for v in values]

    @property
    def grid(self) -> tuple[list[float], list[float]]:
        """A line along all ticks, cut where it would go from one to the next."""
        across = [(x, y) for x in self.x(thinned(self.days)) for y in (0, 1, math.nan)]
        along = [(x, y) for y in self.y(thinned(self.dollars)) for x in (0, 1, math.nan)]
        xs, ys = zip(*across, *along, strict=True)
        return list(xs), list(ys)

    def words(self, where) -> list[tuple]:
        """The ticks' numbers."""
        days, dollars = thinned(self.days), thinned(self.dollars)
        return [
            (where, x, -0.02, f"{v:,.6g}", "mt", False)
            for x, v in zip(self.x(days), days, strict=True)
        ] + [
            (where, -0.01, y, f"${short(v)}", "rm", False)
            for y, v in zip(self.y(dollars), dollars, strict=True)
        ]


def round_ends(values: list[float]) -> list[float]:
    """Round numbers from below the smallest value to above the largest: an axis's ticks. From 1 to
    10 where there is no value."""
    low, high = min(values, default=1.15) / 1.15, max(values, default=7.6) * 1.3
    exponents = range(math.floor(math.log10(low)) - 1, math.ceil(math.log10(high)) + 1)
    steps = [s * 10.0**e for e in exponents for s in STEPS]
    begin = max(i for i, v in enumerate(steps) if v <= low * (1 + 1e-9))
    end = min(i for i, v in enumerate(steps) if v >= high * (1 - 1e-9))
    return [float(f"{v:.6g}") for v in steps[begin : end + 1]]


def thinned(ticks: list[float]) -> list[float]:
    """At most seven of the ticks."""
    return ticks[:: -(-len(ticks) // 7)]


def _place(value: float, ticks: list[float]) -> float:
    """Where a value lies between the first and the last tick, 0 to 1; beyond them at the edge."""
    low, high = math.log(ticks[0]), math.log(ticks[-1])
    return min(1.0, max(0.0, (math.log(value) - low) / (high - low)))


def short(dollars: float) -> str:
    """Dollars as an axis has room for: 150 k."""
    for size, letter in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if dollars >= size:
            return f"{dollars / size:g}{letter}"
    return f"{dollars:g}"
