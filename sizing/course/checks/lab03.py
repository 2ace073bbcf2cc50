"""Lab 03, scaling laws: what is right, and what each known mistake leads to."""

import math

from ...planning.scaling import Law, break_even, effective_tokens, law, optimal
from ..exercise import Exercise

REFIT, ROUNDED = law("besiroglu-2024"), law("chinchilla-rounded")
GOPHER = 5.76e23
BUDGET, SMALL = 1e22, 4e9
BEST = optimal(BUDGET, REFIT)
SEEN, UNIQUE, DECAY = 100e9, 20e9, 15.387756


def size(fit: Law, compute: float = GOPHER) -> tuple[float, float]:
    """Billions of parameters and tokens a parameter at the optimum."""
    best = optimal(compute, fit)
    return best.parameters / 1e9, best.tokens_per_parameter


def swapped() -> Law:
    """The refit with alpha and beta exchanged."""
    return Law("swapped", REFIT.E, REFIT.A, REFIT.B, REFIT.beta, REFIT.alpha)


def billions(tokens: float) -> float:
    return tokens / 1e9


def exponent(compute, parameters, log=math.log):
    """Slope of log parameters over log compute by least squares."""
    x, y = [log(c) for c in compute], [log(n) for n in parameters]
    middle_x, middle_y = sum(x) / len(x), sum(y) / len(y)
    above = sum((a - middle_x) * (b - middle_y) for a, b in zip(x, y, strict=True))
    return above / sum((a - middle_x) ** 2 for a in x)


EXERCISES = (
    Exercise(
        "optimal",
        answer=lambda: size(REFIT),
        tolerance=0.02,
        mistakes=(
            (
                lambda: (1e9 * size(REFIT)[0], size(REFIT)[1]),
                "The right size, but asked for in billions: divide by 1e9.",
            ),
            (
                lambda: size(ROUNDED),
                "These are the constants that were printed in 2022. The refit has others, and "
                "puts more than twice as many parameters here.",
            ),
            (
                lambda: size(REFIT, 6 * GOPHER),
                "The 6 is lost: C = 6 N D, so N D is C / 6.",
            ),
            (
                lambda: size(swapped()),
                "Alpha and beta are exchanged: N grows with beta / (alpha + beta).",
            ),
            (
                lambda: (size(REFIT)[0], 1 / size(REFIT)[1]),
                "The size is right. The ratio is upside down: tokens over parameters.",
            ),
        ),
        because="Chinchilla itself had 70 B parameters and 1.4 T tokens, 20 a parameter: the refit "
        "comes back to what approaches 1 and 2 had said.",
    ),
    Exercise(
        "smaller",
        answer=lambda: billions(REFIT.tokens_for(SMALL, BEST.loss)),
        unit="B tokens",
        tolerance=0.02,
        mistakes=(
            (
                lambda: REFIT.tokens_for(SMALL, BEST.loss),
                "The right number, but asked for in billions: divide by 1e9.",
            ),
            (
                lambda: billions(BUDGET / 6 / SMALL),
                "Those are the tokens of the same compute. The smaller model must be trained for "
                "more than the budget to reach the same loss.",
            ),
            (
                lambda: billions(BEST.tokens),
                "Those are the tokens of the optimal model. With fewer parameters the term A / "
                "N^alpha is larger, and B / D^beta has to make up for it.",
            ),
            (
                lambda: billions(20 * SMALL),
                "20 tokens a parameter is the optimum for this size, with a higher loss.",
            ),
        ),
        because="Solve E + A/N^alpha + B/D^beta = L for D.",
    ),
    Exercise(
        "served",
        answer=lambda: break_even(BEST.loss, SMALL, REFIT) / 1e12,
        unit="T tokens",
        tolerance=0.02,
        mistakes=(
            (
                lambda: break_even(BEST.loss, SMALL, REFIT),
                "The right number, but asked for in trillions: divide by 1e12.",
            ),
            (
                lambda: break_even(BEST.loss, SMALL, REFIT) / 3e12,
                "You served at 6 FLOPs a parameter and token. Serving is the forward pass: 2.",
            ),
            (
                lambda: (
                    break_even(BEST.loss, SMALL, REFIT) * (BEST.parameters - SMALL) / SMALL / 1e12
                ),
                "You divided by what the small model costs for each token. What counts is what it "
                "saves: 2 (N - N') for each.",
            ),
        ),
        because="From there on every served token is won.",
    ),
    Exercise(
        "epochs",
        answer=lambda: billions(effective_tokens(SEEN, UNIQUE)),
        unit="B tokens",
        tolerance=0.005,
        mistakes=(
            (
                lambda: effective_tokens(SEEN, UNIQUE),
                "The right number, but asked for in billions: divide by 1e9.",
            ),
            (
                lambda: billions(effective_tokens(SEEN + UNIQUE, UNIQUE)),
                "R counts the repetitions after the first pass: five epochs are R = 4.",
            ),
            (
                lambda: billions(SEEN),
                "That is as if a repeated token were worth a new one.",
            ),
            (
                lambda: billions(UNIQUE),
                "That is as if a repeated token were worth nothing.",
            ),
            (
                lambda: billions(effective_tokens(SEEN, UNIQUE) - UNIQUE),
                "The first pass is missing: U plus what its repetitions are worth.",
            ),
        ),
        because="Nine tenths of as many different ones. At forty epochs: less than four tenths.",
    ),
    Exercise(
        "exponent",
        answer=exponent,
        tolerance=0.001,
        inputs=(
            ((1e18, 1e19, 1e20), (1e8, 3e8, 9e8)),
            ((6e18, 3e19, 1e20, 1e21), (2.0e8, 4.4e8, 9.1e8, 2.6e9)),
        ),
        mistakes=(
            (
                lambda compute, parameters: 1 - exponent(compute, parameters),
                "That is the exponent of the tokens, 1 - a.",
            ),
            (
                lambda compute, parameters: exponent(parameters, compute),
                "The axes are exchanged: log N over log C.",
            ),
            (
                lambda compute, parameters: exponent(compute, parameters, log=float),
                "You fitted N against C themselves. A power law is a line between logarithms.",
            ),
        ),
        because="Both lie near one half: size and tokens grow alike.",
    ),
)
