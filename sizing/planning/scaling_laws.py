"""The laws themselves: losses and lines that were fitted to runs, and those that were published.

The parametric loss L(N, D) = E + A / N^alpha + B / D^beta (`Law`), from which an optimum follows,
and a line N = k C^a through optima that were found otherwise (`Line`). The constants of published
ones stand in data/scaling_laws.csv and data/chinchilla_tables.csv, each with its source.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache

from ..units import DATA, positive

DEFAULT = "besiroglu-2024"
LIMITED = "muennighoff-2023"  # fitted together with the constants of repetition
PF_DAY = 86400e15  # FLOPs: 1e15 FLOP/s for a day, the unit of compute in Kaplan et al.
TRAIN, SERVE = 6, 2  # FLOPs of a parameter and token: forward and backward, forward alone


@dataclass(frozen=True)
class Law:
    """The parametric loss L(N, D) = E + A / N^alpha + B / D^beta, in nats per token.

    Attributes:
        name: in data/scaling_laws.csv, or a name for one's own fit.
        E: loss that no model of this kind gets below: the entropy of the text.
        A, alpha: what too few parameters cost.
        B, beta: what too few tokens cost.
        source: where the constants were printed.

    Source: Hoffmann et al., arXiv:2203.15556, section 3.3.
    """

    name: str
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    source: str = ""

    def loss(self, parameters: float, tokens: float) -> float:
        """Nats per token of a model with so many parameters after so many different tokens."""
        positive("parameters", parameters)
        positive("tokens", tokens)
        return self.E + self.A / parameters**self.alpha + self.B / tokens**self.beta

    @property
    def exponent(self) -> float:
        """a of N ~ C^a at the optimum: beta / (alpha + beta)."""
        return self.beta / (self.alpha + self.beta)

    def parameters(self, compute: float) -> float:
        """Compute-optimal parameters for C = 6 N D FLOPs (arXiv:2203.15556, equation 4)."""
        positive("compute", compute)
        ratio = self.alpha * self.A / (self.beta * self.B)
        return ratio ** (1 / (self.alpha + self.beta)) * (compute / TRAIN) ** self.exponent

    def parameters_for(self, tokens: float) -> float:
        """Parameters for which so many tokens are the compute-optimal number."""
        positive("tokens", tokens)
        ratio = self.alpha * self.A / (self.beta * self.B)
        # At the optimum alpha A / N^alpha = beta B / D^beta.
        return (ratio * tokens**self.beta) ** (1 / self.alpha)

    def tokens_for(self, parameters: float, loss: float) -> float:
        """Tokens after which a model of this size reaches a loss.

        Raises:
            ValueError: a model of this size never reaches the loss.
        """
        positive("parameters", parameters)
        positive("loss", loss)
        floor = self.E + self.A / parameters**self.alpha
        if not loss > floor:
            raise ValueError(
                f"loss: {loss!r} given; allowed: above {floor:.4f}, which {parameters:.3g} "
                f"parameters approach with endless tokens by {self.name}"
            )
        return (self.B / (loss - floor)) ** (1 / self.beta)

    def cheapest(self, loss: float) -> Optimum:
        """The smallest compute that reaches a loss: optimal parameters and tokens.

        Raises:
            ValueError: the loss is not above E.
        """
        if not loss > self.E:
            raise ValueError(
                f"loss: {loss!r} given; allowed: above E = {self.E} of {self.name}, the loss that "
                "no model gets below"
            )
        # At the optimum A / N^alpha is the share beta / (alpha + beta) of what is above E.
        above = loss - self.E
        parameters = (self.A / (above * self.exponent)) ** (1 / self.alpha)
        tokens = (self.B / (above * (1 - self.exponent))) ** (1 / self.beta)
        return Optimum(TRAIN * parameters * tokens, parameters, tokens, self.name, loss)


@dataclass(frozen=True)
class Line:
    """Compute-optimal parameters as a power of compute: N = start (C / compute)^exponent.

    Attributes:
        start, compute: parameters, and the FLOPs for which they are optimal.
        exponent: a of N ~ C^a.
    """

    name: str
    start: float
    compute: float
    exponent: float
    source: str = ""

    def parameters(self, compute: float) -> float:
        """Compute-optimal parameters for so many FLOPs."""
        positive("compute", compute)
        return self.start * (compute / self.compute) ** self.exponent


@dataclass(frozen=True)
class Optimum:
    """What to train.

    Attributes:
        compute: FLOPs of training, 6 N D.
        parameters, tokens: N and D; tokens count every repetition.
        fit: the law that says so.
        loss: nats per token that the law predicts; None where it is a line without a loss.
        unique: different tokens; None where they were not limited.
    """

    compute: float
    parameters: float
    tokens: float
    fit: str
    loss: float | None = None
    unique: float | None = None

    @property
    def tokens_per_parameter(self) -> float:
        return self.tokens / self.parameters

    @property
    def epochs(self) -> float:
        """How often each token is seen; 1 where there were enough."""
        return 1.0 if self.unique is None else max(1.0, self.tokens / self.unique)


@cache
def _constants() -> dict[str, dict[str, float]]:
    """Constants of each law in data/scaling_laws.csv."""
    found: dict[str, dict[str, float]] = {}
    for row in rows("scaling_laws"):
        found.setdefault(row["law"], {})[row["constant"]] = float(row["value"])
    return found


def constants(law: str) -> dict[str, float]:
    """The constants of a law in data/scaling_laws.csv, by their names there.

    Raises:
        ValueError: there is no such law.
    """
    if law not in _constants():
        raise ValueError(f"law: unknown {law!r}; allowed: {', '.join(_constants())}")
    return _constants()[law]


def rows(table: str) -> list[dict[str, str]]:
    """The rows of a table in data/, as they stand there."""
    with (DATA / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


@cache
def laws() -> dict[str, Law | Line]:
    """Every law that says how to divide compute between parameters and tokens.

    The three approaches of Hoffmann et al. printed exponents with two digits and no factor: each is
    the line through the first and the last row of its table, which the other rows confirm.
    """
    sources = {row["law"]: row["source"] for row in reversed(rows("scaling_laws"))}
    found: dict[str, Law | Line] = {
        name: Law(name, **values, source=sources[name])
        for name, values in _constants().items()
        if "E" in values
    }
    kaplan = constants("kaplan-2020")
    found["kaplan-2020"] = Line(
        "kaplan-2020", kaplan["parameters"], PF_DAY, kaplan["exponent"], sources["kaplan-2020"]
    )
    for approach in ("1", "2", "3"):
        table = [row for row in rows("chinchilla_tables") if row["approach"] == approach]
        (n0, c0), (n1, c1) = (
            (float(row["parameters"]), float(row["flops"])) for row in (table[0], table[-1])
        )
        name, slope = f"chinchilla-{approach}", math.log(n1 / n0) / math.log(c1 / c0)
        found[name] = Line(name, n0, c0, slope, table[0]["source"])
    return found


def law(name: str | Law = DEFAULT) -> Law:
    """A parametric law by its name; a `Law` is returned as it is.

    Raises:
        ValueError: there is no parametric law of this name.
    """
    if isinstance(name, Law):
        return name
    found = laws().get(name)
    if not isinstance(found, Law):
        allowed = ", ".join(key for key, value in laws().items() if isinstance(value, Law))
        raise ValueError(f"fit: {name!r} given; allowed here: {allowed}")
    return found
