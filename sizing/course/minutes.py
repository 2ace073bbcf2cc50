"""How long a lesson takes: computed from what stands in it, and not timed. Nobody was watched.

    python -m sizing.course.minutes                     the table: the core path, and all cells
    python -m sizing.course.minutes write               the same minutes into README and the lessons
    python -m sizing.course.minutes measure LESSON ...  runs lessons and records their seconds

A lesson's minutes are its words, lines of code, figures and questions, each times an allowance
(`ALLOWANCES` says which, and where it comes from), and the seconds that its cells took when they
were last run (`data/lesson_seconds.csv`, in recorded mode). An experiment that measures live takes
up to a minute more. Minutes are rounded to five.
"""

import argparse
import csv
import os
import re
import sys
import time
from collections import Counter
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import psutil
from nbformat import NotebookNode

from ..units import DATA
from .finding import declared
from .notebooks import execute, normalise, without_outputs, write

COURSE = DATA.parent
SECONDS = DATA / "lesson_seconds.csv"
HIDDEN = {"depth", "appendix"}  # cells that "Show: core" hides
STEP = 5  # minutes that the results are rounded to


@dataclass(frozen=True)
class Allowance:
    """Seconds for one of something, and where the figure comes from."""

    what: str
    seconds: float
    origin: str


OURS = "our allowance"
ALLOWANCES = (
    Allowance(
        "words",
        60 / 150,
        "150 per minute: most adults read English non-fiction at 175 to 300, and those with "
        "English as a second language more slowly (Brysbaert 2019, a review of 190 studies)",
    ),
    Allowance("lines of code", 5, OURS),
    Allowance("figures", 45, OURS),
    Allowance("tables", 20, OURS),
    Allowance("predictions", 45, OURS),
    Allowance("quizzes", 40, OURS),
    Allowance("calculator questions", 90, OURS),
    Allowance("problems", 90, OURS),
)
_LINK = re.compile(r"\[([^]]*)\]\([^)]*\)")
_MARKS = re.compile(r"<[^>]*>|^\|[-| ]*$|[|#*`$]", re.MULTILINE)
_PROBLEM = re.compile(r"^\*\*\d+\.\*\*", re.MULTILINE)
_COVER = re.compile(r"^\d+ minutes(?: \([^)]*\))?\.", re.MULTILINE)


def lessons(course: Path = COURSE) -> list[Path]:
    """The files of the lessons, in order."""
    return sorted((course / "notebooks").glob("[0-9][0-9]-*.ipynb"))


def is_core(cell: NotebookNode) -> bool:
    """Whether a cell stays when a reader asks for the core alone."""
    return not HIDDEN & set(cell.metadata.get("tags", []))


def counted(cell: NotebookNode) -> Counter:
    """How many of each of `ALLOWANCES` a cell holds."""
    if cell.cell_type == "markdown":
        words = len(_MARKS.sub(" ", _LINK.sub(r"\1", cell.source)).split())
        return Counter({"words": words, "problems": len(_PROBLEM.findall(cell.source))})
    asked = re.findall(r"\bfound\(\s*[\"']([\w.-]+)", cell.source)
    shown = "".join(output.get("data", {}).get("text/html", "") for output in cell.outputs)
    return Counter(
        {
            "lines of code": sum(bool(line.strip()) for line in cell.source.splitlines()),
            "figures": cell.source.count("plt.show()")
            + len(re.findall(r"\bdrawings\.", cell.source)),
            "tables": shown.count('class="dataframe"'),
            "predictions": len(re.findall(r"\bpredict\(", cell.source)),
            "quizzes": len(re.findall(r"\bquiz\(", cell.source)),
            "calculator questions": sum(len(declared()[name]) for name in asked),
        }
    )


def reading_seconds(notebook: NotebookNode, core: bool) -> float:
    """Seconds for what stands in a lesson, without the time that its cells run."""
    cells = [cell for cell in notebook.cells if is_core(cell) or not core]
    total = sum(map(counted, cells), Counter())
    return sum(each.seconds * total[each.what] for each in ALLOWANCES)


def run_seconds() -> dict[str, dict[str, str]]:
    """The rows of the last runs, by lesson ("00")."""
    with SECONDS.open(newline="", encoding="utf-8") as file:
        return {row["lesson"]: row for row in csv.DictReader(file)}


def minutes(path: Path) -> tuple[int, int]:
    """(minutes of the core path, minutes of all cells) of a lesson, each rounded to five."""
    notebook, ran = nbformat.read(path, as_version=4), run_seconds().get(path.name[:2], {})
    found = []
    for part, core in (("core_s", True), ("all_s", False)):
        seconds = reading_seconds(notebook, core) + float(ran.get(part, 0))
        found.append(max(STEP, STEP * round(seconds / 60 / STEP)))
    return found[0], found[1]


def on_cover(text: str, core: int, all_cells: int) -> str:
    """A lesson's first cell with its minutes."""
    return _COVER.sub(f"{all_cells} minutes (the core {core}; computed, not timed).", text, count=1)


def in_readme(text: str, found: dict[str, tuple[int, int]]) -> str:
    """README with the minutes of each lesson in its row of the map: "core / all"."""
    for name, (core, all_cells) in found.items():
        row = re.compile(rf"^(\| \[{name[:2]} [^|]*\|[^|]*\|)[^|]*\|", re.MULTILINE)
        text = row.sub(lambda m, c=core, a=all_cells: f"{m[1]} {c} / {a} |", text, count=1)
    return text


def record(path: Path) -> dict[str, str]:
    """Run a lesson, all of it and its core alone, and return the row of seconds."""
    notebook, took = nbformat.read(path, as_version=4), {}
    load = psutil.getloadavg()[0]
    for part in ("all_s", "core_s"):
        each = without_outputs(deepcopy(notebook))
        if part == "core_s":
            each.cells = [cell for cell in each.cells if is_core(cell)]
        started = time.perf_counter()
        execute(each, path.resolve().parent)
        took[part] = f"{time.perf_counter() - started:.0f}"
    return {
        "lesson": path.name[:2],
        "core_s": took["core_s"],
        "all_s": took["all_s"],
        "device": f"{os.cpu_count()} CPU cores, recorded mode, the kernel's start included",
        "load": f"{load:.1f} before it began",
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }


def _measure(paths: list[Path]) -> None:
    rows = run_seconds() if SECONDS.exists() else {}
    for path in paths:
        row = record(path)
        rows[row["lesson"]] = row
        print(f"{path.name}: core {row['core_s']} s, all {row['all_s']} s")
        with SECONDS.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows[name] for name in sorted(rows))


def _write(found: dict[str, tuple[int, int]]) -> None:
    readme = COURSE / "README.md"
    readme.write_text(in_readme(readme.read_text(encoding="utf-8"), found), encoding="utf-8")
    for path in lessons():
        notebook = nbformat.read(path, as_version=4)
        cover = notebook.cells[0]
        new = on_cover(cover.source, *found[path.name])
        if new != cover.source:
            cover.source = new
            write(normalise(notebook), path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m sizing.course.minutes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=["show", "write", "measure"], default="show")
    parser.add_argument("paths", nargs="*", type=Path, metavar="LESSON")
    options = parser.parse_args(arguments)
    if options.command == "measure":
        _measure(options.paths or lessons())
    found = {path.name: minutes(path) for path in lessons()}
    if options.command == "write":
        _write(found)
    print("minutes, computed and not timed\n\n lesson                          core   all")
    for name, (core, all_cells) in found.items():
        print(f" {name.removesuffix('.ipynb'):30} {core:5} {all_cells:5}")
    core, all_cells = (sum(pair[i] for pair in found.values()) for i in (0, 1))
    print(f" {'all lessons':30} {core:5} {all_cells:5}\n\nseconds for one of each:")
    for each in ALLOWANCES:
        print(f" {each.what:22}{each.seconds:5.1f}  {each.origin}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
