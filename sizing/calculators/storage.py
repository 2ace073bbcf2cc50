"""StorageCalculator: how large a checkpoint is, and how often to write one."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..architecture.model import Model, presets
from ..planning.costs import RESTART, failure_rate
from ..planning.storage import FORMATS, Checkpoint, checkpoint, saving, useful_share, young
from ..run import CHOICES, Run
from ..units import GB, HOUR, duration, gb
from . import style
from .base import Calculator, Result, dropdown, powers_of_two, scale

RATES = [n * GB for n in (0.2, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)]
MODES = ("synchronous", "asynchronous")
INTERVALS = np.geomspace(10, 7 * 86_400, 200)  # seconds between saves, for the curve


@lru_cache(maxsize=64)
def saved(model: str, precision: str, optimizer: str, form: str, gpus: int) -> Checkpoint:
    """The checkpoint of a model that FSDP divides over so many GPUs."""
    zero = 3 if gpus > 1 else 0
    run = Run(model, sequence=1, precision=precision, optimizer=optimizer, data=gpus, zero=zero)
    return checkpoint(run, form)


class StorageCalculator(Calculator):
    """Bytes of a checkpoint and seconds between two.

    Settings: model, precision, optimizer, format, gpus, disk, mode.
    """

    title = "Checkpoints: how large, how often"

    def make_controls(self):
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "precision": dropdown("precision", list(CHOICES["precision"]), "bf16-master"),
            "optimizer": dropdown("optimizer", list(CHOICES["optimizer"]), "adamw-fused"),
            "format": dropdown("format", list(FORMATS), "distributed"),
            "gpus": scale("GPUs", powers_of_two(1, 16_384), 64, lambda v: f"{v:,}"),
            "disk": scale("storage takes", RATES, 2 * GB, lambda v: f"{v / GB:g} GB/s"),
            "mode": dropdown("saves are", list(MODES), "synchronous"),
        }

    def result(self, model, precision, optimizer, format, gpus, disk, mode) -> Result:
        size = saved(model, precision, optimizer, format, gpus)
        mtbf = HOUR / (failure_rate() * gpus)
        both = {
            name: saving(
                size.total,
                mtbf,
                disk=disk,
                gpus=gpus,
                asynchronous=name == "asynchronous",
                restart=RESTART,
            )
            for name in MODES
        }
        plan = both[mode]
        curve = [100 * (1 - useful_share(t, plan.stall, mtbf, RESTART)) for t in INTERVALS]
        parameters = Model(model).parameters.total
        rows = tuple(
            (name, gb(part), f"{part / parameters:.2f}") for name, part in size.parts.items()
        )
        return Result(
            value=size.total,
            headline=f"{gb(size.total)}, one every {duration(plan.interval)}",
            formula=(
                f"interval = sqrt(2 δ M) (1 + ...) - δ with δ = {duration(plan.stall)} and "
                f"M = {duration(mtbf)}: {duration(plan.interval)}"
            ),
            columns=("on disk", "bytes", "bytes per parameter"),
            rows=(*rows, ("total", gb(size.total), f"{size.total / parameters:.2f}")),
            caption=(
                "Share of the time that is lost, against the work between two saves: too often "
                "waits for the storage, too seldom does steps again. The dot is Daly's best."
            ),
            notes=(
                f"{plan.lost:.1%} of the time is lost to saves and failures.",
                f"A save stops training for {duration(plan.stall)}; "
                f"{duration(both['asynchronous'].stall)} if it goes on beside it.",
                f"The storage must take {gb(plan.rate)} per second to keep up.",
            ),
            accuracy=(
                "bytes exact for what this course's code saves (tests/test_storage.py)"
                if size.exact
                else "numbers exact, `.metadata` scaled up from fewer ranks"
            )
            + f"; one failure in {1 / failure_rate():,.0f} GPU-hours is Llama 3.1 405B's "
            "(data/goodput.csv). "
            f"Young's rule says {duration(young(plan.stall, mtbf))}.",
            data=(curve, plan.interval, 100 * (1 - useful_share(
                plan.interval, plan.stall, mtbf, RESTART))),
        )  # fmt: skip

    def prepare(self, figure):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlim=(10, 7 * 86_400), ylim=(0.01, 100))
        axes.set(xlabel="work between two saves", ylabel="time lost (%)")
        ticks = {
            "10 s": 10,
            "1 min": 60,
            "10 min": 600,
            "1 h": 3600,
            "6 h": 21_600,
            "1 day": 86_400,
        }
        axes.set_xticks(list(ticks.values()), list(ticks))
        axes.set_yticks([0.01, 0.1, 1, 10, 100], ["0.01", "0.1", "1", "10", "100"])
        axes.minorticks_off()
        (self._line,) = axes.plot([], [], color=style.BLUE)
        (self._point,) = axes.plot([], [], "o", color=style.RED)
        return [self._line, self._point]

    def update(self, result):
        curve, interval, lost = result.data
        self._line.set_data(INTERVALS, curve)
        self._point.set_data([interval], [lost])
