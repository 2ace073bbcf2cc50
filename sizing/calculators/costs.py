"""CostCalculator: days, dollars and energy of a run on its quickest layout."""

from __future__ import annotations

from functools import lru_cache

from ..architecture.model import presets
from ..hardware import prices
from ..planning.costs import TERMS, error_budget, usual_price
from ..planning.search import Candidate, plan
from ..units import count, decimals, gb
from . import style
from .base import Calculator, Result, decades, dropdown, powers_of_two, scale

COUNTS = powers_of_two(1, 4096)
BATCH = 2**21  # tokens in a step, so that 4096 GPUs have a sequence each
DOLLARS = [round(0.25 * n, 2) for n in range(1, 49)]


def cards() -> list[str]:
    """Cards that have an on-demand price."""
    return sorted({price.gpu for price in prices(kind="on-demand")})


@lru_cache(maxsize=256)
def quickest(model: str, gpu: str, number: int, tokens: float, price: float) -> Candidate:
    """The quickest layout that fits so many GPUs, priced.

    Raises:
        ValueError: nothing fits; the message says what it would take.
    """
    found = plan(
        model, {gpu: number}, tokens, counts=(number,), batch=BATCH, rank="time", keep=1,
        prices={gpu: price},
    )  # fmt: skip
    if found.best is None:
        raise ValueError(f"gpus: {number} given; {found.rejected[0].missing}")
    return found.best


class CostCalculator(Calculator):
    """Days, dollars, energy. Settings: model, tokens, gpu, gpus, price."""

    title = "What a run costs"
    size = (8.8, 2.4)

    def make_controls(self):
        usual = min(DOLLARS, key=lambda d: abs(d - usual_price("h100-sxm")))
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "tokens": scale("train on", decades(1e9, 2e13), 1e12, lambda v: f"{count(v)} tokens"),
            "gpu": dropdown("device", cards(), "h100-sxm"),
            "gpus": scale("how many", COUNTS, 64, lambda v: f"{v:,}"),
            "price": scale("$ per GPU-hour", DOLLARS, usual, lambda v: f"${v:.2f}"),
        }

    def result(self, model, tokens, gpu, gpus, price) -> Result:
        best = quickest(model, gpu, gpus, tokens, price)
        spent = best.cost
        low, high = spent.days_band
        share = spent.goodput
        rows = (
            ("GPU-hours", decimals(spent.gpu_hours, 0)),
            ("dollars for them", f"${decimals(spent.compute, 0)}"),
            ("dollars for storage", f"${decimals(spent.storage, 0)}"),
            ("energy", f"{decimals(spent.facility / 1000, 1)} MWh"),
            ("carbon", f"{decimals(spent.carbon / 1000, 1)} t CO2e"),
            ("useful share of the time", f"{share.useful:.1%}"),
            ("lost to failures", f"{share.failures:.1%}"),
            ("lost to saves", f"{share.saves:.1%}"),
        )
        widest = next(iter(error_budget()))
        return Result(
            value=spent.dollars,
            headline=f"${decimals(spent.dollars, 0)}, {decimals(spent.days, 1)} days",
            formula=(
                f"steps × step / useful share = {spent.steps:,} × {spent.step:.3g} s / "
                f"{share.useful:.3f} = {decimals(spent.days, 2)} days on {gpus:,} GPUs"
            ),
            columns=("of the whole run", ""),
            rows=rows,
            caption=(
                f"Days as predicted, between {decimals(low, 1)} and {decimals(high, 1)}: the band "
                "that holds nine "
                "in ten published runs."
            ),
            notes=(
                f"{best.layout}; {gb(best.memory)} of {gb(best.capacity)}: {best.fits}.",
                f"${decimals(spent.dollars_band[0], 0)} to ${decimals(spent.dollars_band[1], 0)}; "
                "the widest term "
                f"is {widest}.",
            ),
            accuracy="`python -m sizing.evidence` compares with published runs; "
            + ", ".join(f"{term.name} {term.low:.2f} to {term.high:.2f}" for term in TERMS),
            data=(low, spent.days, high),
        )

    def prepare(self, figure):
        self._axes = axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(-0.6, 2.6), xlabel="days")
        axes.set_yticks([0, 1, 2], ["low end", "predicted", "high end"])
        self._bars = axes.barh(range(3), [0, 0, 0], color=[style.SKY, style.BLUE, style.SKY])
        return list(self._bars)

    def update(self, result):
        for bar, days in zip(self._bars, result.data, strict=True):
            bar.set_width(days)
        limit = 1.1 * result.data[-1]
        if self._axes.get_xlim()[1] != limit:
            self._axes.set_xlim(0, limit)
            self.redraw()
