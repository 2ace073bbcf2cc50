"""PlanDashboard: the runs that a deadline and a budget allow; one is looked at and exported."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

from matplotlib.patches import Rectangle

from ..architecture.model import presets
from ..footprint.step import PARTS, PHASES, Memory, memory
from ..hardware import gpu as card_of
from ..planning import launch
from ..planning.costs import FASTEST, SLOWEST, cost, error_budget, usual_price
from ..planning.scaling import TRAIN, optimal
from ..planning.search import Candidate, frontier, plan, within
from ..speed.step import StepTime, step_time
from ..units import count, decimals, gb
from . import style
from .base import Calculator, Result, decades, dropdown, powers_of_two, scale
from .costs import cards
from .html import Limit
from .plane import Plane
from .planner import TIME_COLOURS, TIME_PARTS
from .words import Words

COUNTS = powers_of_two(1, 4096)
BATCHES = tuple(powers_of_two(2**17, 2**24))  # tokens
RANKS = {"cheapest": "money", "quickest": "time"}
NONE, BEST = "", 0
HEAD, SCRIPT = "node-01:29500", "train.py"


@lru_cache(maxsize=1024)
def layout(model: str, gpu: str, number: int, batch: int) -> Candidate:
    """The quickest layout of so many GPUs, priced for one token; or what comes nearest to fitting.

    Neither time nor memory of a step depends on how many tokens follow, so that a slider over
    tokens, days or dollars searches nothing.
    """
    found = plan(
        model, {gpu: number}, 1.0, counts=(number,), batch=batch, rank="time", keep=1,
        prices={gpu: usual_price(gpu)},
    )  # fmt: skip
    return found.best or found.rejected[0]


def warm(model: str, names: list[str], batch: int) -> None:
    """Search every number of GPUs, so that the slider over them need not wait."""
    for name in names:
        for number in COUNTS:
            layout(model, name, number, batch)


def counts(most: int, look: int = BEST) -> list[int]:
    """Numbers of GPUs that are priced: powers of two, all that there are, and what is looked at.

    Raises:
        ValueError: more are looked at than there are.
    """
    if look > most:
        raise ValueError(f"look: {look} given; allowed: 0 (the best) to {most}, the GPUs there are")
    return sorted({*(n for n in COUNTS if n <= most), most, *([look] if look else [])})


def candidates(model, names, numbers, batch, tokens, deadline, budget) -> list[Candidate]:
    """The best layout of every card and number of GPUs, priced and held against the limits."""
    found = []
    for name in names:
        for number in numbers:
            one = layout(model, name, number, batch)
            if one.cost is not None:
                priced = cost(one.run, one.device, tokens, one.cost.price)
                one = within(replace(one, cost=priced), deadline, budget)
            found.append(one)
    return found


@lru_cache(maxsize=256)
def inside(candidate: Candidate) -> tuple[Memory, StepTime]:
    """Memory and time of a candidate's step."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return memory(candidate.run), step_time(candidate.run, candidate.device)


def _several_nodes(candidate: Candidate) -> str | None:
    return HEAD if candidate.gpus > launch.NODE else None


EXPORTS: dict[str, Callable[[Candidate], str]] = {
    "torchrun": lambda c: launch.torchrun(c.run, SCRIPT, head=_several_nodes(c)),
    "sbatch script": lambda c: launch.sbatch(c.run, SCRIPT, hours=c.cost.days_band[1] * 24),
    "DeepSpeed": lambda c: json.dumps(launch.deepspeed_config(c.run), indent=2),
    "accelerate": lambda c: json.dumps(
        launch.accelerate_config(c.run, head=_several_nodes(c)), indent=2
    ),
    "torchtitan": lambda c: launch.torchtitan_toml(
        c.run, steps=c.cost.steps, flavor=f"{c.run.model.parameters.total / 1e9:.2g}B"
    ),
}


def exported(candidate: Candidate, tool: str) -> str:
    """What starts a candidate with a tool, or why that tool cannot."""
    if candidate.cost is None:
        return f"nothing to start: {candidate.missing}"
    try:
        return EXPORTS[tool](candidate)
    except ValueError as error:
        return f"{tool} cannot start this run. {error}"


class PlanDashboard(Calculator):
    """Settings: model, tokens, gpu and other (a second card, "" for none), gpus (up to), batch
    (tokens), deadline (days), budget (dollars), rank ("money" or "time"), look (a number of GPUs, 0
    for the best) and export."""

    title = "Planner"
    size = (8.8, 3.7)
    wide = True

    def make_controls(self):
        priced = [(card_of(name).label, name) for name in cards() if "bf16" in card_of(name).peak]
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "tokens": scale("train on", decades(1e8, 3e13), 1e12, lambda v: f"{count(v)} tokens"),
            "gpu": dropdown("GPU", priced, "h100-sxm"),
            "other": dropdown("or GPU", [("no other", NONE), *priced], "a100-sxm-80gb"),
            "gpus": scale("up to", COUNTS, 128, lambda v: f"{v:,} GPUs"),
            "batch": dropdown("global batch", [(f"{count(b)} tokens", b) for b in BATCHES], 2**22),
            "deadline": scale("deadline", decades(0.1, 1000), 30.0, lambda v: f"{v:g} days"),
            "budget": scale("budget", decades(10, 1e9), 150_000, lambda v: f"${v:,.0f}"),
            "rank": dropdown("the best is", list(RANKS.items()), "money"),
            "look": scale(
                "look at", [BEST, *COUNTS], BEST, lambda v: f"{v:,} GPUs" if v else "the best"
            ),
            "export": dropdown("start it with", list(EXPORTS)),
        }

    def result(
        self, model, tokens, gpu, other, gpus, batch, deadline, budget, rank, look, export
    ) -> Result:
        names = list(dict.fromkeys(name for name in (gpu, other) if name))
        warm(model, names, batch)
        found = candidates(model, names, counts(gpus, look), batch, tokens, deadline, budget)
        chosen, best = _chosen(found, rank, look)
        feasible = [c for c in found if c.feasible]
        held, step = inside(chosen)
        return Result(
            value=chosen.cost.dollars if chosen.cost else 0,
            headline=_headline(chosen, best),
            formula=_formula(chosen, tokens),
            columns=("plan", "days", "dollars", "memory", "", "layout"),
            rows=tuple(_row(c, chosen, frontier(feasible)) for c in found),
            caption=_caption(found, feasible, chosen, held, step),
            notes=_notes(found, feasible, chosen, best, tokens),
            accuracy=(
                f"nine in ten published runs lie between {FASTEST:.2f} and {SLOWEST:.2f} "
                f"times the hours of a step without lost time; the widest term is "
                f"{next(iter(error_budget()))} (`python -m sizing.evidence`)."
            ),
            limit=Limit(
                *("the tensors of one step", held.total, chosen.capacity),
                *(chosen.device.label, chosen.fits),
            ),
            listing=exported(chosen, export),
            source="prices: "
            + ", ".join(f"{n} ${usual_price(n):.2f} per GPU-hour" for n in names)
            + ", the median of data/prices.csv.",
            data=(found, names, chosen, deadline, budget, held, step),
        )

    # --- the picture ---------------------------------------------------------------------

    def prepare(self, figure):
        money, inner = figure.subplots(1, 2, width_ratios=(1.45, 1))
        # Both axes are logarithms that run from 0 to 1, with ticks that move as the plans do: to
        # draw matplotlib's own again takes 150 ms.
        money.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        money.set_title(" ", fontsize=9)  # room for what the marks are
        money.set_xlabel("days", labelpad=18)
        money.set_ylabel("dollars", labelpad=52)
        (self._grid,) = money.plot([], [], color="#dddddd", linewidth=0.8, zorder=0)
        shade = {"facecolor": style.RED, "alpha": 0.10, "linewidth": 0}
        self._late = money.add_patch(Rectangle((0, 0), 0, 1, **shade))
        self._dear = money.add_patch(Rectangle((0, 0), 1, 0, **shade))
        (self._line,) = money.plot([], [], color=style.BLACK, linewidth=1)
        (self._band,) = money.plot([], [], color=style.RED, linewidth=3, alpha=0.6)
        marks = [("o", style.BLUE), ("s", style.ORANGE)]
        self._in = [money.plot([], [], m, color=c, markersize=8)[0] for m, c in marks]
        self._out = [
            money.plot([], [], m, color=c, markersize=8, fillstyle="none", markeredgewidth=1.4)[0]
            for m, c in marks
        ]
        (self._ring,) = money.plot(
            [], [], "o", color=style.RED, markersize=15, fillstyle="none", markeredgewidth=2
        )
        self._plane, self._inner = money.transData, inner.transData
        inner.set(xlim=(0, 1.5), xticks=[], ylim=(len(PHASES) + len(TIME_PARTS) + 1.6, -1.1))
        self._places = [*range(len(PHASES)), *(len(PHASES) + 1 + i for i in range(len(TIME_PARTS)))]
        inner.set_yticks(
            self._places, [*PHASES, *(n.replace("_", " ") for n in TIME_PARTS)], fontsize=8.5
        )
        inner.tick_params(length=0)
        inner.grid(visible=False)
        inner.spines["bottom"].set_visible(False)
        inner.text(0.01, -0.75, "memory, share of the card", fontsize=8.5, weight="bold")
        inner.text(0.01, len(PHASES) + 0.25, "step, share", fontsize=8.5, weight="bold")
        self._held = {
            part: inner.barh(range(len(PHASES)), [0] * len(PHASES), color=style.COLOURS[part])
            for part in PARTS
        }
        inner.legend(
            [bars[0] for bars in self._held.values()], PARTS, loc="lower right", fontsize=7.5
        )
        colours = [TIME_COLOURS[name] for name in TIME_PARTS]
        self._times = inner.barh(self._places[len(PHASES) :], [0] * len(TIME_PARTS), color=colours)
        (card,) = inner.plot([1, 1], [-0.5, len(PHASES) - 0.5], "--", color=style.BLACK)
        card.set_linewidth(1.4)
        self._words = figure.add_artist(Words())
        bars = [bar for each in self._held.values() for bar in each]
        return [
            self._grid, self._late, self._dear, self._line, self._band, *self._in, *self._out,
            self._ring, *bars, *self._times, card, self._words,
        ]  # fmt: skip

    def update(self, result):
        found, names, chosen, deadline, budget, held, step = result.data
        priced = [c for c in found if c.cost]
        feasible = [c for c in priced if c.feasible]
        plane = Plane(priced)

        def points(line, plans) -> None:
            line.set_data(
                plane.x([c.cost.days for c in plans]), plane.y(c.cost.dollars for c in plans)
            )

        for name, kept, over in zip([*names, None][:2], self._in, self._out, strict=True):
            of_card = [c for c in priced if c.gpu == name]
            points(kept, [c for c in of_card if c.feasible])
            points(over, [c for c in of_card if not c.feasible])
        points(self._line, frontier(feasible))
        at = [chosen] if chosen.cost else []
        points(self._ring, at)
        self._band.set_data(
            plane.x(chosen.cost.days_band) if at else [],
            plane.y([chosen.cost.dollars] * 2) if at else [],
        )
        (late,), (dear,) = plane.x([deadline]), plane.y([budget])
        self._late.set(x=late, width=1 - late)
        self._dear.set(y=dear, height=1 - dear)
        self._grid.set_data(*plane.grid)
        marks = zip(("circles", "squares"), names, strict=False)
        key = ", ".join(f"{mark}: {card_of(name).label}" for mark, name in marks)
        words = [*plane.words(self._plane), (self._plane, 0, 1.035, key, "lm", False)]
        for one in priced:
            (x,), (y,) = plane.x([one.cost.days]), plane.y([one.cost.dollars])
            above = 0.05 if one.gpu == names[0] else -0.05  # the cards' numbers would overlap
            words.append((self._plane, x, y + above, f"{one.gpus:,}", "mm", False))
        for row, phase in enumerate(PHASES):
            left = 0.0
            for part, bars in self._held.items():
                width = held.phases.get(phase, {}).get(part, 0) / chosen.capacity
                bars[row].set(x=left, width=min(width, max(0.0, 1.45 - left)))
                left += width
            words.append((self._inner, min(left, 1.2), row, f" {left:.0%}", "lm", False))
        for bar, y, seconds in zip(
            self._times, self._places[len(PHASES) :], step.parts.values(), strict=True
        ):
            share = seconds / step.total
            bar.set_width(share)
            if share >= 0.005:
                words.append((self._inner, share, y, f" {share:.1%}", "lm", False))
        self._words.items = words


# --- choosing ------------------------------------------------------------------------------------


def _chosen(found: list[Candidate], rank: str, look: int) -> tuple[Candidate, Candidate | None]:
    """The one looked at, and the best of all that keep the limits."""

    def order(one: Candidate) -> tuple:
        if one.cost is None:  # what comes nearest to fitting
            return (2, one.memory or math.inf)
        spent = (one.cost.dollars, one.cost.days)
        return (not one.feasible, *(spent if rank == "money" else spent[::-1]))

    best = min(found, key=order)
    best_of_all = best if best.feasible else None
    looked = [c for c in found if look in (BEST, c.gpus)]
    return min(looked, key=order), best_of_all


# --- words ---------------------------------------------------------------------------------------


def _name(one: Candidate) -> str:
    return f"{one.gpus:,} x {one.gpu}"


def days(value: float) -> str:
    """Days with what digits they need."""
    return f"{_number(value)} days"


def _number(value: float) -> str:
    """Three digits or more, and no exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _headline(chosen: Candidate, best: Candidate | None) -> str:
    if chosen.cost is None:
        return f"{_name(chosen)} does not fit"
    first = "best: " if chosen is best else "" if chosen.feasible else "beyond the limits: "
    return f"{first}{_name(chosen)}: {days(chosen.cost.days)}, ${decimals(chosen.cost.dollars, 0)}"


def _formula(chosen: Candidate, tokens: float) -> str:
    if chosen.cost is None:
        return chosen.missing
    spent, run = chosen.cost, chosen.run
    return (
        f"{count(tokens)} / {run.tokens:,} tokens = {spent.steps:,} steps; x {spent.step:.3g} s / "
        f"{spent.goodput.useful:.3f} useful = {days(spent.days)}; x {run.gpus:,} GPUs x 24 h x "
        f"${spent.price:.2f} = ${decimals(spent.compute, 0)}; "
        f"+ ${decimals(spent.storage, 0)} storage"
    )


def _row(one: Candidate, chosen: Candidate, edge: tuple[Candidate, ...]) -> tuple[str, ...]:
    mark = "looked at" if one is chosen else "frontier" if one in edge else ""
    name = f"{_name(one)}{f' ({mark})' if mark else ''}"
    held = gb(one.memory) if one.memory else ""
    if one.cost is None:
        return name, "", "", held, one.fits, one.layout
    verdict = one.fits if one.feasible else "over the limits"
    spent = one.cost
    return name, _number(spent.days), f"{spent.dollars:,.0f}", held, verdict, one.layout


def _caption(found, feasible, chosen: Candidate, held: Memory, step: StepTime) -> str:
    largest = max(step.parts, key=step.parts.get)
    return (
        f"Left: days and dollars of the {len([c for c in found if c.cost])} plans that fit, each "
        f"with its number of GPUs. Filled marks keep the deadline and the budget "
        f"({len(feasible)} do), red ground does not; the line joins those of which no other is "
        "both quicker and cheaper. Ringed: the plan looked at, with the band of its days. Right: "
        f"its memory by phase, at most {held.total / chosen.capacity:.0%} of the card in "
        f"{held.peak_phase}, and its step, {step.parts[largest] / step.total:.0%} of it "
        f"{largest.replace('_', ' ')}."
    )


def _notes(found, feasible, chosen: Candidate, best, tokens: float) -> tuple[str, ...]:
    notes = [f"{chosen.layout}: {chosen.fits}."]
    if chosen.cost:
        low, high = chosen.cost.days_band
        dear = chosen.cost.dollars_band
        notes.append(
            f"Band: {_number(low)} to {_number(high)} days, "
            f"${decimals(dear[0], 0)} to ${decimals(dear[1], 0)}."
        )
    if chosen.reason:
        notes.append(f"Why: {chosen.reason}.")
    if chosen.missing:
        notes.append(f"Missing: {chosen.missing}.")
    notes.append(f"{len(feasible)} of {len(found)} plans keep the limits.")
    if best and best is not chosen:
        notes.append(f"Best: {_headline(best, best).removeprefix('best: ')}.")
    parameters = chosen.run.model.parameters.active
    compute = TRAIN * parameters * tokens
    ideal = optimal(compute)
    notes.append(
        f"6ND = {compute:.2g} FLOP: best spent on {count(ideal.parameters)} parameters and "
        f"{count(ideal.tokens)} tokens ({ideal.fit})."
    )
    return tuple(notes)
