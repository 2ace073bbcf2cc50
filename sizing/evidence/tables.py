"""What the error tables share: reading rows, grouping errors, printing them."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from pathlib import Path
from statistics import fmean

Error = Callable[[dict], float]
HEADER = f"{'':22} {'runs':>5} {'mean error':>11} {'worst':>9}"


def read(path: Path, numbers: Iterable[str]) -> list[dict]:
    """The rows of a table, the columns that are numbers as integers."""
    numbers = set(numbers)
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {key: int(value) if key in numbers else value for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def summary(rows: list[dict], key: str, error: Error) -> list[tuple[str, int, float, float]]:
    """(value, rows, mean error, worst error) for each value of a column; errors are magnitudes."""
    groups: dict[str, list[float]] = {}
    for row in rows:
        groups.setdefault(str(row[key]), []).append(abs(error(row)))
    return [(name or "none", len(e), fmean(e), max(e)) for name, e in sorted(groups.items())]


def lines(rows: list[dict], keys: dict[str, str], error: Error) -> list[str]:
    """Lines under `HEADER`: for each {column: its title} the errors of each of its values."""
    found = []
    for key, title in keys.items():
        found.append(title)
        for name, count, mean, worst in summary(rows, key, error):
            found.append(f"  {name:20} {count:5} {mean:11.4%} {worst:9.4%}")
    return found
