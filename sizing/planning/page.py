"""A plan on one page, as HTML and as PDF: what runs, whether it fits, how long, what it costs, why.

Every figure is a list of shapes, drawn as SVG into the HTML and as vector graphics into the PDF.
Neither needs a library.
"""

from __future__ import annotations

import html
import math
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from ..footprint.step import memory
from ..hardware import gpu as find_gpu
from ..speed.step import step_time
from ..units import GB, count, duration, gb
from . import launch
from .costs import TERMS, error_budget
from .search import Candidate, Plan
from .storage import checkpoint, token_files

# Okabe and Ito's colours, which people with colour blindness tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#999999")
INK, PALE = "#222222", "#dddddd"


# --- Figures -------------------------------------------------------------------------------------


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
            f'fill="{INK}">{html.escape(text)}</text>'
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
    colours = {part: COLOURS[i % len(COLOURS)] for i, part in enumerate(parts)}
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
        figure.lines.append((x, 14, x, bottom, INK))
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

    figure.lines += [(50, 25, 50, 140, INK), (50, 140, 345, 140, INK)]
    best = [place(c) for c in plan.frontier]
    figure.lines += [(*a, *b, COLOURS[0]) for a, b in pairwise(best)]
    figure.dots += [(*place(c), 2.5, "#999999") for c in plan.runs]
    figure.dots += [(*point, 3.0, COLOURS[0]) for point in best]
    x, y = place(chosen)
    figure.dots.append((x, y, 4.5, COLOURS[5]))
    figure.texts += [
        *((across(10.0**n), 152, 8, f"{10.0**n:g}", "middle") for n in range(first, far + 1)),
        (345, 165, 8, "days", "end"),
        (46, 30, 8, f"${_short(dear)}", "end"),
        (4, 165, 8, "orange: this plan; blue: nothing is both quicker and cheaper", "start"),
    ]
    return figure


def _short(dollars: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if dollars >= size:
            return f"{dollars / size:.3g} {letter}"
    return f"{dollars:.3g}"


# --- What is said --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """A plan on one page.

    Attributes:
        title: its headline.
        facts: (what, value) pairs.
        reason: why this run, in words.
        figures: memory, step, error budget and, of a `Plan`, the frontier.
        commands: (tool, text) of how it is started.
    """

    title: str
    facts: tuple[tuple[str, str], ...]
    reason: str
    figures: tuple[Figure, ...]
    commands: tuple[tuple[str, str], ...]

    def html(self) -> str:
        """A whole HTML document that needs no other file."""
        rows = "".join(
            f"<tr><th>{html.escape(name)}</th><td>{html.escape(value)}</td></tr>"
            for name, value in self.facts
        )
        figures = "".join(f"<figure>{figure.svg()}</figure>" for figure in self.figures)
        commands = "".join(
            f"<h2>{html.escape(tool)}</h2><pre>{html.escape(text)}</pre>"
            for tool, text in self.commands
        )
        return _HTML.format(
            title=html.escape(self.title),
            rows=rows,
            reason=html.escape(self.reason),
            figures=figures,
            commands=commands,
        )

    def pdf(self) -> bytes:
        """One A4 page."""
        return _pdf(self)

    def save(self, path: str | Path) -> Path:
        """Write the report; the ending says how.

        Raises:
            ValueError: neither .html nor .pdf.
        """
        path = Path(path)
        if path.suffix == ".html":
            path.write_text(self.html(), encoding="utf-8")
        elif path.suffix == ".pdf":
            path.write_bytes(self.pdf())
        else:
            raise ValueError(f"path: {str(path)!r} given; allowed: a name in .html or .pdf")
        return path

    def _repr_html_(self) -> str:
        return self.html()


_HTML = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title><style>
body {{ font: 14px/1.4 Helvetica, Arial, sans-serif; color: #222; max-width: 60em;
  margin: 1em auto; }}
h1 {{ font-size: 1.4em; }} h2 {{ font-size: 1em; margin-bottom: 0; }}
th {{ text-align: left; font-weight: normal; color: #555; padding-right: 2em; }}
.figures {{ display: grid; grid-template-columns: 1fr 1fr; gap: 1em; }}
figure {{ margin: 0; }} pre {{ background: #f4f4f4; padding: .5em; overflow-x: auto; }}
</style></head><body><h1>{title}</h1><table>{rows}</table><p>{reason}</p>
<div class="figures">{figures}</div>{commands}</body></html>
"""


def report(plan: Plan | Candidate, which: int = 0, script: str = "train.py") -> Report:
    """A plan's run on one page: `report(plan).save("plan.pdf")`.

    Args:
        plan: what `sizing.plan` found, or one of its candidates.
        which: number of the run in `plan.runs`.
        script: what each process runs.

    Raises:
        ValueError: a plan without a feasible run, or a candidate that does not fit.
    """
    if isinstance(plan, Plan):
        if not 0 <= which < len(plan.runs):
            raise ValueError(
                f"which: {which!r} given; allowed: a number below {len(plan.runs)}, the feasible "
                "runs of the plan"
            )
        chosen = plan.runs[which]
    else:
        chosen = plan
    if chosen.cost is None:
        raise ValueError(f"plan: a candidate that does not fit given: {chosen.missing}")
    run, spent = chosen.run, chosen.cost
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        phases = memory(run).phases
        parts = step_time(run, chosen.gpu).parts
    figures = [
        bars(
            "Memory by phase on the fullest GPU (GB; line: the card)",
            {n: {k: v / GB for k, v in p.items() if v} for n, p in phases.items()},
            "GB",
            chosen.capacity / GB,
        ),
        bars(
            "An optimizer step by part (s)",
            {name.replace("_", " "): {"time": value} for name, value in parts.items() if value},
            "s",
        ),
        bars(
            "Where the wall-clock time goes (%)",
            {"run": {k: 100 * v for k, v in _goodput(spent.goodput).items() if v > 0}},
            "%",
        ),
        _error_figure(),
    ]
    if isinstance(plan, Plan) and len(plan.runs) > 1:
        figures.append(frontier(plan, chosen))
    return Report(
        title=f"{run.model.name} on {run.gpus} x {find_gpu(chosen.gpu).label}",
        facts=_facts(chosen),
        reason=f"Why: {chosen.reason}. The widest term of the band is "
        f"{next(iter(error_budget()))}.",
        figures=tuple(figures),
        commands=_commands(chosen, script),
    )


def _goodput(share) -> dict[str, float]:
    return {
        "useful steps": share.useful,
        "failures": share.failures,
        "saves": share.saves,
        "evaluation": share.evaluation,
        "preemption": share.preemption,
    }


def _error_figure() -> Figure:
    widths = error_budget()
    names = {term.name: f"{term.low:.2f} to {term.high:.2f}" for term in TERMS}
    rows = {"width": {f"{name} ({names[name]})": 100 * w for name, w in widths.items()}}
    return bars("Error budget: what makes the band wide (%)", rows, "%")


def _facts(chosen: Candidate) -> tuple[tuple[str, str], ...]:
    run, spent = chosen.run, chosen.cost
    tokens = spent.steps * run.tokens
    days, dollars, hours = spent.days_band, spent.dollars_band, spent.band
    saved = checkpoint(run)
    files = token_files(tokens, run.model.vocab, sequence=run.sequence)
    return (
        ("model", f"{run.model.name}, {count(run.model.parameters.total)} parameters"),
        ("tokens", f"{count(tokens)} in {spent.steps:,} steps of {count(run.tokens)}"),
        ("layout", f"{chosen.layout}; {run.precision}, {run.optimizer}"),
        ("memory", f"{gb(chosen.memory)} of {gb(chosen.capacity)}: {chosen.fits}"),
        ("step", f"{duration(spent.step)}, {spent.goodput.useful:.1%} of the time in useful steps"),
        ("time", f"{spent.days:,.1f} days ({days[0]:,.1f} to {days[1]:,.1f})"),
        ("GPU-hours", f"{spent.gpu_hours:,.0f} ({hours[0]:,.0f} to {hours[1]:,.0f})"),
        (
            "money",
            f"${spent.dollars:,.0f} (${dollars[0]:,.0f} to ${dollars[1]:,.0f}) at "
            f"${spent.price:.2f} per GPU-hour",
        ),
        ("energy", f"{spent.facility / 1000:,.0f} MWh, {spent.carbon / 1000:,.0f} t CO2e"),
        (
            "disk",
            f"data {gb(files.total)}, checkpoint {gb(saved.total)} every "
            f"{duration(spent.saving.interval)}",
        ),
    )


def _commands(chosen: Candidate, script: str) -> tuple[tuple[str, str], ...]:
    run = chosen.run
    head = "node-01:29500"
    found = [("torchrun", launch.torchrun(run, script, head=head))]
    hours = chosen.cost.days_band[1] * 24
    found.append(("sbatch", launch.sbatch(run, script, hours=hours)))
    return tuple(found)


# --- PDF -----------------------------------------------------------------------------------------

_A4 = (595, 842)  # points
_MARGIN = 40


def _pdf(page: Report) -> bytes:
    """A page of text and figures: PDF 1.4 with one of its standard fonts (ISO 32000-1, 9.6.2.2)."""
    drawn: list[str] = []
    y = _A4[1] - _MARGIN
    y = _write(drawn, page.title, 15, y) - 4
    for name, value in page.facts:
        _put(drawn, _MARGIN, y, 8.5, name)
        _put(drawn, _MARGIN + 70, y, 8.5, value)
        y -= 12
    for line in _wrapped(page.reason, 118):
        y = _write(drawn, line, 8.5, y)
    y -= 4
    left, tallest = True, 0.0
    scale = (_A4[0] - 2 * _MARGIN - 15) / 2 / 360
    for figure in page.figures:
        x = _MARGIN if left else _MARGIN + 360 * scale + 15
        _draw(drawn, figure, x, y, scale)
        tallest = max(tallest, figure.height * scale)
        if not left:
            y, tallest = y - tallest - 10, 0.0
        left = not left
    y -= tallest + 12
    for tool, text in page.commands:
        for line in (f"{tool}:", *text.splitlines()):
            for part in _wrapped(line, 118):
                if y > _MARGIN:
                    y = _write(drawn, part, 7, y)
    return _document("\n".join(drawn))


def _write(drawn: list[str], text: str, size: float, y: float) -> float:
    _put(drawn, _MARGIN, y, size, text)
    return y - 1.35 * size


def _wrapped(text: str, width: int) -> list[str]:
    lines, line = [], ""
    for word in text.split(" "):
        if line and len(line) + len(word) + 1 > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}" if line else word
    return [*lines, line]


def _put(drawn: list[str], x: float, y: float, size: float, text: str) -> None:
    escaped = text.replace("\\", r"\\").replace("(", r"\(").replace(")", r"\)")
    drawn.append(f"0 g BT /F1 {size:g} Tf {x:.1f} {y:.1f} Td ({escaped}) Tj ET")


def _colour(code: str) -> str:
    return " ".join(f"{int(code[i : i + 2], 16) / 255:.3f}" for i in (1, 3, 5))


def _draw(drawn: list[str], figure: Figure, left: float, top: float, scale: float) -> None:
    def x(value: float) -> float:
        return left + value * scale

    def y(value: float) -> float:
        return top - value * scale

    for a, b, w, h, colour in figure.rectangles:
        drawn.append(
            f"{_colour(colour)} rg {x(a):.1f} {y(b + h):.1f} {w * scale:.1f} {h * scale:.1f} re f"
        )
    for a, b, c, d, colour in figure.lines:
        drawn.append(f"{_colour(colour)} RG {x(a):.1f} {y(b):.1f} m {x(c):.1f} {y(d):.1f} l S")
    for a, b, r, colour in figure.dots:
        side = 1.8 * r * scale
        corner = f"{x(a) - side / 2:.1f} {y(b) - side / 2:.1f}"
        drawn.append(f"{_colour(colour)} rg {corner} {side:.1f} {side:.1f} re f")
    for a, b, size, text, anchor in figure.texts:
        # Helvetica's letters are about half as wide as high.
        shift = {"start": 0.0, "middle": 0.25, "end": 0.5}[anchor] * size * len(text)
        _put(drawn, x(a - shift), y(b), size * scale, text)


def _document(content: str) -> bytes:
    stream = content.encode("cp1252", errors="replace")
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 %d %d] /Contents 4 0 R "
        b"/Resources << /Font << /F1 5 0 R >> >> >>" % _A4,
        b"<< /Length %d >>\nstream\n%s\nendstream" % (len(stream), stream),
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica /Encoding /WinAnsiEncoding >>",
    ]
    written, places = b"%PDF-1.4\n", []
    for number, body in enumerate(objects, start=1):
        places.append(len(written))
        written += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    table = b"".join(b"%010d 00000 n \n" % place for place in places)
    return written + (
        b"xref\n0 %d\n0000000000 65535 f \n%strailer\n<< /Size %d /Root 1 0 R >>\nstartxref\n%d\n"
        b"%%%%EOF\n" % (len(objects) + 1, table, len(objects) + 1, len(written))
    )
