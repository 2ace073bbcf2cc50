"""BatchCalculator: time per token against peak memory, for each recompute and micro-batch."""

from __future__ import annotations

import csv
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from ..architecture.model import Model, presets
from ..compute import flops
from ..footprint.fit import fit, room
from ..footprint.step import memory
from ..hardware import GPU, gpus
from ..hardware import gpu as card_of
from ..run import CHOICES, Run
from ..speed.step import step_time
from ..units import DATA, duration, gb
from . import style
from .anatomy import accuracy
from .base import Calculator, Result, dropdown, powers_of_two, scale
from .html import Limit
from .run_controls import BATCHES

RECOMPUTE = CHOICES["recompute"]
COLOURS = dict(zip(RECOMPUTE, (style.BLUE, style.ORANGE, style.GREEN), strict=True))
SHARES = (0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)  # of the device's memory
SLOWDOWNS = (1, 1.2, 1.5, 2, 3, 5, 10, 20, 50, 100)  # time per token over the fastest drawn
KNEE = 1.1  # a micro-batch is past the knee if it is no slower than this, over the largest


@dataclass(frozen=True)
class Point:
    """One micro-batch: bytes at the peak, and seconds per token."""

    micro_batch: int
    peak: int
    seconds: float


def point(run: Run, card: GPU) -> Point:
    """Peak memory and time per token of a run on one GPU."""
    peak = memory(run).total
    return Point(run.micro_batch, peak, step_time(run, card).total / run.tokens)


def curve(run: Run, card: GPU) -> list[Point]:
    """The points of all micro-batches; nothing else of the run changes."""
    return [point(replace(run, micro_batch=size), card) for size in BATCHES]


def largest(points: list[Point], available: float) -> Point | None:
    """The largest micro-batch that fits, None where none does."""
    return max(
        (p for p in points if p.peak <= available), key=lambda p: p.micro_batch, default=None
    )


def knee(points: list[Point]) -> Point:
    """The smallest micro-batch within 10 % of the time that the largest takes a token."""
    least = points[-1].seconds
    return next(p for p in points if p.seconds <= KNEE * least)


def flops_ratio(run: Run) -> float:
    """FLOPs executed over those without recompute, as PyTorch recomputes."""
    work = flops(run)
    return work.total / work.model


@cache
def time_error() -> tuple[int, float]:
    """(runs, median error) of the time formula, over the runs of data/parallel_error.csv that did
    not calibrate it. The error is a fraction of the measured tokens per second."""
    with (DATA / "parallel_error.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["calibration"] == "0"]
    errors = [abs(float(r["predicted_tok_s_gpu"]) / float(r["tok_s_gpu"]) - 1) for r in rows]
    return len(errors), median(errors)


class BatchCalculator(Calculator):
    """Memory against time for AdamW under bf16 autocast on one GPU. Settings: model, sequence,
    micro_batch, accumulation, recompute, attention (as in `sizing.Run`) and gpu."""

    title = "Batch and recompute"
    size = (8.8, 4.0)

    def make_controls(self):
        cards = [(card_of(name).label, name) for name in gpus() if "bf16" in card_of(name).peak]
        return {
            "model": dropdown("model", list(presets()), "llama-3.2-1b"),
            "sequence": scale(
                "sequence", powers_of_two(128, 131072), 2048, lambda v: f"{v:,} tokens"
            ),
            "micro_batch": scale("micro-batch", BATCHES, 4, str),
            "accumulation": scale("accumulation", powers_of_two(1, 256), 1, str),
            "recompute": dropdown("recompute", RECOMPUTE, "none"),
            "attention": dropdown("attention", CHOICES["attention"], "flash"),
            "gpu": dropdown("GPU", cards, "h100-sxm"),
        }

    def result(self, model, recompute, gpu, **settings) -> Result:
        card = card_of(gpu)
        runs = {each: Run(Model(model), recompute=each, **settings) for each in RECOMPUTE}
        run = runs[recompute]
        curves = {}
        for each, possible in runs.items():
            try:
                curves[each] = curve(possible, card)
            except ValueError:  # some families have no attention core to be selected
                if each in (recompute, "none"):
                    raise
        at = {each: point(runs[each], card) for each in curves}
        now, plain = at[recompute], at["none"]
        rows = []
        for each, points in curves.items():
            here, best = at[each], largest(points, room(card))
            rows.append((
                each,
                gb(here.peak),
                f"{flops_ratio(runs[each]):.3f} ×",
                f"{here.seconds / plain.seconds:.2f} ×",
                str(best.micro_batch) if best else "none",
                duration(best.seconds) if best else "",
                fit(here.peak, card).verdict,
            ))  # fmt: skip
        turn = knee(curves[recompute])
        step = now.seconds * run.tokens
        return Result(
            value=now.seconds,
            headline=f"{duration(now.seconds)} per token, {gb(now.peak)} at the peak",
            formula=(
                f"step / (accumulation x micro-batch x sequence) = {duration(step)} / "
                f"({run.accumulation} x {run.micro_batch} x {run.sequence:,}) = "
                f"{duration(now.seconds)}"
            ),
            columns=(
                f"micro-batch {run.micro_batch}, recompute",
                "peak",
                "FLOPs, of none",
                "time per token, of none",
                "largest that fits",
                "its time per token",
                "verdict",
            ),
            rows=tuple(rows),
            caption=(
                "Each mark is a micro-batch, from 1 at the top left to 128 at the right: peak as a "
                "share of the device, against time per token over the fastest drawn. Right of the "
                "dashed line nothing fits: the context and the allocator take the rest. Where a "
                "line turns level, more memory buys no time: "
                f"with recompute {recompute}, from micro-batch {turn.micro_batch} on."
            ),
            notes=_notes(run, now),
            accuracy=(
                f"memory: {accuracy()} Time: {time_error()[1]:.1%} in the median over "
                f"{time_error()[0]} published runs on H100s without recompute "
                "(data/parallel_error.csv), kernels launched one by one; with recompute untested."
            ),
            limit=Limit(
                *("the tensors of one step", now.peak, card.memory, card.label),
                fit(now.peak, card).verdict,
            ),
            data=(curves, now, card),
        )

    def prepare(self, figure):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log")
        axes.set(xlabel="peak, share of the device's memory", ylabel="time per token, relative")
        axes.set_xticks(SHARES, [f"{100 * share:,g}%" for share in SHARES])
        axes.set_yticks(SLOWDOWNS, [f"{ratio:g} ×" for ratio in SLOWDOWNS])
        axes.minorticks_off()
        self._over = axes.axvspan(1, 1e6, color="#dddddd", alpha=0.5, lw=0)
        self._end = axes.axvline(1, color=style.RED, linestyle="--")
        corner = axes.get_xaxis_transform()
        axes.text(1.04, 0.98, "does not fit", color=style.RED, va="top", transform=corner)
        self._axes, self._limits = axes, None
        # None is drawn last and thin: where selective recompute has nothing to do both show.
        self._lines = {
            name: axes.plot([], [], "o-", color=COLOURS[name], markersize=4,
                            label=f"recompute {name}", lw=4 if name == "selective" else 1.8)[0]
            for name in ("selective", "full", "none")
        }  # fmt: skip
        (self._here,) = axes.plot(
            [], [], "o", markersize=13, markerfacecolor="none", markeredgewidth=2.5,
            color=style.BLACK, label="chosen",
        )  # fmt: skip
        figure.legend(loc="outside upper center", ncols=4, fontsize=9)
        return [self._over, self._end, *self._lines.values(), self._here]

    def update(self, result):
        curves, now, card = result.data
        available, full = card.memory, room(card) / card.memory
        self._over.set_x(full)
        self._end.set_xdata([full, full])
        fastest = min(p.seconds for points in curves.values() for p in points)
        for name, line in self._lines.items():
            points = curves.get(name, [])
            line.set_data(
                [p.peak / available for p in points], [p.seconds / fastest for p in points]
            )
        self._here.set_data([now.peak / available], [now.seconds / fastest])
        drawn = [p for points in curves.values() for p in points] + [now]
        shares = [p.peak / available for p in drawn]
        slowest = max(p.seconds for p in drawn) / fastest
        limits = _around(min(*shares, 1), max(*shares, 1), SHARES), _around(1, slowest, SLOWDOWNS)
        if self._limits is None:
            self._lay_out()
        if limits != self._limits:
            self._limits = limits
            self._axes.set(xlim=limits[0], ylim=(0.95, limits[1][1]))
            self.redraw()

    def _lay_out(self) -> None:
        """Make room for every tick label once: to do it at each move takes a third of its time."""
        self._axes.set(xlim=(SHARES[0], SHARES[-1]), ylim=(SLOWDOWNS[0], SLOWDOWNS[-1]))
        self.redraw()
        self._figure.set_layout_engine("none")


def _around(least: float, most: float, ticks: tuple[float, ...]) -> tuple[float, float]:
    """The nearest ticks outside of both; the last ones beyond the ticks."""
    low = max((tick for tick in ticks if tick < least), default=ticks[0])
    return low, min((tick for tick in ticks if tick > most), default=ticks[-1])


def _notes(run: Run, now: Point) -> tuple[str, ...]:
    notes = [f"{run.tokens:,} tokens per step, {flops_ratio(run):.3f} × the FLOPs of none."]
    if run.accumulation > 1:
        once = memory(replace(run, accumulation=1)).total
        notes.append(
            f"Gradients stay between micro-batches: {gb(now.peak - once)} more than one alone."
            if now.peak > once
            else "Gradients stay between micro-batches, below this peak."
        )
    if run.recompute == "selective" and run.attention == "flash":
        notes.append(
            "Flash attention keeps no scores: selective recompute is per operation, and keeps "
            "every second matrix product."
        )
    return tuple(notes)
