"""Lab 03, scaling laws: what is right, and what each known mistake leads to."""

import math

from ...planning.scaling import Law, law, lifetime, optimal
from ..exercise import Exercise

REFIT, ROUNDED = law("besiroglu-2024"), law("chinchilla-rounded")
GOPHER = 5.76e23
BUDGET, SMALL = 1e22, 4e9
BEST = optimal(BUDGET, REFIT)
LLAMA, SEEN = 8.03e9, 15e12
UNIQUE, WANTED, DECAY = 20e9, 100e9, 15.387756
SIZES = {"A": 2.5e9, "B": 4e9, "C": 6e9, "D": BEST.parameters}
SERVED = (0.1e12, 1e12, 3e12)


def size(fit: Law, compute: float = GOPHER) -> tuple[float, float]:
    """Billions of parameters and tokens per parameter at the optimum."""
    best = optimal(compute, fit)
    return best.parameters / 1e9, best.tokens_per_parameter


def swapped() -> Law:
    """The refit with alpha and beta exchanged."""
    return Law("swapped", REFIT.E, REFIT.A, REFIT.B, REFIT.beta, REFIT.alpha)


def audited() -> tuple[float, float]:
    """Billions of tokens that the smaller model needs, and per cent beyond the budget."""
    needed = lifetime(BEST.loss, SMALL, 0, REFIT)
    return needed.tokens / 1e9, 100 * (needed.training / BUDGET - 1)


def bet(saved: float | None = None, loss: float | None = None) -> float:
    """Trillions of served tokens from which the smaller model's longer training is won back."""
    loss = loss or REFIT.loss(LLAMA, SEEN)
    best = REFIT.cheapest(loss)
    extra = lifetime(loss, LLAMA, 0, REFIT).training - best.compute
    return extra / (saved or 2 * (best.parameters - LLAMA)) / 1e12


def repeats(wanted: float = WANTED, unique: float = UNIQUE) -> tuple[float, float]:
    """Billions of tokens to train on, and billions that all repetition together is worth."""
    more = -DECAY * math.log(1 - (wanted / unique - 1) / DECAY)
    return unique * (1 + more) / 1e9, unique * (1 + DECAY) / 1e9


def exponent(valleys, inside: bool = True, log=math.log) -> float:
    """Slope of log parameters over log compute, over the budgets whose valley was inside."""
    kept = [(log(c), log(n)) for c, n, within in valleys if within or not inside]
    middle_x, middle_y = (sum(v) / len(kept) for v in zip(*kept, strict=True))
    above = sum((a - middle_x) * (b - middle_y) for a, b in kept)
    return above / sum((a - middle_x) ** 2 for a, _ in kept)


def regrets() -> dict[str, float]:
    """Of each size: how many times the cheapest one's FLOPs it costs, at worst."""
    totals = {
        served: {name: lifetime(BEST.loss, n, served, REFIT).total for name, n in SIZES.items()}
        for served in SERVED
    }
    return {
        name: max(total[name] / min(total.values()) for total in totals.values()) for name in SIZES
    }


def choice(name: str | None = None) -> tuple[str, float]:
    """A size, by default the one with the least regret, and its regret."""
    found = regrets()
    name = name or min(found, key=found.get)
    return name, found[name]


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
        because="Chinchilla itself had 70 B parameters and 1.4 T tokens, 20 per parameter: the "
        "refit comes back to what approaches 1 and 2 had said.",
    ),
    Exercise(
        "audit",
        answer=audited,
        tolerance=0.02,
        mistakes=(
            (
                lambda: (BUDGET / 6 / SMALL / 1e9, 0.0),
                "That is the memo as it stands: tokens of the same compute. Put 4 B and these "
                "tokens into the law: is its loss that of the optimum?",
            ),
            (
                lambda: (1e9 * audited()[0], audited()[1]),
                "The right tokens, but asked for in billions.",
            ),
            (
                lambda: (audited()[0], audited()[1] / 100),
                "The right share: give it in per cent.",
            ),
            (
                lambda: (audited()[0], 100 + audited()[1]),
                "That is all of the training against the budget. Asked for is what goes beyond it.",
            ),
            (
                lambda: (BEST.tokens / 1e9, 100 * (6 * SMALL * BEST.tokens / BUDGET - 1)),
                "Those are the tokens of the optimal model. With fewer parameters the term A / "
                "N^alpha is larger, and B / D^beta has to make up for it.",
            ),
        ),
        because="Smaller is never free: the same loss takes more tokens than the same compute "
        "buys. It may still be worth it.",
    ),
    Exercise(
        "bet",
        answer=bet,
        unit="T tokens",
        tolerance=0.03,
        mistakes=(
            (
                lambda: 1e12 * bet(),
                "The right number, but asked for in trillions: divide by 1e12.",
            ),
            (
                lambda: bet() / 3,
                "You served at 6 FLOPs per parameter and token. Serving is the forward pass: 2.",
            ),
            (
                lambda: bet(2 * LLAMA),
                "You divided by what the small model costs for each token. What counts is what it "
                "saves: 2 (N - N') for each.",
            ),
            (
                lambda: SEEN / 1e12,
                "Those are the tokens of its training. Served tokens are another number.",
            ),
        ),
        because="A bet on use, read out of a model card: each of these tokens is worth a FLOP "
        "that was spent before anybody asked for it.",
    ),
    Exercise(
        "repeats",
        answer=repeats,
        tolerance=0.01,
        mistakes=(
            (
                lambda: tuple(1e9 * value for value in repeats()),
                "The right numbers, but asked for in billions: divide by 1e9.",
            ),
            (
                lambda: (WANTED / 1e9, repeats()[1]),
                "That is as if a repeated token were worth a new one.",
            ),
            (
                lambda: (repeats()[0] - UNIQUE / 1e9, repeats()[1]),
                "Those are the repetitions alone. The first pass is trained on, too.",
            ),
            (
                lambda: (repeats()[0], DECAY * UNIQUE / 1e9),
                "The first is right. With endless repetition the first pass counts as well: U (1 "
                "+ R*).",
            ),
        ),
        because="Five and a half epochs are worth five. By this law a text has no more to give "
        "than sixteen times its own length.",
    ),
    Exercise(
        "mend",
        answer=exponent,
        tolerance=0.001,
        inputs=(
            (((1e18, 1e8, True), (1e19, 3e8, True), (1e20, 9e8, True)),),
            (((6e18, 2.0e8, True), (3e19, 4.4e8, True), (1e20, 9.1e8, True), (1e21, 1e9, False)),),
        ),
        mistakes=(
            (
                lambda valleys: exponent(valleys, inside=False),
                "Logarithms: right. But the last budget's lowest point lies beyond the sizes that "
                "were tried: its parabola only says on which side it is.",
            ),
            (
                lambda valleys: exponent(valleys, log=float),
                "Only valleys inside: right. But a power law is a line between logarithms.",
            ),
            (
                lambda valleys: exponent(valleys, inside=False, log=float),
                "That is the function as it stands: it has two faults.",
            ),
            (
                lambda valleys: 1 - exponent(valleys),
                "That is the exponent of the tokens, 1 - a.",
            ),
        ),
        because="One valley that was not inside, and the exponent is another one.",
    ),
    Exercise(
        "choose",
        answer=choice,
        tolerance=0.02,
        mistakes=(
            (
                lambda: choice("D"),
                "D is the optimum for training alone: with 3 T served tokens it costs most.",
            ),
            (
                lambda: choice("A"),
                "A is too small: below a third of the optimum its training explodes.",
            ),
            (
                lambda: choice("B"),
                "B is cheapest at 1 T and at 3 T. Look at what it costs if only 0.1 T come.",
            ),
            (
                lambda: (choice()[0], 1.0),
                "The size is right. Its regret is asked for: its FLOPs over those of the cheapest "
                "size, where that is worst.",
            ),
        ),
        because="It is the best of no forecast, and never far off: the answer to an uncertain "
        "demand is a size between the two optima.",
    ),
)
