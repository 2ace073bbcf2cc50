"""Figures of a report as lists of shapes: bars of parts, and time against money.

Drawn as SVG into its HTML, and by `pdf` into its PDF. Neither needs a library.
"""

from __future__ import annotations

import html
import math
from dataclasses import dataclass, field
from itertools import pairwise

from ..palette import BLACK, BLUE, COLOURS, GREY, RED, SERIES
from .search import Candidate, Plan


@dataclass
class Figure:
    """Shapes on a sheet of so many points, y downwards.

    Attributes:
        rectangles: (x, y, width, height, colour).
        lines: (x, y, x, y, colour).
        dots: (x, y, radius, colour).
        texts: (x, y, size, text, anchor), anchor "start", "middle" or "end".
    """

    width: float
    height: float
    title: str
    rectangles: list = field(default_factory=list)
    lines: list = field(default_factory=list)
    dots: list = field(default_factory=list)
    texts: list = field(default_factory=list)

    def svg(self) -> str:
        """The figure as an SVG element."""
        shapes = [
            f'<rect x="{x:.1f}" y="{y:.1f}" width="{w:.1f}" height="{h:.1f}" fill="{colour}"/>'
            for x, y, w, h, colour in self.rectangles
        ]
        shapes += [
            f'<line x1="{a:.1f}" y1="{b:.1f}" x2="{c:.1f}" y2="{d:.1f}" stroke="{colour}"/>'
            for a, b, c, d, colour in self.lines
        ]
        shapes += [
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}" fill="{colour}"/>'
            for x, y, r, colour in self.dots
        ]
        shapes += [
            f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" '
            f'fill="{BLACK}">{html.escape(text)}</text>'
            for x, y, size, text, anchor in self.texts
        ]
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {self.width:g} {self.height:g}" '
            f'role="img" aria-label="{html.escape(self.title, quote=True)}" '
            f'font-family="Helvetica, Arial, sans-serif">{"".join(shapes)}</svg>'
        )


def bars(title: str, rows: dict[str, dict[str, float]], unit: str, limit: float = 0.0) -> Figure:
    """Stacked horizontal bars: {row: {part: value}}; a line at `limit`, if any."""
    parts = list(dict.fromkeys(part for row in rows.values() for part in row))
    others = [part for part in parts if part not in COLOURS]
    colours = COLOURS | {part: SERIES[i % len(SERIES)] for i, part in enumerate(others)}
    longest = max([limit, *(sum(row.values()) for row in rows.values())]) or 1.0
    columns = 3 if max(map(len, parts)) < 24 else 1
    legend = -(-len(parts) // columns)
    figure = Figure(360, 34 + 18 * len(rows) + 12 * legend, title)
    figure.texts.append((0, 11, 10, title, "start"))
    left, scale = 78.0, 225.0 / longest
    for number, (name, row) in enumerate(rows.items()):
        top, x = 18 + 18 * number, left
        figure.texts.append((left - 4, top + 10, 8, name, "end"))
        for part, value in row.items():
            figure.rectangles.append((x, top, value * scale, 13, colours[part]))
            x += value * scale
        figure.texts.append((x + 3, top + 10, 8, f"{sum(row.values()):.3g} {unit}", "start"))
    bottom = 18 + 18 * len(rows)
    if limit:
        x = left + limit * scale
        figure.lines.append((x, 14, x, bottom, BLACK))
    for number, part in enumerate(parts):
        x, y = 4 + 118 * (number % columns), bottom + 12 * (number // columns) + 10
        figure.rectangles.append((x, y - 6, 7, 7, colours[part]))
        figure.texts.append((x + 10, y, 7, part.replace("_", " "), "start"))
    return figure


def frontier(plan: Plan, chosen: Candidate) -> Figure:
    """Days against dollars of all feasible candidates; those that nothing beats are joined."""
    title = "Time against money of the runs that are feasible"
    figure = Figure(360, 170, title)
    figure.texts.append((0, 11, 10, title, "start"))
    days = [c.cost.days for c in plan.runs]
    dear = max(c.cost.dollars for c in plan.runs) * 1.08
    # Counts of GPUs are halves of each other: days by their logarithm.
    first, far = math.floor(math.log10(min(days))), math.ceil(math.log10(max(days)) + 1e-9)

    def across(day: float) -> float:
        return 50 + 295 * (math.log10(day) - first) / (far - first)

    def place(candidate: Candidate) -> tuple[float, float]:
        return across(candidate.cost.days), 140 - 115 * candidate.cost.dollars / dear

    figure.lines += [(50, 25, 50, 140, BLACK), (50, 140, 345, 140, BLACK)]
    best = [place(c) for c in plan.frontier]
    figure.lines += [(*a, *b, BLUE) for a, b in pairwise(best)]
    figure.dots += [(*place(c), 2.5, GREY) for c in plan.runs]
    figure.dots += [(*point, 3.0, BLUE) for point in best]
    x, y = place(chosen)
    figure.dots.append((x, y, 4.5, RED))
    figure.texts += [
        *((across(10.0**n), 152, 8, f"{10.0**n:g}", "middle") for n in range(first, far + 1)),
        (345, 165, 8, "days", "end"),
        (46, 30, 8, f"${_short(dear)}", "end"),
        (4, 165, 8, "red: this plan; blue: nothing is both quicker and cheaper", "start"),
    ]
    return figure


def _short(dollars: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if dollars >= size:
            return f"{dollars / size:.3g} {letter}"
    return f"{dollars:.3g}"
