"""A plan on one page, as HTML and as PDF: what runs, whether it fits, how long, what it costs, why.

`figures` draws, `pdf` lays out the PDF.
"""

from __future__ import annotations

import html
import warnings
from dataclasses import dataclass
from pathlib import Path

from ..footprint.step import memory
from ..speed.step import step_time
from ..units import GB, count, decimals, duration, gb
from . import launch
from .costs import TERMS, error_budget
from .figures import Figure, bars, frontier
from .pdf import pdf_bytes
from .search import Candidate, Plan
from .storage import checkpoint, token_files

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
        return pdf_bytes(self.title, self.facts, self.reason, self.figures, self.commands)

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
        if not plan.runs:
            lacks = plan.rejected[0].missing if plan.rejected else "no candidate at all"
            raise ValueError(f"plan: one without a feasible run given ({lacks}); allowed: one with")
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
        parts = step_time(run, chosen.device).parts
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
        title=f"{run.model.name} on {run.gpus} x {chosen.device.label}",
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
            f"${decimals(spent.dollars, 0)} (${decimals(dollars[0], 0)} to "
            f"${decimals(dollars[1], 0)}) at ${spent.price:.2f} per GPU-hour",
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
