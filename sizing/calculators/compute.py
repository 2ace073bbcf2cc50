"""ComputeCalculator: FLOPs of a training run, and the time they take."""

from __future__ import annotations

import csv
from functools import cache
from math import ceil, floor, log10
from statistics import quantiles

from ..architecture.model import Model, presets
from ..compute import flops, megatron, palm, six_nd
from ..hardware import GPU, gpu
from ..planning.costs import training_time
from ..run import Run
from ..units import DATA, DAY, HOUR, count, decimals, duration, si
from . import style
from .base import Calculator, Result, decades, dropdown, percent, powers_of_two, scale
from .device_card import device, device_options

CONVENTIONS = {
    "all query-key pairs": "every product of the step, all s × s pairs",
    "causal pairs": "every product of the step, only the pairs that the mask leaves",
    "6ND": "6 × parameters × tokens",
    "PaLM": "6N + 12LHQT per token",
    "Megatron": "72 l h^2 (1 + s/6h) + 6hV per token, a GPT's products whatever the model is",
}
COUNTS = powers_of_two(1, 65536)
YEAR = 365 * DAY
TIMES = {"1 ms": 1e-3, "1 s": 1.0, "1 min": 60.0, "1 h": HOUR, "1 day": DAY, "30 days": 30 * DAY}
TIMES |= {"1 year": YEAR} | {f"{n:,} years": n * YEAR for n in (10, 100, 1000, 10**5, 10**7)}
UNSEEN = 0.25  # share of the products outside 6ND: no run that the band is of has more
USUAL = (60.0, 1000 * YEAR)  # what the time axis shows at least, in seconds


def training_flops(model: Model, sequence: int, tokens: float, convention: str) -> float:
    """Model FLOPs of training on `tokens` tokens in sequences of `sequence`, by a convention."""
    if convention == "6ND":
        return six_nd(model.parameters.active, tokens)
    if convention == "PaLM":
        return palm(model.parameters.active, model, sequence, tokens)
    if convention == "Megatron":
        return megatron(model, sequence, tokens, recompute=False)
    attention = "causal" if convention == "causal pairs" else "full"
    step = flops(Run(model, sequence=sequence), attention=attention).model
    return step / sequence * tokens


@cache
def published_utilisation(convention: str = "6ND") -> tuple[int, float, float, float]:
    """(runs, 10th percentile, median, 90th percentile) of MFU over whole runs in data/runs.csv.

    The model FLOPs of each run, counted by `convention`, over GPU-hours x dense peak: to be applied
    to FLOPs of the same convention. 6ND needs no more than parameters and tokens; the others leave
    out runs whose sequence is not published or whose shape is no preset.
    """
    found = []
    with (DATA / "runs.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["kind"] == "run" and row["tokens"] and row["gpu_hours"]:
                work = _published_flops(row, convention)
                peak = gpu(row["gpu"]).peak_flops(row["peak_dtype"])
                if work:
                    found.append(work / (float(row["gpu_hours"]) * HOUR * peak))
    tenths = quantiles(found, n=10, method="inclusive")
    return len(found), tenths[0], tenths[4], tenths[8]


def _published_flops(row: dict[str, str], convention: str) -> float | None:
    """Model FLOPs of a row of data/runs.csv; None where the convention needs what it lacks."""
    tokens = float(row["tokens"])
    if convention == "6ND":
        return six_nd(float(row["active_params"] or row["params"]), tokens)
    name = row["name"].lower().replace(" ", "-")
    if not row["sequence"] or name not in presets():
        return None
    return training_flops(Model(name), int(row["sequence"]), tokens, convention)


def best_dtype(card: GPU) -> str:
    """The dtype to train in: bf16 where the device has it, else fp16, else fp32."""
    return next(dtype for dtype in ("bf16", "fp16", "fp32") if dtype in card.peak)


class ComputeCalculator(Calculator):
    """FLOPs, hours, GPU-hours. Settings: model, sequence, tokens, convention, gpu, count, mfu."""

    title = "Compute and time"

    def make_controls(self):
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "sequence": scale(
                "sequence", powers_of_two(128, 131072), 4096, lambda v: f"{v:,} tokens"
            ),
            "tokens": scale("train on", decades(1e8, 3e13), 1e12, lambda v: f"{count(v)} tokens"),
            "convention": dropdown("FLOPs counted", list(CONVENTIONS), "all query-key pairs"),
            "gpu": dropdown("device", device_options(), "h100-sxm"),
            "count": scale("how many", COUNTS, 64, lambda v: f"{v:,}"),
            "mfu": percent("MFU", 0.4, 0.05, 0.75),
        }

    def result(self, model, sequence, tokens, convention, gpu, count, mfu) -> Result:
        chosen, card = Model(model), device(gpu)
        dtype = best_dtype(card)
        peak = card.peak_flops(dtype)
        work = {c: training_flops(chosen, sequence, tokens, c) for c in CONVENTIONS}
        seconds = training_time(work[convention], card, count, mfu, dtype)
        runs, low, middle, high = published_utilisation(convention)
        rows = tuple(
            (name, si(f, "FLOP"), f"{f / work['all query-key pairs']:.2f}",
             duration(training_time(f, card, count, mfu, dtype)))
            for name, f in work.items()
        )  # fmt: skip
        fast, slow = (training_time(work[convention], card, count, u, dtype) for u in (high, low))
        unseen = 1 - work[convention] / work["all query-key pairs"]
        left_out = ""
        if convention == "6ND" and unseen > UNSEEN:
            left_out = f" But {unseen:.0%} of this step's products are not in 6ND: count them."
        return Result(
            value=seconds,
            headline=duration(seconds),
            formula=(
                f"FLOPs / (GPUs × peak × MFU) = {si(work[convention], 'FLOP')} / ({count:,} × "
                f"{si(peak, 'FLOP/s')} {dtype} × {mfu:.0%}) = {decimals(seconds, 0)} s"
            ),
            columns=("FLOPs counted", "FLOPs", "over the first", "time"),
            rows=rows,
            caption=(
                f"Time against the number of devices: twice as many take half as long. The line is "
                f"{mfu:.0%} MFU, the band what eight in ten published runs reached."
            ),
            notes=(
                f"On {count:,} × {card.label}.",
                f"{si(work[convention], 'FLOP')}: {CONVENTIONS[convention]}.",
                f"{decimals(seconds * count / HOUR, 0)} GPU-hours, whatever the number of GPUs.",
            ),
            accuracy=(
                f"FLOPs exact; time as good as the MFU. FLOPs counted in the same way, {runs} "
                f"published runs had {middle:.0%} in the median, eight in ten {low:.0%} to "
                f"{high:.0%}: here {duration(fast)} to {duration(slow)} (data/runs.csv).{left_out}"
            ),
            data=(work[convention] / peak, count, mfu, low, high),
        )

    def prepare(self, figure):
        self._axes = axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlim=(0.9, 1e5))
        axes.set(xlabel="number of devices", ylabel="time")
        axes.set_xticks([10**k for k in range(5)], [f"{10**k:,}" for k in range(5)])
        axes.set_yticks(list(TIMES.values()), list(TIMES))  # widens the axis to hold them all
        axes.set_ylim(USUAL)
        axes.minorticks_off()
        (self._line,) = axes.plot([], [], color=style.BLUE, label="at this MFU")
        self._band = axes.fill_between([1, 2], [1, 1], [2, 2], color=style.SKY, alpha=0.3)
        self._band.set_label("published MFU")
        (self._point,) = axes.plot([], [], "o", color=style.RED, label="this plan")
        axes.legend(loc="upper right")
        return [self._band, self._line, self._point]

    def update(self, result):
        device_seconds, count, mfu, low, high = result.data  # of one device at full peak
        ends = [COUNTS[0], COUNTS[-1]]
        self._line.set_data(ends, [device_seconds / mfu / n for n in ends])
        corners = [
            (n, device_seconds / u / n) for u, side in ((low, 1), (high, -1)) for n in ends[::side]
        ]
        self._band.set_verts([corners])
        self._point.set_data([count], [result.value])
        times = [time for _, time in corners] + list(self._line.get_ydata())
        least, most = 10 ** floor(log10(min(times))), 10 ** ceil(log10(max(times)))
        limits = min(least, USUAL[0]), max(most, USUAL[1])
        if limits != self._axes.get_ylim():  # a plan of milliseconds, or of a million years
            self._axes.set_ylim(limits)
            self.redraw()
