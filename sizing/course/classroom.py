"""A class's guesses pooled in a shared folder, without names; nothing unless SIZING_CLASS is set.

    SIZING_CLASS=/srv/room make lab              for each learner: guesses join those of the class
    python -m sizing.course.classroom FOLDER     for the instructor: a histogram of each question

A learner's guesses are one file there, named by a random token that is made once and says nothing
of whose it is; a guess that is changed before the answer is seen replaces the first. Files are
replaced whole, so a reader never sees half of one.

Who may look is a matter of the folder's permissions. A folder that all can list is shown to all:
`reveal` adds the class's histogram. On a machine with an account per learner a file has an owner,
so there the folder is a box (mode 1733): learners put in and cannot list it, and only its owner,
the instructor, sees the histogram.
"""

import argparse
import json
import math
import os
import secrets
import sys
from bisect import bisect_right
from collections.abc import Iterable
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median, quantiles
from typing import Any

from ..measuring.recording import learner_directory, replace_text
from .guesses import quantity
from .keeping import locked

ENOUGH = 3  # guesses; fewer could be told apart by who sits in the room
LARGEST = 200_000  # bytes of a file that is read: some 2,000 guesses, far more than the course asks
WIDEST = 40  # marks of the longest bar
STEPS = (1, 2, 5, 10)  # where a decade is cut


def folder() -> Path | None:
    """The class's folder, if this learner takes part."""
    named = os.environ.get("SIZING_CLASS", "").strip()
    return Path(named).expanduser() if named else None


def join(name: str, unit: str, guess: float | None = None, actual: float | None = None) -> str:
    """Put a guess, or what it turned out to be, into the class's folder; what to tell the learner.

    An empty string: no class, or nothing to say. Nothing is raised: a class is no reason to lose a
    guess. A guess that comes after its answer does not count and is left out.
    """
    shared = folder()
    if shared is None:
        return ""
    mine = shared / f"{_token()}.json"
    try:
        with locked(mine):
            kept = _read(mine)
            entry = kept.get(name, {"unit": unit})
            if guess is not None and "actual" not in entry:
                entry |= {"guess": guess, "unit": unit}
            if actual is not None and "guess" in entry:
                entry |= {"actual": actual}
            if "guess" not in entry:
                return ""
            replace_text(mine, json.dumps(kept | {name: entry}, indent=1))
            mine.chmod(
                0o644
            )  # a hub's learners write what nobody else can read; this is to be read
    except OSError as error:
        reason = error.strerror.split(":")[0] if error.strerror else str(error)
        return f"It did not reach the class's folder {shared}: {reason}."
    return "It joined the class's, without your name." if guess is not None else ""


@cache
def _token() -> str:
    """This learner's random name in the class, the same tomorrow where it can be kept."""
    place = learner_directory().parent / "class-token"
    new = secrets.token_hex(16)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with locked(place):
            if place.exists() and (token := place.read_text().strip()).isalnum():
                return token
            replace_text(place, new)
    except OSError:  # then it is a token of this session alone
        return new
    return new


def _read(path: Path) -> dict[str, dict[str, Any]]:
    """The entries of one file; what is no entry is left out, for anyone may write there."""
    try:
        if path.stat().st_size > LARGEST:
            return {}
        entries = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return {
        name: entry
        for name, entry in (entries.items() if isinstance(entries, dict) else ())
        if isinstance(entry, dict)
        and isinstance(entry.get("unit"), str)
        and _positive(entry.get("guess"))
        and ("actual" not in entry or _positive(entry["actual"]))
    }


def _positive(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and 0 < value < math.inf


def pooled(shared: Path) -> dict[tuple[str, str], list[dict[str, Any]]]:
    """All entries of a class by question and unit. PermissionError where it cannot be listed."""
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for path in sorted(shared.iterdir()):
        if path.suffix != ".json" or path.is_symlink() or not path.is_file():
            continue
        try:
            entries = _read(path)
        except OSError:
            continue  # not for us to read
        for name, entry in entries.items():
            found.setdefault((name, entry["unit"]), []).append(entry)
    return found


def histogram(guesses: Iterable[float], unit: str, actual: float | None = None) -> str:
    """Guesses as bars of text between round numbers, with what it turned out to be.

    ValueError with fewer than ``ENOUGH`` guesses.
    """
    values = sorted(guesses)
    if len(values) < ENOUGH:
        raise ValueError(f"{len(values)} guesses; shown from {ENOUGH} on")
    edges = _edges(values if actual is None else [*values, actual])
    places = [bisect_right(edges, value) - 1 for value in values]
    counts = [places.count(place) for place in range(len(edges) - 1)]
    scale = max(1, max(counts) / WIDEST)
    first, _, last = quantiles(values, n=4, method="inclusive")
    lines = [
        f"The class: {len(values)} guesses, median {quantity(median(values), unit)}, "
        f"the middle half from {quantity(first, '')} to {quantity(last, unit)}."
    ]
    labels = [f"{quantity(a, '')} to {quantity(b, unit)}" for a, b in pairwise(edges)]
    width = max(map(len, labels))
    for place, (text, count) in enumerate(zip(labels, counts, strict=True)):
        bar = "#" * math.ceil(count / scale)
        here = actual is not None and bisect_right(edges, actual) - 1 == place
        mark = f"  <- it is {quantity(actual, unit)}" if here else ""
        lines.append(f"  {text:>{width}} | {count:3d} {bar}{mark}".rstrip())
    return "\n".join(lines)


def _edges(values: list[float]) -> list[float]:
    """Round numbers (1, 2 and 5 of each decade) around the values, each value below the last."""
    low, high = math.floor(math.log10(min(values))), math.floor(math.log10(max(values)))
    marks = [float(f"{step}e{d}") for d in range(low, high + 1) for step in STEPS[:-1]]
    marks.append(float(f"1e{high + 1}"))
    first = bisect_right(marks, min(values)) - 1
    last = bisect_right(marks, max(values))
    return marks[first : last + 1]


def shown(name: str, unit: str, actual: float) -> str:
    """The class's histogram for `reveal`; an empty string without a class.

    Where learners cannot list the folder, or too few have guessed, it says so in a sentence.
    """
    shared = folder()
    if shared is None:
        return ""
    try:
        entries = pooled(shared).get((name, unit), [])
        return histogram((entry["guess"] for entry in entries), unit, actual)
    except PermissionError:
        return "The class's guesses are with the instructor."
    except OSError as error:
        return f"The class's guesses could not be read: {error.strerror}."
    except ValueError as error:
        return f"The class so far: {error}."


def report(shared: Path, wanted: str = "") -> str:
    """Each question's histogram, or of those whose name begins with ``wanted``."""
    parts = []
    for (name, unit), entries in sorted(pooled(shared).items()):
        if not name.startswith(wanted):
            continue
        known = [entry["actual"] for entry in entries if "actual" in entry]
        actual = median(known) if known else None  # measured ones differ by machine
        try:
            text = histogram((entry["guess"] for entry in entries), unit, actual)
        except ValueError as error:
            text = f"The class so far: {error}."
        parts.append(f"{name}\n{text}")
    return "\n\n".join(parts) or "No guess yet."


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sizing.course.classroom",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("question", nargs="?", default="", help="such as 01.gemma, or 01")
    options = parser.parse_args(arguments)
    try:
        print(report(options.folder, options.question))
    except OSError as error:
        print(f"{options.folder}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
