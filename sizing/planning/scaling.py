"""How large a model, on how many tokens: scaling laws, and what follows from them.

A law is a fit to training runs, and no more certain than they are: `scaling_laws` has them. Compute
is C = 6 N D throughout: N parameters, D tokens, FLOPs of training. How to fit one's own runs is in
`scaling_fits`, batch size and learning rate in `batch_laws`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from ..units import not_negative, positive
from .scaling_laws import (
    DEFAULT,
    LIMITED,
    PF_DAY,
    SERVE,
    TRAIN,
    Law,
    Line,
    Optimum,
    constants,
    law,
    laws,
    rows,
)

__all__ = [
    "DEFAULT",
    "LIMITED",
    "PF_DAY",
    "SERVE",
    "TRAIN",
    "Law",
    "Lifetime",
    "Line",
    "Optimum",
    "break_even",
    "constants",
    "effective_parameters",
    "effective_tokens",
    "for_serving",
    "law",
    "laws",
    "lifetime",
    "loss_limited",
    "optimal",
    "rows",
]


@dataclass(frozen=True)
class Lifetime:
    """A model of some size that reaches a loss, and what training and serving it cost.

    Attributes:
        parameters, tokens: N and D; D is what this size needs for the loss.
        loss: nats per token.
        served: tokens read and written in its lifetime.
        training, serving: FLOPs, 6 N D and 2 N for each served token.
        fit: the law.
    """

    parameters: float
    tokens: float
    loss: float
    served: float
    fit: str

    @property
    def training(self) -> float:
        return TRAIN * self.parameters * self.tokens

    @property
    def serving(self) -> float:
        return SERVE * self.parameters * self.served

    @property
    def total(self) -> float:
        return self.training + self.serving

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters


# --- the optimum ------------------------------------------------------------------------------


def optimal(
    compute: float, fit: str | Law | Line | None = None, *, unique: float | None = None
) -> Optimum:
    """Parameters and tokens that make the most of a budget of training compute.

    Args:
        compute: FLOPs of training, counted as 6 N D.
        fit: a name of `laws()`, or one's own `Law`. By default "besiroglu-2024", the refit of
            Chinchilla's approach 3, or with `unique` "muennighoff-2023", which was fitted together
            with the worth of repeated tokens.
        unique: different tokens that there are; more are had by repeating them, and are worth less.
            None for no limit.

    Returns:
        An `Optimum` that names its fit. Kaplan's and approaches 1 to 3 are lines and predict no
        loss. Kaplan's N leaves out the embedding.

    Raises:
        ValueError: names the field, the value and what is allowed.

    Source: Hoffmann et al., arXiv:2203.15556, equation 4; Besiroglu et al., arXiv:2404.10102;
    Muennighoff et al., arXiv:2305.16264, equations 5 and 6; Kaplan et al., arXiv:2001.08361.

    >>> best = optimal(compute=1e21)
    >>> f"{best.parameters:.2e} {best.tokens:.2e} {best.loss:.3f} {best.fit}"
    '2.78e+09 6.00e+10 2.306 besiroglu-2024'
    """
    positive("compute", compute)
    compute = float(compute)
    if unique is not None:
        positive("unique", unique)
        return _limited(compute, law(fit or LIMITED), unique)
    chosen = fit or DEFAULT
    if isinstance(chosen, str):
        if chosen not in laws():
            raise ValueError(f"fit: {chosen!r} given; allowed: {', '.join(laws())}")
        chosen = laws()[chosen]
    parameters = chosen.parameters(compute)
    tokens = compute / TRAIN / parameters
    loss = chosen.loss(parameters, tokens) if isinstance(chosen, Law) else None
    return Optimum(compute, parameters, tokens, chosen.name, loss)


# --- more tokens than optimal -----------------------------------------------------------------


def lifetime(
    loss: float, parameters: float, served: float = 0.0, fit: str | Law = DEFAULT
) -> Lifetime:
    """What a model of this size costs that is trained until it reaches a loss, and then serves.

    Args:
        loss: nats per token to reach, such as that of `optimal`.
        parameters: of the model; fewer than optimal is over-trained.
        served: tokens read and written by users in its lifetime.
        fit: a parametric law.

    Raises:
        ValueError: the model never reaches the loss.
    """
    not_negative("served", served)
    chosen = law(fit)
    tokens = chosen.tokens_for(parameters, loss)
    return Lifetime(parameters, tokens, loss, served, chosen.name)


def break_even(loss: float, parameters: float, fit: str | Law = DEFAULT) -> float:
    """Served tokens from which a model smaller than optimal costs fewer FLOPs in all.

    Raises:
        ValueError: the model is not smaller than the optimal one, or never reaches the loss.
    """
    chosen = law(fit)
    best = chosen.cheapest(loss)
    if not parameters < best.parameters:
        raise ValueError(
            f"parameters: {parameters!r} given; allowed: fewer than the optimal "
            f"{best.parameters:.4g}"
        )
    extra = lifetime(loss, parameters, 0, chosen).training - best.compute
    return extra / (SERVE * (best.parameters - parameters))


def for_serving(loss: float, served: float, fit: str | Law = DEFAULT) -> Lifetime:
    """The size that reaches a loss with the fewest FLOPs of training and serving together.

    Minimises 6 N D + 2 N x served over the sizes N that reach the loss (Sardana et al.,
    arXiv:2401.00448, equation 2). A FLOP is taken to cost the same in both, though serving uses a
    GPU less well: raise `served` by the ratio.

    Raises:
        ValueError: the loss is not above the law's E.
    """
    not_negative("served", served)
    chosen = law(fit)
    best = chosen.cheapest(loss)
    least = (chosen.A / (loss - chosen.E)) ** (1 / chosen.alpha)  # never quite reaches the loss

    def total(parameters: float) -> float:
        return lifetime(loss, parameters, served, chosen).total

    return lifetime(loss, _lowest(total, least * (1 + 1e-9), best.parameters), served, chosen)


# --- fewer tokens than optimal ----------------------------------------------------------------


def effective_tokens(tokens: float, unique: float) -> float:
    """What repeated tokens are worth, in different ones: U (1 + R* (1 - e^(-R / R*))).

    Args:
        tokens: seen in training, repetitions counted.
        unique: different ones. R = tokens / unique - 1 is how often they are repeated.

    Source: Muennighoff et al., arXiv:2305.16264, equation 5; R* = 15.39, with dropout.
    """
    positive("tokens", tokens)
    positive("unique", unique)
    return _worth(tokens, min(unique, tokens), constants("repetition")["tokens"])


def effective_parameters(parameters: float, unique: float, fit: str | Law = LIMITED) -> float:
    """What parameters are worth beyond those for which the different tokens are optimal.

    Source: Muennighoff et al., arXiv:2305.16264, equation 6; R* = 5.31.
    """
    positive("parameters", parameters)
    useful = min(parameters, law(fit).parameters_for(unique))
    return _worth(parameters, useful, constants("repetition")["parameters"])


def loss_limited(
    parameters: float, tokens: float, unique: float, fit: str | Law = LIMITED
) -> float:
    """Nats per token after `tokens` of which only `unique` are different.

    The form saturates and never rises: in reality too many epochs on too little text overfit.

    Source: Muennighoff et al., arXiv:2305.16264, section 3.1.
    """
    chosen = law(fit)
    positive("tokens", tokens)
    positive("unique", unique)
    seen = min(unique, tokens)
    return chosen.loss(
        effective_parameters(parameters, seen, chosen), effective_tokens(tokens, seen)
    )


def _limited(compute: float, chosen: Law, unique: float) -> Optimum:
    free = chosen.parameters(compute)
    if compute / TRAIN / free <= unique:
        best = optimal(compute, chosen)
        return replace(best, unique=unique)

    def at(parameters: float) -> float:
        return loss_limited(parameters, compute / TRAIN / parameters, unique, chosen)

    # Between one epoch of all tokens, larger than which no repetition is left, and a thousandth.
    parameters = _lowest(at, free / 1e3, compute / TRAIN / unique)
    tokens = compute / TRAIN / parameters
    return Optimum(compute, parameters, tokens, chosen.name, at(parameters), unique)


def _worth(count: float, unique: float, decay: float) -> float:
    return unique * (1 - decay * math.expm1(-(count / unique - 1) / decay))


def _lowest(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function with one valley is lowest, between two positive numbers: golden section."""
    shrink = (math.sqrt(5) - 1) / 2
    a, b = math.log(low), math.log(high)
    c, d = b - shrink * (b - a), a + shrink * (b - a)
    at_c, at_d = function(math.exp(c)), function(math.exp(d))
    while b - a > 1e-9:
        if at_c < at_d:
            b, d, at_d = d, c, at_c
            c = b - shrink * (b - a)
            at_c = function(math.exp(c))
        else:
            a, c, at_c = c, d, at_d
            d = a + shrink * (b - a)
            at_d = function(math.exp(d))
    return math.exp((a + b) / 2)
