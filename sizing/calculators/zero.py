"""ZeROStages: what a GPU holds and sends under ZeRO 0 to 3, and where more GPUs stop helping."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, replace
from functools import cache
from itertools import zip_longest
from math import log
from statistics import median
from typing import ClassVar

from ..footprint.step import PARTS, Memory, memory, model_state
from ..hardware import GPU, gpus
from ..hardware import gpu as card_of
from ..parallel import RING_PASSES, Communication, communication
from ..run import CHOICES, Run
from ..speed.rates import NODE, sustained_rates
from ..speed.step import StepTime, step_time
from ..units import DATA, GB, count, duration, gb
from . import run_controls, style
from .anatomy import MODEL_STATE, accuracy, round_up
from .base import Calculator, Result, decades, dropdown, powers_of_two, scale
from .html import Limit

STAGES = CHOICES["zero"]
DEGREES = powers_of_two(1, 4096)
ENDLESS = 2**40  # ranks: what is divided by them is less than a byte per million parameters
NEAR = 0.05  # of the peak over endless GPUs: nearer, more GPUs free nothing worth having
NETWORKS = (1, 10, 25, 100, 200, 400, 800)  # Gbit/s
GBIT = 1e9 / 8  # bytes
TICKS = 5
LINE = 0.045  # between names at the ends of lines, of the height
COLLECTIVES = {
    "all_reduce": style.BLACK,
    "reduce_scatter": style.YELLOW,
    "all_gather": "#999999",
}
PEAKS = decades(1e6, 1e15, (1, 2, 5))  # bytes, for the ticks of the third picture
MARKS = 12


@dataclass(frozen=True)
class Stage:
    """One ZeRO stage of a run: what the fullest GPU holds, what each sends, how long a step is.

    `moving` are the seconds that the bytes need at the rate of a ring, hidden or not; `time` is
    None where it is not known, as with offload.
    """

    run: Run
    memory: Memory
    communication: Communication
    time: StepTime | None
    moving: float

    @property
    def state(self) -> tuple[float, float, float]:
        """(parameters, gradients, optimizer) bytes of a rank, gradients kept through the step."""
        held = self.memory
        return held.parameters, held.gradients, held.optimizer

    @property
    def computing(self) -> float | None:
        """Seconds of the step without communication."""
        return self.time and self.time.total - self.time.data_parallel


def stage(run: Run, card: GPU, network: float) -> Stage:
    """What ZeRO does to a run. `network` is bytes/s that each GPU has between nodes of 8; a GPU
    without a known link has a node of its own."""
    node = NODE if card.link else 1
    try:
        time = step_time(run, card, network=network, node=node)
    except ValueError:
        time = None
    rate = sustained_rates(card, "bf16", network, node)
    moved = communication(run)
    moving = sum(
        t.calls * rate.collective(t.collective, t.ranks, t.stride, t.payload)
        for t in moved.transfers
    )
    return Stage(run, memory(run), moved, time, moving)


def peaks(run: Run) -> list[int]:
    """Peak bytes of a GPU for every degree; nothing else of the run changes."""
    return [memory(replace(run, data=degree)).total for degree in DEGREES]


def endless(run: Run) -> int:
    """Peak bytes over so many GPUs that all that is divided is gone."""
    return memory(replace(run, data=ENDLESS)).total


def enough(run: Run, near: float = NEAR) -> int:
    """GPUs from which the peak stays within `near` of that over endless GPUs.

    A peak is a + b / GPUs within a phase: it only falls, and half of what is left goes with each
    doubling. Beyond the last of the degrees, it is the next power of two that is enough.
    """
    least, degree = endless(run), 2
    while memory(replace(run, data=degree)).total > (1 + near) * least:
        degree *= 2
    return degree


@cache
def cluster_error() -> tuple[int, float, float]:
    """(runs, median error of memory, of time) as fractions, over the runs of
    data/parallel_error.csv that calibrated nothing, split no layers and have an MFU above 10 %:
    data parallelism alone, ZeRO 0 and 1."""
    with (DATA / "parallel_error.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            row
            for row in csv.DictReader(file)
            if row["calibration"] == "0"
            and row["pp"] == row["tp"] == "1"
            and float(row["mfu_pct"]) > 10
        ]
    return len(rows), *(
        median(abs(float(row[column])) / 100 for row in rows)
        for column in ("memory_error_pct", "throughput_error_pct")
    )


def _possible(settings: dict, chosen: bool) -> Run | None:
    """The run at a stage, or None where no engine runs it; of the chosen one the error."""
    try:
        run = run_controls.run_of(settings, {"zero"})
        memory(run)
        communication(run)
    except ValueError:
        if chosen:
            raise
        return None
    return run


class ZeROStages(Calculator):
    """Bytes that a GPU holds and sends under each ZeRO stage. Settings: the fields of `sizing.Run`
    (data is the number of GPUs where nothing else is split), `lora` as the adapters' rank, those of
    `sizing.Lora`; gpu, and network (Gbit/s that each GPU has between nodes of 8)."""

    title = "ZeRO stages"
    size = (8.8, 4.0)
    wide = True
    groups: ClassVar[dict[str, tuple[str, ...]]] = run_controls.GROUPS
    folded = run_controls.FOLDED

    def make_controls(self):
        cards = [(card_of(name).label, name) for name in gpus() if "bf16" in card_of(name).peak]
        own = {
            "gpu": dropdown("GPU", cards, "h100-sxm"),
            "network": scale("network", NETWORKS, 400, lambda v: f"{v} Gbit/s"),
            "data": scale("GPUs", DEGREES, 64, lambda v: f"{v:,}"),
        }
        given = {"model": "llama-3.1-8b", "zero": 3, "precision": "bf16-master",
                 "optimizer": "adamw-fused", "sequence": 4096}  # fmt: skip
        names = [name for group in self.groups.values() for name in group]
        return {
            name: own.get(name) or run_controls.control(name, given.get(name)) for name in names
        }

    def without_effect(self, gpu, network, **settings) -> set[str]:
        return run_controls.idle(settings) - {"zero"}

    def result(self, zero, gpu, network, **settings) -> Result:
        card = card_of(gpu)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # stages that one would not choose
            runs = [_possible(settings | {"zero": each}, each == zero) for each in STAGES]
            tried = [run and stage(run, card, network * GBIT) for run in runs]
            curves = [run and peaks(run) for run in runs]
            now = tried[zero]
            notes = _notes(now, tried, card)
        held, sent = now.memory.total, now.communication.total
        verdict = now.memory.on(card).verdict
        return Result(
            value=held,
            headline=f"{gb(held)} at the peak of a GPU, {gb(sent)} sent per step",
            formula=_formula(now),
            columns=("stage", "peak", "its phase", "model state", "the rest", "verdict",
                     "sent per step", "on its way", "of computing"),
            rows=tuple(_row(each, card, run) for each, run in zip(tried, STAGES, strict=True)),
            caption=_caption(now, tried),
            accuracy=_accuracy(),
            limit=Limit("the tensors of one step", held, card.memory, card.label, verdict),
            notes=notes,
            data=(tried, curves, zero, now.run.data, card),
        )  # fmt: skip

    def prepare(self, figure):
        held, sent, degrees = figure.subplots(1, 3, width_ratios=(1.15, 0.9, 1.3))
        self._stacks = {
            part: held.bar(STAGES, [0] * 4, 0.7, color=style.COLOURS[part], label=part)
            for part in PARTS
        }
        self._moved_bars = {
            kind: sent.bar(STAGES, [0] * 4, 0.7, color=colour, label=kind.replace("_", "-"))
            for kind, colour in COLLECTIVES.items()
        }
        for axes, what in ((held, "a GPU holds at its peak (GB)"), (sent, "sends per step (GB)")):
            axes.set(xlim=(-0.6, 3.6), ylim=(0, 1.0), xlabel="ZeRO stage")
            axes.set_title(what, fontsize=10)
            axes.set_xticks(STAGES)
            axes.set_yticks([i / TICKS for i in range(TICKS + 1)], ["0,000"] * (TICKS + 1))
            axes.tick_params(axis="y", labelcolor="none")  # keeps the room; the texts move
            axes.grid(axis="x", visible=False)
        degrees.set(xscale="log", xlim=(0.8, 9000), ylim=(0, 1), xlabel="GPUs")
        degrees.set_title("peak for any number of GPUs (GB)", fontsize=10)
        degrees.set_xticks([1, 8, 64, 512, 4096], ["1", "8", "64", "512", "4096"])
        degrees.minorticks_off()
        degrees.set_yticks([0, 1], ["0,000"] * 2)
        degrees.tick_params(axis="y", length=0, labelcolor="none")
        degrees.grid(axis="y", visible=False)
        self._marks = [
            (
                degrees.plot([0.8, 9000], [0, 0], color="#dddddd", linewidth=0.8, zorder=0)[0],
                degrees.text(0.7, 0, "", ha="right", va="center", fontsize=9.5),
            )
            for _ in range(MARKS)
        ]
        self._lines = [degrees.plot(DEGREES, [1] * len(DEGREES))[0] for _ in STAGES]
        self._names = [degrees.text(5000, 0, "", va="center", fontsize=9.5) for _ in STAGES]
        (self._here,) = degrees.plot([], [], "o", color=style.BLACK, markersize=8)
        (self._edge,) = held.plot([], [], color=style.RED, linestyle="--", linewidth=1.8)
        (self._far_edge,) = degrees.plot([], [], color=style.RED, linestyle="--", linewidth=1.8)
        self._word = held.text(-0.5, 0.99, "", color=style.RED, fontsize=9, va="top")
        (self._chosen,) = held.bar([0], [0], 0.8, fill=False, edgecolor=style.BLACK, linewidth=1.5)
        self._ticks = [
            [
                axes.text(-0.7, i / TICKS, "", ha="right", va="center", fontsize=9.5)
                for i in range(TICKS + 1)
            ]
            for axes in (held, sent)
        ]
        entries = [*self._stacks.values(), *self._moved_bars.values()]
        figure.legend(handles=entries, loc="outside upper center", ncols=9, fontsize=8,
                      handlelength=1, columnspacing=0.9, handletextpad=0.4)  # fmt: skip
        bars = [bar for entry in entries for bar in entry]
        texts = [tick for ticks in self._ticks for tick in ticks]
        marks = [artist for mark in self._marks for artist in mark]
        lines = [*self._lines, self._here, self._edge, self._far_edge]
        return [*bars, self._chosen, *texts, *marks, *lines, *self._names, self._word]

    def update(self, result):
        tried, curves, chosen, degree, card = result.data
        held = [each.memory.phases[each.memory.peak_phase] if each else {} for each in tried]
        shown = card.memory <= 3 * max(sum(parts.values()) for parts in held)
        full = _stack(self._stacks, held, self._ticks[0], card.memory if shown else 0)
        self._edge.set_data([-0.6, 3.6] if shown else [], [card.memory / full] * 2 if shown else [])
        self._word.set_text("" if shown else f"limit above: {gb(card.memory)}")
        self._chosen.set(x=chosen - 0.4, height=tried[chosen].memory.total / full)
        sent = [
            {kind: getattr(each.communication, kind) for kind in COLLECTIVES} if each else {}
            for each in tried
        ]
        _stack(self._moved_bars, sent, self._ticks[1], 0)
        self._draw_curves(tried, curves, chosen, degree, card.memory)

    def _draw_curves(self, tried, curves, chosen, degree, limit) -> None:
        peaks = [peak for curve in curves if curve for peak in curve]
        low = max(tick for tick in PEAKS if tick < 0.9 * min(peaks))
        above = 1.1 * max(peaks)
        high = min((tick for tick in PEAKS if tick > above), default=above)

        def height(size):
            return log(size / low) / log(high / low)

        inside = [tick for tick in PEAKS if low <= tick <= high]
        for (line, name), tick in zip_longest(self._marks, inside):
            shown = tick is not None
            line.set_visible(shown)
            at = height(tick) if shown else 0
            line.set_ydata([at, at])
            name.set(y=at, text=f"{tick / GB:,g}" if shown else "")
        for each, (line, curve) in enumerate(zip(self._lines, curves, strict=True)):
            own = each == chosen
            line.set_visible(curve is not None)
            self._names[each].set_visible(curve is not None)
            if curve is None:
                continue
            line.set_ydata([height(size) for size in curve])
            line.set(color=style.BLUE if own else "#888888", lw=3 if own else 1.5)
        # Names keep apart where lines end at the same height.
        below = -1.0
        drawn = [each for each in STAGES if curves[each]]
        for each in sorted(drawn, key=lambda each: curves[each][-1]):
            below = max(height(curves[each][-1]), below + LINE)
            color = self._lines[each].get_color()
            self._names[each].set(y=below, text=str(each), color=color)
        self._here.set_data([degree], [height(tried[chosen].memory.total)])
        self._far_edge.set_data([0.8, 9000], [height(limit)] * 2)


def _stack(bars, columns, ticks, least: float) -> float:
    """Move stacked bars to the columns' parts; returns the bytes of the axis' full height."""
    highest = max(*(sum(parts.values()) for parts in columns), least)
    full = round_up(1.04 * highest) if highest else 1.0
    for i, parts in enumerate(columns):
        bottom = 0.0
        for part, drawn in bars.items():
            height = parts.get(part, 0) / full
            drawn[i].set(y=bottom, height=height)
            bottom += height
    for i, tick in enumerate(ticks):
        tick.set_text(f"{float(f'{full * i / TICKS / GB:.3g}'):,g}" if highest else "0" * (i == 0))
    return full


def _row(each: Stage | None, card: GPU, zero: int) -> tuple[str, ...]:
    if each is None:
        return str(zero), "no engine runs it", *[""] * 7
    held, sent = each.memory, each.communication.total
    state = sum(held.phases[held.peak_phase][part] for part in MODEL_STATE)
    return (
        str(zero),
        gb(held.total),
        held.peak_phase,
        gb(state),
        gb(held.total - state),
        held.on(card).verdict,
        gb(sent),
        duration(each.moving),
        f"{each.moving / each.computing:.0%}" if each.computing else "not known",
    )


def _formula(now: Stage) -> str:
    """Model state by the paper's sum, the peak's parts, and what is sent, with today's numbers."""
    run, n = now.run, now.run.model.parameters.total
    state = model_state(run)
    whole = [getattr(state, part) for part in MODEL_STATE]
    each = [
        f"{size / n:.3g}{f'/{run.data}' if own < size else ''}"
        for size, own in zip(whole, now.state, strict=True)
    ]
    state = f"state: ({' + '.join(each)}) B x {count(n)} = {gb(sum(now.state))}"
    parts = now.memory.phases[now.memory.peak_phase]
    peak = " + ".join(f"{gb(size)} {name}" for name, size in parts.items() if size)
    sums = " + ".join(
        f"{RING_PASSES.get(t.collective, 1) * t.calls} x {gb(t.payload)} {t.purpose}"
        for t in now.communication.transfers
    )
    sent = f"; sent: {run.data - 1}/{run.data} x ({sums}) = {gb(now.communication.total)}"
    return (
        f"{state}; peak, in {now.memory.peak_phase}: {peak} = {gb(now.memory.total)}"
        f"{sent if sums else '; sent: nothing'}"
    )


def _caption(now: Stage, tried: list[Stage]) -> str:
    totals = ", ".join(gb(each.memory.total) if each else "none" for each in tried)
    moved = ", ".join(gb(each.communication.total) if each else "none" for each in tried)
    return (
        f"Left, what the fullest of {now.run.data:,} GPUs holds at its peak under stages 0 to 3: "
        f"{totals}. Middle, what each sends per step: {moved}. Right, the peak for 1 to 4096 GPUs, "
        f"stage {now.run.zero} thick: every line turns level. Dashed: the device's limit."
    )


def _accuracy() -> str:
    runs, held, timed = cluster_error()
    return (
        f"on one GPU {accuracy()} On 8 to 512 H100s (data/parallel_error.csv), {runs} runs with "
        f"data parallelism alone, stages 0 and 1: memory {held:.1%}, time {timed:.1%} in the "
        "median. Stages 2 and 3 are in none of them; their shares are checked against traces. "
        "On its way: round a ring at the rates of sizing.speed.rates, none of it hidden."
    )


def _notes(now: Stage, tried: list[Stage | None], card: GPU) -> tuple[str, ...]:
    run, held = now.run, now.memory.total
    notes = []
    if run.gpus > run.data:
        notes.append(f"{run.gpus:,} GPUs in all: {run.gpus // run.data} hold one copy together.")
    if run.data == 1:
        notes.append("One GPU: nothing to divide, nothing to send. The four stages are the same.")
    if run.zero:
        least, degree = endless(run), enough(run)
        notes.append(
            f"Over endless GPUs it would still be {gb(least)}: activations, logits and what is "
            f"not divided. {degree:,} GPUs come within {NEAR:.0%} of that."
        )
        divided = held - least
        if run.data > 1 and divided < least:
            notes.append(
                f"Here {divided / held:.0%} of the peak is divided: twice the GPUs save "
                f"{gb(divided / 2)} each."
            )
    else:
        notes.append("Stage 0 divides nothing: more GPUs make steps larger, not models.")
    if now.computing is None:
        notes.append("The seconds of this step are not known: no published run has its settings.")
    elif now.moving > now.computing:
        notes.append(
            f"Bytes are on their way for {duration(now.moving)}, computing takes "
            f"{duration(now.computing)}: even if every byte moves beside it, GPUs wait."
        )
    if now.memory.on(card).verdict == "does not fit":
        fitting = [
            str(each.run.zero)
            for each in tried
            if each and each.memory.on(card).verdict != "does not fit"
        ]
        notes.append(f"Fits with stage {', '.join(fitting)}." if fitting else "No stage fits.")
    notes.append(f"Global batch: {run.tokens:,} tokens per step.")
    return tuple(notes)
