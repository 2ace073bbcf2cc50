"""A learner's guesses, what they turned out to be, and how well calibrated the learner is.

The file is a JSON list in the order of events, and only ever grows: a guess is
``{"name", "unit", "guess", "time"}``, and what it turned out to be ``{"name", "actual", "time"}``.
"""

import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any


class Guesses:
    """The guesses in a file, or, without one, those of this session.

    A file that is no list of guesses is set aside under another name, never overwritten.
    ``set_aside`` is then its new path.
    """

    def __init__(self, path: Path | None = None):
        self.path = path
        self.set_aside: Path | None = None
        self._session: list[dict[str, Any]] = []

    def entries(self) -> list[dict[str, Any]]:
        """Everything kept so far, oldest first."""
        if self.path is None:
            return list(self._session)
        try:
            entries = json.loads(self.path.read_text(encoding="utf-8"))
            if not _is_valid(entries):
                raise ValueError("not a list of guesses")
        except FileNotFoundError:
            return []
        except ValueError:  # also what json and utf-8 raise
            self.set_aside = self.path.with_name(f"{self.path.stem}.damaged-{time.time_ns()}.json")
            self.path.rename(self.set_aside)
            return []
        return entries

    def guess(self, name: str, value: float, unit: str = "") -> None:
        """Keep a guess. OSError if the file cannot be written."""
        self._append({"name": name, "unit": unit, "guess": value})

    def reveal(self, name: str, actual: float) -> float | None:
        """The newest guess for ``name``, noting what it turned out to be; None without one."""
        about = [entry for entry in self.entries() if entry["name"] == name]
        guesses = [entry["guess"] for entry in about if "guess" in entry]
        if guesses and "guess" in about[-1]:  # else it was revealed before
            self._append({"name": name, "actual": actual})
        return guesses[-1] if guesses else None

    def _append(self, entry: dict[str, Any]) -> None:
        entry["time"] = datetime.now(UTC).isoformat(timespec="seconds")
        if self.path is None:
            self._session.append(entry)
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _locked(self.path):
            _replace(self.path, json.dumps([*self.entries(), entry], indent=1, ensure_ascii=False))


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


def _is_valid(entries: Any) -> bool:
    def positive(value: Any) -> bool:
        return isinstance(value, int | float) and 0 < value < math.inf

    return isinstance(entries, list) and all(
        isinstance(entry, dict)
        and isinstance(entry.get("name"), str)
        and positive(entry.get("guess", entry.get("actual")))
        for entry in entries
    )


@contextmanager
def _locked(path: Path, patience: float = 2.0) -> Iterator[None]:
    """Keep two notebooks from writing at once. A lock left by a killed kernel is taken over."""
    lock = path.with_name(path.name + ".lock")
    end = time.monotonic() + patience
    while True:
        try:
            os.close(os.open(lock, os.O_CREAT | os.O_EXCL, 0o600))
            break
        except FileExistsError:
            if time.monotonic() > end:
                lock.unlink(missing_ok=True)
            time.sleep(0.005)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)


def _replace(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old text or the new one, never half of it."""
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        Path(part).unlink(missing_ok=True)
        raise
