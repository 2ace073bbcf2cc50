"""A learner's guesses, what they turned out to be, and how well calibrated the learner is.

The file is a JSON list in the order of events, and only ever grows: a guess is
``{"name", "unit", "guess", "time"}``, and what it turned out to be ``{"name", "actual", "time"}``.
"""

import math
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

from .keeping import Entries


class Guesses:
    """The guesses in a file, or, without one, those of this session.

    A file that is no list of guesses is set aside under another name, never overwritten.
    ``set_aside`` is then its new path.
    """

    def __init__(self, path: Path | None = None):
        self.kept = Entries(path, _is_valid)

    @property
    def set_aside(self) -> Path | None:
        return self.kept.set_aside

    def entries(self) -> list[dict[str, Any]]:
        """Everything kept so far, oldest first."""
        return self.kept.read()

    def guess(self, name: str, value: float, unit: str = "") -> None:
        """Keep a guess. OSError if the file cannot be written."""
        self.kept.append({"name": name, "unit": unit, "guess": value, "time": _now()})

    def reveal(self, name: str, actual: float) -> float | None:
        """The newest guess for ``name``, noting what it turned out to be; None without one."""
        about = [entry for entry in self.entries() if entry["name"] == name]
        guesses = [entry["guess"] for entry in about if "guess" in entry]
        if guesses and "guess" in about[-1]:  # else it was revealed before
            self.kept.append({"name": name, "actual": actual, "time": _now()})
        return guesses[-1] if guesses else None


def outcomes(entries: list[dict[str, Any]]) -> dict[str, float]:
    """log2(guess / actual) of each prediction, in the order in which they were revealed.

    What counts is the last guess before the first reveal: afterwards the learner knows.
    """
    guesses: dict[str, float] = {}
    found: dict[str, float] = {}
    for entry in entries:
        name = entry["name"]
        if "guess" in entry:
            guesses[name] = entry["guess"]
        elif name in guesses:
            found.setdefault(name, math.log2(guesses[name] / entry["actual"]))
    return found


def spread(logs: list[float]) -> float:
    """The factor that half of these predictions were within: 2 to the median of |log2 ratio|."""
    return 2 ** median(abs(log) for log in logs)


def calibration(entries: list[dict[str, Any]], window: int = 10) -> str:
    """One sentence on the last ``window`` predictions, and on the ones before, to compare."""
    logs = list(outcomes(entries).values())
    if not logs:
        return "No prediction has been revealed yet."
    if len(logs) == 1:
        return f"Your first prediction, within a factor of {spread(logs):.1f}."
    last, before = logs[-window:], logs[-2 * window : -window]
    text = f"Over your last {len(last)} predictions you were within a factor of {spread(last):.1f}"
    earlier = f" ({spread(before):.1f} over the {len(before)} before)" if before else ""
    return f"{text} in the median{earlier}."


def quantity(value: float, unit: str) -> str:
    """A number as a learner reads it, with its unit: ``'2,500 TFLOP/s'``, ``'0.31 s'``."""
    number = f"{value:,.0f}" if 1000 <= value < 1e15 else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def _is_valid(entries: Any) -> bool:
    def positive(value: Any) -> bool:
        return isinstance(value, int | float) and 0 < value < math.inf

    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and positive(entry.get("guess", entry.get("actual")))
        for entry in entries
    )


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
