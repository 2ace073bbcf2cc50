"""ParallelPlanner: which tensor and pipeline degrees a cluster can run, and which is fastest."""

from __future__ import annotations

import csv
from collections import Counter
from functools import cache
from statistics import median

from matplotlib.patches import Rectangle
from numpy.ma import masked_array

from ..architecture.model import Model, presets
from ..evidence.ultrascale import LEAST_MFU
from ..footprint.step import PARTS
from ..hardware import gpu as card_of
from ..hardware import gpus
from ..run import CHOICES, Run
from ..speed.step import STEP_PARTS
from ..units import DATA, GB, count, decimals, duration, gb
from . import style
from .base import Calculator, Result, dropdown, powers_of_two, scale
from .degrees import NO_GPUS, PIPELINE, TENSOR, Cell, Cluster, best, grid
from .html import Limit
from .words import Words

NODES = (1, 2, 4, 8, 16, 32, 64)
NETWORKS = (3.125e9, 12.5e9, 25e9, 50e9, 100e9)  # bytes/s of a GPU, one direction
BATCHES = tuple(powers_of_two(2**16, 2**26))  # tokens
RECIPES = {
    "bf16, fp32 master and gradients": ("bf16-master", "fp32"),
    "bf16, fp32 master": ("bf16-master", "same"),
    "bf16 autocast, fp32 weights": ("bf16-mixed", "same"),
    "bf16 alone": ("bf16", "same"),
    "fp32": ("fp32", "same"),
}
# Kernel by kernel from Python, as `Run.engine` None does, or ahead of the GPU as a captured graph.
HOSTS = {"ahead of the GPU": 0.0, "one by one, from Python": 1.0}
SHOWN = {"tokens/s per GPU": "speed", "MFU": "mfu", "memory (GB)": "memory"}
BEST = "best"
TIME_PARTS = STEP_PARTS
TIME_COLOURS = dict.fromkeys(TIME_PARTS, style.BLUE) | dict.fromkeys(
    (
        "tensor_parallel",
        "context_parallel",
        "expert_parallel",
        "pipeline_transfer",
        "data_parallel",
    ),
    style.ORANGE,
)
WAITING = ("host", "pipeline_bubble")
TIME_COLOURS |= dict.fromkeys(WAITING, style.RED)
IMPOSSIBLE = "#e6e6e6"


@cache
def errors(column: str, **degrees: int) -> tuple[int, float, float]:
    """(runs, median error, share within 20 %) in data/parallel_error.csv, as fractions.

    Args:
        column: "tok_s_gpu" (runs above 10 % MFU that calibrated nothing) or "mem_gib" (all runs).
        degrees: of the rows to take, such as tp=8.
    """
    rows = [row for row in _error_rows() if all(int(row[k]) == v for k, v in degrees.items())]
    if column == "tok_s_gpu":
        rows = [r for r in rows if float(r["mfu_pct"]) > LEAST_MFU and r["calibration"] == "0"]
    found = [abs(float(row[f"predicted_{column}"]) / float(row[column]) - 1) for row in rows]
    if not found:
        return 0, 0.0, 0.0
    return len(found), median(found), sum(error <= 0.2 for error in found) / len(found)


@cache
def _error_rows() -> list[dict[str, str]]:
    with (DATA / "parallel_error.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def accuracy(run: Run | None, host: float = 1.0) -> str:
    """How far time and memory are from published runs, over all and over those of these degrees."""

    def words(column: str, what: str) -> str:
        runs, error, close = errors(column)
        text = f"{what} {error:.1%} in the median over {runs} runs, {close:.0%} within 20%"
        for key, name in (("tp", "tensor"), ("pp", "pipeline")) if run else ():
            degree = getattr(run, name)
            runs, error, _ = errors(column, **{key: degree})
            text += f"; {name} {degree}: " + (f"{error:.1%} over {runs}" if runs else "no run")
        return text

    launched = "" if host else " Those GPUs also waited for launches, which is left out here."
    return (
        f"{words('tok_s_gpu', 'tokens/s')}.{launched} {words('mem_gib', 'Memory')}. "
        "Runs: Llama-like 1B and 8B on up to 512 H100s, ZeRO 0 and 1, no recompute "
        "(data/parallel_error.csv). ZeRO 2 and 3, recompute, context parallelism and other GPUs "
        "are in none of them."
    )


class ParallelPlanner(Calculator):
    """Tensor x pipeline degrees on a cluster, data parallelism over the rest; AdamW, flash
    attention. Settings: model, gpu, gpus, node (GPUs per node), network (bytes/s of a GPU),
    sequence, batch (tokens), micro_batch, zero, context, recompute, recipe (precision and
    gradients), host (launching time in units of its own), show ("speed", "mfu", "memory") and
    look ("best", or a pair of tensor and pipeline degree)."""

    title = "Parallel planner"
    size = (8.8, 4.4)

    def make_controls(self):
        cards = [card_of(name) for name in gpus()]
        linked = [(c.label, c.name) for c in cards if "bf16" in c.peak and c.link]
        rates = [
            (f"{rate / GB:g} GB/s per GPU ({8 * rate / GB:g} Gbit/s)", rate) for rate in NETWORKS
        ]
        pairs = [(f"tensor {t} x pipeline {p}", (t, p)) for p in PIPELINE for t in TENSOR]
        return {
            "model": dropdown("model", presets(), "llama-3.1-8b"),
            "gpu": dropdown("GPU", linked, "h100-sxm"),
            "gpus": scale("GPUs", powers_of_two(8, 1024), 64, lambda v: f"{v:,}"),
            "node": scale("GPUs per node", NODES, 8, str),
            "network": dropdown("network", rates, 50e9),
            "sequence": scale(
                "sequence", powers_of_two(512, 131072), 4096, lambda v: f"{v:,} tokens"
            ),
            "batch": scale("global batch", BATCHES, 2**20, lambda v: f"{count(v)} tokens"),
            "micro_batch": scale("micro-batch", powers_of_two(1, 32), 1, str),
            "zero": dropdown("ZeRO stage", CHOICES["zero"], 1),
            "context": scale("context", powers_of_two(1, 16), 1, str),
            "recompute": dropdown("recompute", CHOICES["recompute"], "none"),
            "recipe": dropdown("precision", list(RECIPES.items()), RECIPES[next(iter(RECIPES))]),
            "host": dropdown("kernels launched", list(HOSTS.items()), 0.0),
            "show": dropdown("colour shows", list(SHOWN.items()), "speed"),
            "look": dropdown("look at", [("the best", BEST), *pairs], BEST),
        }

    def result(
        self, model, gpu, gpus, node, network, host, sequence, batch, recipe, show, look, **settings
    ) -> Result:
        precision, gradients = recipe
        run = Run(
            Model(model),
            sequence=sequence,
            precision=precision,
            gradients=gradients,
            optimizer="adamw-fused",
            **settings,
        )
        if batch < sequence:
            raise ValueError(f"batch: {batch:,} tokens given; allowed: a sequence, {sequence:,}")
        cluster = Cluster(card_of(gpu), gpus, node, network, host)
        cells = grid(run, cluster, batch // sequence)
        top = best(cells)
        chosen = (top or _nearest(cells)) if look == BEST else cells[look]
        words = {key: _words(c, show) for key, c in cells.items()}
        label = next(name for name, value in SHOWN.items() if value == show)
        return Result(
            value=chosen.speed,
            headline=_headline(chosen, look, top),
            formula=_formula(chosen),
            columns=(f"{label}: pipeline", *(f"tensor {t}" for t in TENSOR)),
            rows=tuple((f"{p}", *(words[t, p] for t in TENSOR)) for p in PIPELINE),
            caption=(
                f"Left: {label} for each pair of degrees, darker is more. Hatched pairs are "
                "impossible and say why (no word: more GPUs than there are); ! has a warning. "
                "Framed: the best; dotted: the pair looked at. Right: "
                f"{_picture_words(chosen)}"
            ),
            notes=_notes(cells, chosen, top, cluster),
            accuracy=accuracy(chosen.run, host),
            limit=_limit(chosen, cluster),
            source="MFU counts all query-key pairs (arXiv:2204.02311, appendix B), dense peak.",
            data=(cells, words, show, chosen, top, cluster.card.memory),
        )

    def prepare(self, figure):
        left, right = figure.subplots(1, 2, width_ratios=(2.3, 1))
        wide, high = len(TENSOR), len(PIPELINE)
        left.set(xlim=(0, wide), ylim=(high, 0), xlabel="tensor parallel", ylabel="pipeline")
        left.set_xticks([i + 0.5 for i in range(wide)], TENSOR)
        left.set_yticks([i + 0.5 for i in range(high)], PIPELINE)
        left.tick_params(length=0)
        left.grid(visible=False)
        self._mesh = left.pcolormesh(
            range(wide + 1), range(high + 1), [[0.0] * wide] * high, cmap="Blues", vmin=-0.1,
            vmax=1.05, edgecolors="white", linewidth=1,
        )  # fmt: skip
        left.add_patch(
            Rectangle((0, 0), wide, high, facecolor=IMPOSSIBLE, edgecolor="white", hatch="///")
        )  # below what can be run, so that it is drawn once
        self._left, self._right = left.transData, right.transData
        (self._frame,) = left.plot([], [], color=style.RED, linewidth=2.6)
        (self._look,) = left.plot([], [], ":", color=style.BLACK, linewidth=2.2)
        names = [*TIME_PARTS, *PARTS]
        places = [i + (i >= len(TIME_PARTS)) for i in range(len(names))]
        right.set(xlim=(0, 1.42), ylim=(max(places) + 0.6, -1.0), xticks=[])
        right.set_yticks(places, [name.replace("_", " ") for name in names], fontsize=8.5)
        right.tick_params(length=0)
        right.grid(visible=False)
        right.spines["bottom"].set_visible(False)
        right.text(0.02, -0.7, "step time, share", fontsize=8.5, weight="bold", va="center")
        middle = len(TIME_PARTS)
        right.text(0.02, middle, "memory, share", fontsize=8.5, weight="bold", va="center")
        colours = [*(TIME_COLOURS[name] for name in TIME_PARTS), *(style.COLOURS[p] for p in PARTS)]
        self._bars = right.barh(places, [0] * len(names), color=colours)
        self._places = places
        self._words = figure.add_artist(Words())
        return [self._mesh, *self._bars, self._words, self._frame, self._look]

    def update(self, result):
        cells, words, show, chosen, top, available = result.data
        shades = {key: _shade(each, show, top, available) for key, each in cells.items()}
        rows = [[shades[t, p] for t in TENSOR] for p in PIPELINE]
        hidden = [[not cells[t, p].possible for t in TENSOR] for p in PIPELINE]
        self._mesh.set_array(masked_array(rows, hidden))
        self._frame.set_data(*(_corners(top) if top else ([], [])))
        self._look.set_data(*_corners(chosen))
        bars = _bars(chosen)
        for bar, (share, _) in zip(self._bars, bars, strict=True):
            bar.set_width(share)
        self._words.items = [
            (self._left, column + 0.5, row + 0.5, words[t, p], "mm", shades[t, p] > 0.55)
            for row, p in enumerate(PIPELINE)
            for column, t in enumerate(TENSOR)
            if words[t, p] != NO_GPUS
        ] + [
            (self._right, share, y, f" {shown}", "lm", False)
            for y, (share, shown) in zip(self._places, bars, strict=True)
            if shown
        ]


def _nearest(cells: dict[tuple[int, int], Cell]) -> Cell:
    """Where nothing is possible: the choice that lacks the least memory, else the first."""
    computed = [c for c in cells.values() if c.memory]
    return min(computed, key=lambda c: c.memory.total, default=cells[1, 1])


def _words(each: Cell, show: str) -> str:
    if not each.possible:
        return each.short
    shown = {
        "speed": decimals(each.speed, 0),
        "mfu": f"{each.mfu:.0%}",
        "memory": f"{each.memory.total / GB:.1f}",
    }[show]
    return shown + ("!" if each.warning else "")


def _shade(each: Cell, show: str, top: Cell | None, available: float) -> float:
    """0 to 1: of the best choice's, or of the device's memory."""
    if not each.possible:
        return 0.0
    if show == "memory":
        return each.memory.total / available
    return getattr(each, show) / getattr(top, show)


def _corners(each: Cell) -> tuple[list[float], list[float]]:
    """x and y of a frame just inside its square in the picture."""
    column, row = TENSOR.index(each.tensor), PIPELINE.index(each.pipeline)
    left, right, top, bottom = column + 0.04, column + 0.96, row + 0.04, row + 0.96
    return [left, right, right, left, left], [top, top, bottom, bottom, top]


def _bars(each: Cell) -> list[tuple[float, str]]:
    """(share, words) of each part of the time, then of the memory; no words below 0.5 %."""
    if each.time is None:
        return [(0.0, "")] * (len(TIME_PARTS) + len(PARTS))
    peak = each.memory.phases[each.memory.peak_phase]
    shares = [seconds / each.time.total for seconds in each.time.parts.values()]
    shares += [peak[part] / each.memory.total for part in PARTS]
    return [(share, f"{share:.1%}" if share >= 0.005 else "") for share in shares]


def _picture_words(each: Cell) -> str:
    if each.time is None:
        return "nothing, because the pair looked at is impossible."
    parts = each.time.parts
    largest = max(parts, key=parts.get)
    waiting = sum(s for name, s in parts.items() if TIME_COLOURS[name] == style.ORANGE)
    idle = sum(parts[name] for name in WAITING)
    return (
        f"of its step, {parts[largest] / each.time.total:.0%} is {largest.replace('_', ' ')}, "
        f"communication (orange) {waiting / each.time.total:.0%}, waiting (red) "
        f"{idle / each.time.total:.0%}; below, its memory at the peak."
    )


def _headline(each: Cell, look: object, top: Cell | None) -> str:
    if not each.possible:
        if look == BEST:
            return f"no choice is possible; nearest to it is {each.name}"
        return f"{each.name} is impossible"
    first = "best: " if each is top else ""
    return (
        f"{first}{each.name}: {decimals(each.speed, 0)} tokens/s per GPU, MFU {each.mfu:.0%}, "
        f"{gb(each.memory.total)}"
    )


def _formula(each: Cell) -> str:
    if each.time is None:
        return each.reason
    parts = sorted(each.time.parts.items(), key=lambda part: -part[1])
    time = " + ".join(f"{duration(s)} {name.replace('_', ' ')}" for name, s in parts if s)
    peak = each.memory.phases[each.memory.peak_phase]
    held = " + ".join(f"{gb(size)} {name}" for name, size in peak.items() if size)
    run, total = each.run, each.time.total
    return (
        f"{run.data} data x {run.accumulation} micro-batches x {run.micro_batch} x "
        f"{run.sequence:,} = {run.tokens:,} tokens; step = {time} = {duration(total)}; "
        f"{run.tokens:,} / {duration(total)} / {run.gpus:,} GPUs = "
        f"{decimals(each.time.tokens_per_second(run), 0)} tokens/s"
        f"{'' if each.possible else ' if that were possible'}; "
        f"memory in {each.memory.peak_phase} = {held} = {gb(each.memory.total)}"
    )


def _notes(cells, chosen: Cell, top: Cell | None, cluster: Cluster) -> tuple[str, ...]:
    notes = [f"{chosen.name}: {chosen.reason}."] if chosen.reason else []
    if chosen.warning:
        notes.append(f"! {chosen.warning}.")
    if top and chosen is not top:
        notes.append(f"Best: {top.name}, {decimals(top.speed, 0)} tokens/s per GPU.")
    elif top and chosen.memory.total > 0.9 * cluster.card.memory:
        notes.append("Tight: the formula's error below is larger than what is left.")
    if chosen.time and chosen.time.host > 0.1 * chosen.time.total:
        share = chosen.time.host / chosen.time.total
        notes.append(
            f"{share:.0%} of the step waits for launches, one by one from Python: compiled layers "
            "or captured graphs need not."
        )
    words = Counter("memory" if c.memory else c.short for c in cells.values() if not c.possible)
    possible = len(cells) - words.total()
    listed = ", ".join(f"{what} {n}" for what, n in words.most_common())
    notes.append(f"{possible} of {len(cells)} pairs are possible; ruled out by {listed}.")
    return tuple(notes)


def _limit(each: Cell, cluster: Cluster) -> Limit | None:
    if each.memory is None:
        return None
    card = cluster.card
    return Limit("the tensors of one step", each.memory.total, card.memory, card.label)
