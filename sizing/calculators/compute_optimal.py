"""ComputeOptimal: a budget of compute, the data there is, the serving to come: size and tokens."""

from __future__ import annotations

import numpy as np

from ..planning.scaling import Law, effective_tokens, for_serving, law, laws, lifetime, optimal
from ..units import count, si
from . import style
from .base import Calculator, Result, decades, dropdown, scale

FITS = [name for name, value in laws().items() if isinstance(value, Law)]
BUDGETS = [float(f"{v:.2g}") for v in decades(1e17, 1.1e27)]
NO_LIMIT, NO_SERVING = 0.0, 0.0
SIZES, TOKENS = (1e6, 1e14), (1e8, 1e17)  # what the picture shows
LEVELS = (1.9, 2.0, 2.2, 2.5, 3.0, 4.0, 6.0)  # nats per token


class ComputeOptimal(Calculator):
    """Parameters and tokens. Settings: compute, unique, served, fit.

    `unique` are the different tokens there are (0: no limit), `served` those read and written in
    the model's life (0: none).
    """

    title = "Compute-optimal size"

    def make_controls(self):
        return {
            "compute": scale("compute", BUDGETS, 1e21, lambda v: si(v, "FLOP")),
            "unique": scale(
                "different tokens",
                [NO_LIMIT, *decades(1e8, 1e14)],
                NO_LIMIT,
                lambda v: f"{count(v)}" if v else "no limit",
            ),
            "served": scale(
                "tokens served",
                [NO_SERVING, *decades(1e9, 1e16)],
                NO_SERVING,
                lambda v: f"{count(v)}" if v else "none",
            ),
            "fit": dropdown("fit", FITS, "besiroglu-2024"),
        }

    def result(self, compute, unique, served, fit) -> Result:
        chosen = law(fit)
        free = optimal(compute, chosen)
        best = optimal(compute, chosen, unique=unique) if unique else free
        small = for_serving(free.loss, served, chosen)
        rows = [
            _row("optimal, no limit", free.parameters, free.tokens, free.loss, free.compute),
            _row("with the data there is", best.parameters, best.tokens, best.loss, best.compute),
            _row("for serving", small.parameters, small.tokens, small.loss, small.training),
        ]
        large = lifetime(free.loss, free.parameters, served, chosen)
        notes = [f"By {fit}; loss {best.loss:.3f} nats per token."]
        if best.epochs > 1:
            worth = effective_tokens(best.tokens, unique) / best.tokens
            notes.append(
                f"{best.epochs:.1f} epochs: the repeated tokens are worth {worth:.0%} of as many "
                f"different ones, and the loss is {best.loss - free.loss:.3f} above that without "
                "a limit."
            )
        if served:
            notes.append(
                f"Served {count(served)} tokens: {count(small.parameters)} parameters on "
                f"{count(small.tokens)} tokens reach the loss without a limit too, for "
                f"{1 - small.total / large.total:.0%} fewer FLOPs of training and serving together."
            )
            if unique and small.tokens > unique:
                notes.append(f"That is {small.tokens / unique:.1f} times the data there is.")
        spread = [optimal(compute, name).parameters for name in FITS]
        return Result(
            value=best.parameters,
            headline=f"{count(best.parameters)} parameters on {count(best.tokens)} tokens",
            formula=(
                f"min of E + A/N^α + B/D^β at 6ND = {si(compute, 'FLOP')}, E = {chosen.E:g}, "
                f"A = {chosen.A:g}, B = {chosen.B:g}, α = {chosen.alpha:g}, β = {chosen.beta:g}: "
                f"N = {best.parameters:.3g}, D = {best.tokens:.3g}"
            ),
            columns=(
                "what to train",
                "parameters",
                "tokens",
                "tokens per parameter",
                "loss",
                "FLOPs",
            ),
            rows=tuple(rows),
            caption=(
                "Lines of equal loss over parameters and tokens. The straight line is the budget; "
                "it touches the lowest loss at the circle. The square is the choice with the data "
                "there is, the triangle the size for serving, at the circle's loss."
            ),
            notes=tuple(notes),
            accuracy=(
                f"The {len(FITS)} parametric fits put the optimum between {count(min(spread))} and "
                f"{count(max(spread))} parameters at this compute; outside the range of the runs "
                "they were fitted to (about 1e18 to 1e22 FLOPs) nobody has checked them."
            ),
            source=chosen.source,
            data=(fit, compute, free, best, small),
        )

    def prepare(self, figure):
        self._axes = axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlim=SIZES, ylim=TOKENS)
        axes.set(xlabel="parameters", ylabel="tokens")
        self._drawn, self._contours = None, None
        (self._line,) = axes.plot([], [], color=style.BLUE, label="this budget")
        (self._free,) = axes.plot([], [], "o", color=style.RED, label="optimal")
        (self._best,) = axes.plot([], [], "s", color=style.GREEN, label="with the data there is")
        (self._small,) = axes.plot([], [], "^", color=style.BLACK, label="for serving")
        axes.legend(loc="lower right", ncols=2)
        return [self._line, self._free, self._best, self._small]

    def update(self, result):
        fit, compute, free, best, small = result.data
        if fit != self._drawn:
            self._surface(law(fit))
            self._drawn = fit
        self._line.set_data(SIZES, [compute / 6 / n for n in SIZES])
        for mark, at in ((self._free, free), (self._best, best), (self._small, small)):
            mark.set_data([at.parameters], [at.tokens])

    def _surface(self, chosen: Law) -> None:
        if self._contours is not None:
            self._contours.remove()  # and with it its labels
        n, d = np.geomspace(*SIZES, 80), np.geomspace(*TOKENS, 80)
        loss = (
            chosen.E + chosen.A / n[None, :] ** chosen.alpha + chosen.B / d[:, None] ** chosen.beta
        )
        self._contours = self._axes.contour(
            n, d, loss, levels=LEVELS, colors="#888888", linewidths=1
        )
        self._axes.clabel(self._contours, fmt="%.1f", fontsize=8)
        self.redraw()


def _row(what: str, parameters: float, tokens: float, loss: float, compute: float):
    ratio = f"{tokens / parameters:.1f}"
    return what, count(parameters), count(tokens), ratio, f"{loss:.3f}", si(compute, "FLOP")
