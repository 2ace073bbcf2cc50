"""The questions under lesson 03's calculator."""

from ...calculators.base import decades
from ...calculators.compute_optimal import FITS
from ...planning.scaling import for_serving, optimal
from ...units import count
from ..finding import Finding

BUDGET, TEXT = 1e23, 1e11


def spread(compute: float) -> float:
    """How many times the largest size that a fit asks for is of the smallest."""
    sizes = [optimal(compute, fit).parameters for fit in FITS]
    return max(sizes) / min(sizes)


FAR = next(c for c in decades(1e18, 1e27) if spread(c) >= 3)


def _apart(_calculator) -> str:
    return (
        f"From about {FAR:.0e} FLOPs on: {spread(FAR):.1f} times there, {spread(10 * FAR):.1f} at "
        "ten times that budget. They agree near the runs that they were fitted to, and part from "
        "there."
    )


def _epochs(_calculator) -> str:
    free = optimal(BUDGET, "muennighoff-2023")
    held = optimal(BUDGET, "muennighoff-2023", unique=TEXT)
    return (
        f"With the fit muennighoff-2023: {held.epochs:.1f} epochs, and a loss of {held.loss:.3f} "
        f"instead of {free.loss:.3f}: {held.loss - free.loss:.3f} lost."
    )


def half_from(compute: float = BUDGET) -> float:
    """The fewest served tokens, of the slider's stops, for which half the size is cheaper."""
    best = optimal(compute)
    return next(
        served
        for served in decades(1e9, 1e16)
        if for_serving(best.loss, served).parameters < best.parameters / 2
    )


def _serving(_calculator) -> str:
    served, best = half_from(), optimal(BUDGET)
    return (
        f"At {BUDGET:.0e} FLOPs from about {count(served)} served tokens on: "
        f"{served / best.tokens:.1f} times the tokens of the training."
    )


FINDINGS = {
    "03.optimal": (
        Finding(_apart, {"compute": FAR}),
        Finding(_epochs, {"compute": BUDGET, "unique": TEXT, "fit": "muennighoff-2023"}),
        Finding(_serving, {"compute": BUDGET, "served": half_from()}),
    ),
}
