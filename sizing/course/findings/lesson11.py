"""The questions under lesson 11's calculators."""

from itertools import pairwise

from ...calculators.costs import COUNTS, DOLLARS
from ..finding import Finding, at

EIGHT = {"model": "llama-3.1-8b", "tokens": 1e12, "gpu": "h100-sxm", "price": 4.0}
PLANNED = {"model": "llama-3.2-3b", "gpu": "h100-sxm", "other": "", "gpus": 8} | {
    "batch": 2**20,
    "rank": "time",
}


def _spent(calculator, **settings) -> tuple[float, float]:
    """Dollars and days."""
    result = at(calculator, **settings)
    return result.value, result.data[1]


def _eight_times(calculator) -> str:
    few, many = (_spent(calculator, gpus=gpus) for gpus in (64, 512))
    return (
        f"{few[1]:.1f} days become {many[1]:.1f}, {few[1] / many[1]:.1f} times quicker, for "
        f"{many[0] / few[0]:.0%} of the dollars."
    )


def _no_quicker(calculator) -> str:
    for few, many in pairwise(COUNTS):
        if few < 64:  # where it may not fit
            continue
        before, after = _spent(calculator, gpus=few), _spent(calculator, gpus=many)
        if after[1] > 0.85 * before[1]:
            break
    return (
        f"From {few:,} to {many:,}: {before[1]:.2f} days become {after[1]:.2f}, and the dollars "
        f"{after[0] / before[0]:.1f} times as many. A step has no more sequences to give away."
    )


def _as_cheap(calculator) -> str:
    aim, days = _spent(calculator, gpus=64)
    (one, longer), (two, _) = (
        _spent(calculator, gpu="a100-sxm-80gb", gpus=64, price=price) for price in (1.0, 2.0)
    )
    price = 1 + (aim - one) / (two - one)  # dollars are a straight line in the price
    below = max(p for p in DOLLARS if p <= price)
    above = min(p for p in DOLLARS if p > price)
    return (
        f"Between ${below:.2f} and ${above:.2f} per GPU-hour, and the A100s need "
        f"{longer / days:.1f} times the days."
    )


def _chosen(planner, **settings):
    """The candidate that is looked at."""
    return at(planner, **settings).data[2]


def _tokens(planner) -> str:
    stops = [value for _, value in planner.controls["tokens"].options if 1e10 <= value <= 1e12]
    found = {tokens: _chosen(planner, tokens=tokens) for tokens in stops}
    ready = max(t for t, c in found.items() if c.feasible)
    sure = max(t for t, c in found.items() if c.feasible and c.cost.days_band[1] <= 14)
    return (
        f"Up to {ready / 1e9:g} B by the prediction, up to {sure / 1e9:g} B with the whole band "
        "inside the deadline."
    )


def _missing(planner) -> str:
    return f"At ${planner.settings['budget']:,.0f}: {_chosen(planner).missing}."


def _half(planner) -> str:
    eight, four = (_chosen(planner, look=gpus) for gpus in (8, 4))
    return (
        f"{four.cost.days / eight.cost.days:.1f} times the days, "
        f"{four.cost.dollars / eight.cost.dollars:.2f} times the dollars, and "
        f"{four.memory / 1e9:.0f} instead of {eight.memory / 1e9:.0f} GB: each GPU holds twice the "
        "share of the state."
    )


FINDINGS = {
    "11.cost": (
        Finding(_eight_times, EIGHT | {"gpus": 512}),
        Finding(_no_quicker, EIGHT | {"gpus": 2048}),
        Finding(_as_cheap, EIGHT | {"gpus": 64}),
    ),
    "11.planner": (
        Finding(_tokens, PLANNED | {"deadline": 14, "budget": 15_000}),
        Finding(_missing, PLANNED | {"tokens": 1e11, "deadline": 14, "budget": 3_000}),
        Finding(_half, PLANNED | {"tokens": 1e11, "deadline": 14, "budget": 15_000, "look": 4}),
    ),
}
