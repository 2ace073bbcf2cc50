"""MemoryCalculator: what a GPU holds in each phase of a training step, and what makes it fit."""

from __future__ import annotations

import csv
import warnings
from dataclasses import dataclass, replace
from functools import cache
from math import floor, log10
from statistics import fmean
from typing import ClassVar

from ..evidence import cuda
from ..footprint.fit import fit
from ..footprint.step import PARTS, PHASES, Memory, memory
from ..hardware import GPU
from ..measuring.recording import own, recordings
from ..run import Run
from ..units import DATA, GB, count, gb
from . import run_controls, style
from .base import Calculator, Result, dropdown
from .cures import cures, everything
from .device_card import MINE, device, device_options
from .html import Limit

MODEL_STATE = ("parameters", "gradients", "optimizer")
MOMENTS = {
    "forward": "end of the forward pass",
    "loss": "backward through the loss",
    "layers": "backward through the layers",
    "embedding": "the embedding's gradient",
    "optimizer": "the optimizer's step",
}
TICKS = 5


@cache
def error_bar() -> tuple[int, float, float, str]:
    """(runs, mean error, worst error, versions) of the formula against the trace, over the runs of
    data/memory_error.csv that were not used to derive it. Errors are fractions of the peak."""
    with (DATA / "memory_error.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "held-out"]
    errors = [abs(int(row["formula_bytes"]) / int(row["trace_bytes"]) - 1) for row in rows]
    versions = sorted({f"torch {row['torch']}, transformers {row['transformers']}" for row in rows})
    return len(rows), fmean(errors), max(errors), "; ".join(versions)


def accuracy() -> str:
    """How far the formula is from traced runs, and from steps measured on real devices."""
    runs, mean, worst, versions = error_bar()
    measured = [r for r in recordings("formula-vs-device") if r.ok]
    devices = [
        f"{max(abs(row['ratio'] - 1) for row in r.ok):.2%} at worst over {len(r.ok)} on {r.device}"
        for r in measured
    ]
    gpus = "" if any(r.gpu for r in measured) else "; no GPU is measured yet"
    rehearsed, usual, most = cuda_error_bar()
    return (
        f"{100 * mean:.2g}% on average and {100 * worst:.2g}% at worst over {runs} traced "
        f"runs ({versions}; data/memory_error.csv). CUDA ({cuda.NAME}): {100 * usual:.2g}% on "
        f"average and {100 * most:.2g}% at worst over {rehearsed} runs (data/cuda_error.csv). "
        f"Measured steps: {', '.join(devices)}{gpus}."
    )


@cache
def cuda_error_bar() -> tuple[int, float, float]:
    """(runs, mean error, worst error) of the formula against torch's CUDA allocator."""
    errors = [abs(cuda.error(row)) for row in cuda.load()]
    return len(errors), fmean(errors), max(errors)


def kind_of(gpu: str) -> str:
    """Whose operators a device of the drop-down has, "cpu" or "cuda"."""
    return "cpu" if gpu == MINE and not own("ceilings").gpu else "cuda"


def judge(tensors: int, card: GPU, kind: str) -> str:
    """Whether bytes of tensors fit one device, in three words; on a CPU nothing lies beside."""
    if kind == "cuda":
        return fit(tensors, card).verdict
    return "fits" if tensors <= card.memory else "does not fit"


@dataclass(frozen=True)
class Shown:
    """What the picture and the table are of; `kind` is the card's, "cuda" or "cpu"."""

    memory: Memory
    run: Run
    card: GPU
    kind: str
    verdict: str


class MemoryCalculator(Calculator):
    """Bytes by phase and part. Settings: the fields of `sizing.Run` that change memory and, with
    `lora` as the adapters' rank, those of `sizing.Lora`; and gpu."""

    title = "Memory anatomy"
    wide = True
    groups: ClassVar[dict[str, tuple[str, ...]]] = run_controls.GROUPS
    folded = run_controls.FOLDED
    size = (8.8, 3.9)

    def make_controls(self):
        names = [name for group in self.groups.values() for name in group if name != "network"]
        given = {"model": "llama-3.2-1b", "micro_batch": 4}
        return {
            name: dropdown("GPU", device_options(), "h100-sxm")
            if name == "gpu"
            else run_controls.control(name, given.get(name))
            for name in names
        }

    def without_effect(self, gpu, **settings) -> set[str]:
        return run_controls.idle(settings)

    def result(self, gpu, **settings) -> Result:
        run, card, kind = run_controls.run_of(settings), device(gpu), kind_of(gpu)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            now = memory(run, device=kind)

        verdict = judge(now.total, card, kind)
        totals = {name: sum(parts.values()) for name, parts in now.phases.items()}
        largest = max(now.phases[now.peak_phase].items(), key=lambda part: part[1])
        return Result(
            value=now.total,
            headline=f"{gb(now.total)} at the peak{' of a GPU' if run.gpus > 1 else ''}",
            formula=_formula(run, now),
            columns=("change one thing", "peak", "of now", "its phase", card.label, "costs"),
            rows=(),
            caption=(
                "Bytes alive at the worst moment of each phase, by part: "
                + ", ".join(f"{name} {gb(total)}" for name, total in totals.items())
                + f". The peak is in {now.peak_phase}, {MOMENTS[now.peak_phase]}; its largest part "
                f"is {largest[0]}, {largest[1] / now.total:.0%}."
            ),
            accuracy=accuracy(),
            limit=Limit("the tensors of one step", now.total, card.memory, card.label, verdict),
            data=Shown(now, run, card, kind, verdict),
        )

    def finish(self, result):
        """With what each single change would lead to."""
        shown = result.data
        now, card, kind = shown.memory, shown.card, shown.kind

        def row(what: str, after: Memory, costs: str = "") -> tuple[str, ...]:
            ratio = f"{after.total / now.total:.2f} ×"
            verdict = judge(after.total, card, kind)
            return what, gb(after.total), ratio, after.peak_phase, verdict, costs

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of stages that one would not choose
            tried = [(cure, memory(cure.run, device=kind)) for cure in cures(shown.run)]
            least = memory(everything(shown.run), device=kind)
        return replace(
            result,
            rows=(
                row("nothing", now),
                *(row(cure.what, after, cure.costs) for cure, after in tried),
                row("all that train the same weights", least),
            ),
            notes=_notes(shown, {cure.what: after for cure, after in tried}, least),
        )

    def prepare(self, figure):
        axes = figure.subplots()
        axes.set(xlim=(0, 1.02), ylim=(len(PHASES) - 0.4, -1.0))
        axes.set_xticks([i / TICKS for i in range(TICKS + 1)], [""] * (TICKS + 1))
        axes.set_yticks(range(len(PHASES)), PHASES)
        axes.set_xlabel("bytes alive at the phase's worst moment (GB)", labelpad=16)
        axes.grid(axis="y", visible=False)
        self._bars = {
            part: axes.barh(PHASES, [0] * len(PHASES), color=style.COLOURS[part], label=part)
            for part in PARTS
        }
        figure.legend(loc="outside upper center", ncols=len(PARTS), fontsize=9.5)
        below = axes.get_xaxis_transform()
        self._ticks = [
            axes.text(i / TICKS, -0.03, "", transform=below, ha="center", va="top")
            for i in range(TICKS + 1)
        ]
        self._totals = [axes.text(0, i, "", va="center", fontsize=9.5) for i in range(len(PHASES))]
        (self._line,) = axes.plot([], [], color=style.BLACK, linestyle="--", linewidth=1.6)
        self._word = axes.text(0, -0.72, "", va="center", fontsize=9.5, weight="bold")
        rectangles = [bar for bars in self._bars.values() for bar in bars]
        return [*rectangles, *self._ticks, *self._totals, self._line, self._word]

    def update(self, result):
        shown = result.data
        now, available, label = shown.memory, shown.card.memory, shown.card.label
        inside = available <= 3 * now.total  # further right the bars would be too small to read
        full = round_up(max(1.2 * now.total, 1.02 * available if inside else 0))
        for i, tick in enumerate(self._ticks):
            tick.set_text(f"{full * i / TICKS / GB:,.4g}")
        for i, phase in enumerate(PHASES):
            left = 0.0
            for part, bars in self._bars.items():
                width = now.phases.get(phase, {}).get(part, 0) / full
                bars[i].set(x=left, width=width)
                left += width
            peak = " peak" if phase == now.peak_phase else ""
            self._totals[i].set(x=left, text=f" {gb(left * full)}{peak}")
        self._line.set_data(
            [available / full] * 2 if inside else [], [-0.45, 4.6] if inside else []
        )
        self._place_word(available, label, shown.verdict, full, inside)

    def _place_word(self, available, label, verdict, full, shown) -> None:
        """The device's limit in words: on its line, or at the edge that it lies beyond."""
        text = f"{label}: {gb(available)}, {verdict}"
        if not shown:
            far = f"its limit lies {available / full:.1f} such pictures to the right"
            self._word.set(x=1, ha="right", text=f"{text}; {far}")
        else:
            right = available / full > 0.5
            self._word.set(x=available / full, ha="right" if right else "left", text=text)


def round_up(size: float) -> float:
    """The next of 1, 1.5, 2, 3, 4, 5, 7.5 and 10 times a power of ten."""
    power = 10.0 ** floor(log10(size))
    return power * next(step for step in (1, 1.5, 2, 3, 4, 5, 7.5, 10) if step * power >= size)


def _formula(run: Run, now: Memory) -> str:
    """The peak as a sum, with what each part is made of where that is a short product."""
    parts = {name: size for name, size in now.phases[now.peak_phase].items() if size}
    n, tokens = run.model.parameters.total, run.micro_batch * run.sequence
    terms = []
    for name, size in parts.items():
        if name in MODEL_STATE:
            terms.append(f"{size / n:.3g} B x {count(n)} {name}")
        elif name == "logits":
            each = size / (tokens * run.model.vocab)
            terms.append(f"{each:.3g} B x {tokens:,} tokens x {run.model.vocab:,} logits")
        else:
            terms.append(f"{gb(size)} {name}")
    return f"{now.peak_phase}: {' + '.join(terms)} = {gb(now.total)}"


def _notes(shown: Shown, tried: dict[str, Memory], least: Memory) -> tuple[str, ...]:
    now = shown.memory

    def judged(held: Memory) -> str:
        return judge(held.total, shown.card, shown.kind)

    state = sum(getattr(now, part) for part in MODEL_STATE)
    added = state + now.activations + now.logits + now.temporary
    notes = [
        f"Peak in {now.peak_phase}: {MOMENTS[now.peak_phase]}.",
        f"All parts added up would be {gb(added)}: they are never alive together."
        if added > 1.005 * now.total
        else f"Model state alone: {gb(state)}.",
    ]
    if now.host:
        notes.append(f"{gb(now.host)} lie on the host, {gb(now.bus)} cross its bus per step.")
    fitting = [what for what, after in tried.items() if judged(after) != "does not fit"]
    if judged(now) == "tight":
        notes.append(
            "Tight: the context, workspaces and fragmentation of a GPU come on top; it takes "
            "expandable segments."
        )
    elif judged(now) == "does not fit" and fitting:
        notes.append(
            f"Of {len(tried)} single changes below, {len(fitting)} make it fit; the cheapest is: "
            f"{fitting[0]}."
        )
    elif judged(now) == "does not fit":
        together = "all together do" if judged(least) != "does not fit" else "nor do all together"
        notes.append(f"No single change below makes it fit; {together}.")
    return tuple(notes)
