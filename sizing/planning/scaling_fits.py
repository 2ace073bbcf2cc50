"""A scaling law from one's own runs: parabolas, the line through their lowest points, Huber's fit.

The two ways of Hoffmann et al. (arXiv:2203.15556) that need few runs: approach 2, a parabola a
budget of compute, and approach 3, the parametric loss fitted to all runs. Each with the band that
resampling gives: the spread of what the same runs, drawn again, would have said.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..units import positive
from .scaling import TRAIN, Law, Line

DELTA = 1e-3  # of Huber's loss on the logarithm of the loss: Hoffmann et al., section 3.3
FLOORS = (0.3, 0.6, 0.9)  # where fits begin: E as a share of the lowest loss,
POWERS = (0.2, 0.5)  # and alpha and beta
OPTIONS = {"maxiter": 5000, "maxfun": 20000, "ftol": 1e-13, "gtol": 1e-7, "maxcor": 20}


@dataclass(frozen=True)
class Parabola:
    """Loss over the logarithm of the parameters, at one budget of compute.

    Attributes:
        compute: FLOPs of each run.
        parameters, loss: where the parabola is lowest, and how low.
        curvature: loss that a factor of e in size costs; above 0, or there is no lowest point.
        inside: whether the lowest point lies between the smallest and the largest model that was
            trained. Where it does not, the budget says only on which side it is.
        spread: standard deviation of the runs around the parabola, nats per token.
    """

    compute: float
    parameters: float
    loss: float
    curvature: float
    inside: bool
    spread: float

    def at(self, parameters: float) -> float:
        """The parabola's loss at a size."""
        return self.loss + self.curvature * math.log(parameters / self.parameters) ** 2


@dataclass(frozen=True)
class Sweep:
    """Parabolas of several budgets and the power law through their lowest points.

    Attributes:
        parabolas: one a budget, smallest first.
        line: parameters over compute.
        exponents: exponents a of N ~ C^a from resampled runs, sorted.
    """

    parabolas: tuple[Parabola, ...]
    line: Line
    exponents: tuple[float, ...]

    def band(self, share: float = 0.8) -> tuple[float, float]:
        """Between which exponents this share of the resampled fits lies."""
        return band(self.exponents, share)


def parabola(compute: float, parameters: Sequence[float], losses: Sequence[float]) -> Parabola:
    """The parabola through the runs of one budget (approach 2 of Hoffmann et al.).

    Args:
        compute: FLOPs of each run.
        parameters, losses: of each run; at least three sizes.

    Raises:
        ValueError: fewer than three sizes, or runs through which no valley leads.
    """
    import numpy as np

    if len(set(parameters)) < 3 or len(parameters) != len(losses):
        raise ValueError(
            f"parameters: {len(set(parameters))} sizes and {len(losses)} losses given; allowed: "
            "three sizes or more, and a loss for each run"
        )
    x, y = np.log(np.asarray(parameters, float)), np.asarray(losses, float)
    centre = x.mean()  # fitted around it: the powers of a logarithm near 20 are ill-conditioned
    a, b, c = np.polyfit(x - centre, y, 2)
    if not a > 0:
        raise ValueError(
            f"losses: those at {compute:.3g} FLOPs have no valley; allowed: sizes on both sides of "
            "the lowest loss"
        )
    at = -b / (2 * a)
    rest = y - np.polyval((a, b, c), x - centre)
    spread = math.sqrt(float(rest @ rest) / max(1, len(y) - 3))
    return Parabola(
        compute=compute,
        parameters=float(np.exp(at + centre)),
        loss=float(c - b * b / (4 * a)),
        curvature=float(a),
        inside=bool(x.min() <= at + centre <= x.max()),
        spread=spread,
    )


def sweep(
    compute: Sequence[float],
    parameters: Sequence[float],
    losses: Sequence[float],
    draws: int = 1000,
    seed: int = 0,
) -> Sweep:
    """IsoFLOP curves: a parabola for each budget, the line through the lowest points, its band.

    The band is a bootstrap of residuals: each budget keeps its sizes, and the distances of its
    runs from the parabola are drawn again around it, scaled up for the three that a parabola uses.
    A budget whose redrawn runs have no valley is drawn once more.

    Args:
        compute, parameters, losses: of each run; runs of one budget have the same compute.
        draws: how often the runs are drawn again.

    Raises:
        ValueError: fewer than two budgets, or a budget without a valley.
    """
    import numpy as np

    budgets = sorted(set(compute))
    if len(budgets) < 2:
        raise ValueError(f"compute: {len(budgets)} budget given; allowed: two or more")
    runs = {
        c: [(n, loss) for cc, n, loss in zip(compute, parameters, losses, strict=True) if cc == c]
        for c in budgets
    }
    found = tuple(parabola(c, *zip(*runs[c], strict=True)) for c in budgets)
    line = _line(found)
    random, exponents = np.random.default_rng(seed), []
    for _ in range(draws):
        again = []
        for fitted in found:
            sizes = [n for n, _ in runs[fitted.compute]]
            smooth = np.array([fitted.at(n) for n in sizes])
            rest = np.array([loss for _, loss in runs[fitted.compute]]) - smooth
            rest = rest * math.sqrt(len(rest) / max(1, len(rest) - 3))
            again.append(_redrawn(fitted, sizes, smooth, rest, random))
        exponents.append(_line(again).exponent)
    return Sweep(found, line, tuple(sorted(exponents)))


def _redrawn(fitted: Parabola, sizes, smooth, rest, random) -> Parabola:
    for _ in range(100):
        try:
            return parabola(fitted.compute, sizes, smooth + random.choice(rest, len(rest)))
        except ValueError:
            continue
    raise ValueError(
        f"losses: those at {fitted.compute:.3g} FLOPs scatter more than their valley is deep; "
        "allowed: more sizes, or longer runs"
    )


def _line(parabolas: Sequence[Parabola]) -> Line:
    import numpy as np

    x = np.log([p.compute for p in parabolas])
    slope, offset = np.polyfit(x - x.mean(), np.log([p.parameters for p in parabolas]), 1)
    return Line("own runs", float(np.exp(offset)), float(np.exp(x.mean())), float(slope))


def parametric(
    parameters: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    delta: float = DELTA,
    start: Law | None = None,
) -> Law:
    """L = E + A / N^alpha + B / D^beta fitted to runs (approach 3 of Hoffmann et al.).

    Minimises the *sum* of Huber's loss between the logarithms of measured and fitted loss, from
    several starting points, with scipy's L-BFGS. A mean instead of a sum makes the optimiser stop
    too early, which is what went wrong in the paper (Besiroglu et al., arXiv:2404.10102).

    Args:
        parameters, tokens, losses: of each run; five constants need more than five runs.
        delta: where Huber's loss turns from a square to a line.
        start: begin here alone.

    Raises:
        ValueError: too few runs; a run whose loss is no number.
    """
    import itertools

    import numpy as np
    from scipy.optimize import minimize

    if len(losses) < 6 or not len(parameters) == len(tokens) == len(losses):
        raise ValueError(
            f"losses: {len(losses)} given; allowed: six or more, with parameters and tokens each"
        )
    for field, values in (("parameters", parameters), ("tokens", tokens), ("losses", losses)):
        for value in values:
            positive(field, float(value))
    n, d, measured = (np.log(np.asarray(v, float)) for v in (parameters, tokens, losses))

    # Around the middle run the five are nearly independent; far from it A and alpha hang together.
    middle_n, middle_d = n.mean(), d.mean()
    x, y = n - middle_n, d - middle_d

    def objective(theta):
        e, a, b, alpha, beta = theta
        terms = np.stack([np.full_like(x, e), a - alpha * x, b - beta * y])
        top = terms.max(0)
        weights = np.exp(terms - top)
        total = weights.sum(0)
        rest = top + np.log(total) - measured
        inside = np.abs(rest) <= delta
        value = np.where(inside, rest**2 / 2, delta * (np.abs(rest) - delta / 2)).sum()
        share = weights / total * np.where(inside, rest, delta * np.sign(rest))
        slope = [*share.sum(1), -(share[1] * x).sum(), -(share[2] * y).sum()]
        # Scaled so that the optimiser's thresholds, made for values near 1, do not end it early.
        return value / delta**2, np.array(slope) / delta**2

    if start is None:
        lowest, middle = math.exp(measured.min()), math.exp(measured.mean())
        points = []
        for floor, alpha, beta in itertools.product(FLOORS, POWERS, POWERS):
            half = math.log((middle - floor * lowest) / 2)
            points.append((math.log(floor * lowest), half, half, alpha, beta))
    else:
        at_n = math.log(start.A) - start.alpha * middle_n
        at_d = math.log(start.B) - start.beta * middle_d
        points = [(math.log(start.E), at_n, at_d, start.alpha, start.beta)]
    ends = [
        minimize(objective, point, jac=True, method="L-BFGS-B", options=OPTIONS) for point in points
    ]
    e, a, b, alpha, beta = (float(v) for v in min(ends, key=lambda end: end.fun).x)
    return Law(
        "own runs",
        math.exp(e),
        math.exp(a + alpha * middle_n),
        math.exp(b + beta * middle_d),
        alpha,
        beta,
    )


def resampled(
    parameters: Sequence[float],
    tokens: Sequence[float],
    losses: Sequence[float],
    draws: int = 100,
    seed: int = 0,
) -> list[Law]:
    """`parametric` on runs drawn with replacement, each from the fit of all runs.

    Raises:
        ValueError: too few runs.
    """
    import numpy as np

    columns = [np.asarray(v, float) for v in (parameters, tokens, losses)]
    whole = parametric(*columns)
    random, found = np.random.default_rng(seed), []
    for _ in range(draws):
        chosen = random.integers(0, len(columns[0]), len(columns[0]))
        found.append(parametric(*(column[chosen] for column in columns), start=whole))
    return found


def band(values: Sequence[float], share: float = 0.8) -> tuple[float, float]:
    """Between which two values the middle share of them lies."""
    import numpy as np

    if not 0 < share < 1:
        raise ValueError(f"share: {share!r} given; allowed: between 0 and 1, as 0.8 for 80 %")
    if not len(values):
        raise ValueError("values: none given; allowed: one or more")
    low, high = np.quantile(values, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def tokens_at(compute: float, parameters: float) -> float:
    """Tokens that a budget leaves for a size, by C = 6 N D."""
    positive("compute", compute)
    positive("parameters", parameters)
    return compute / (TRAIN * parameters)
