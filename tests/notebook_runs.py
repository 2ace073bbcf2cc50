"""Notebooks as learners run them, which strict nbval does not show: `make notebook-test`.

    python tests/notebook_runs.py                          every lesson, both ways; an hour
    python tests/notebook_runs.py --only again 01 05       some lessons, one way

`live` measures on this machine, as a learner without SIZING_RECORDED does. `again` takes a copy
to another folder and, in one kernel, runs it from top to bottom, once more from top to bottom, and
then its cells in an order drawn at random: an error, or a text that differs, means that a cell
needs what a later one made. Texts with times are not compared, nor those of `reveal`, which knows
that it was asked before. The exit code is 1 if something is wrong.
"""

import argparse
import os
import random
import re
import sys
import tempfile
import time
from itertools import zip_longest
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError

from sizing.course.copies import working_copy

ROOT = Path(__file__).resolve().parents[1]
LESSONS = sorted(ROOT.glob("notebooks/*.ipynb"))
WAYS = ("live", "again")
SECONDS = 900  # for one cell
VARYING = re.compile(r"\btook [0-9][0-9.,]* (?:days|h|min|s|ms|µs)")  # as tests/nbval_sanitize.cfg
REMEMBERS = re.compile(r"\b(?:reveal|predict|plan|catch_up|environment|ready)\b")


def text(cell) -> str:
    """What a cell shows as text, without times; a kernel splits a stream where it likes."""
    outputs = cell.get("outputs", ())
    said = (out.get("text") or out.get("data", {}).get("text/plain", "") for out in outputs)
    return VARYING.sub("#", "".join(said))


def difference(before: str, now: str) -> str:
    """The first line that a cell says now and did not say before."""
    lines = zip_longest(before.splitlines(), now.splitlines(), fillvalue="nothing")
    was, is_ = next(pair for pair in lines if pair[0] != pair[1])
    return f"said {was.strip()!r}, and now {is_.strip()!r}"


def execute(client, cell, index: int) -> str:
    """Run one cell again; its error, or an empty string."""
    try:
        client.execute_cell(cell, index, store_history=True)
    except CellExecutionError as error:
        return f"cell {index}: {error.ename}: {error.evalue}"
    except CellTimeoutError:
        return f"cell {index}: longer than {SECONDS} s"
    return ""


def passes(count: int, seed: str) -> dict[str, list[int]]:
    """The orders in which cells are run: by name, places of cells."""
    drawn = list(range(1, count))
    random.Random(seed).shuffle(drawn)
    first = list(range(count))
    return {"first": first, "second": first, "shuffled": drawn}


def run(lesson: Path, way: str, folder: Path) -> tuple[list[str], float]:
    """What goes wrong with a lesson, and the seconds that it took."""
    target = folder / lesson.name
    book = working_copy(nbformat.read(lesson, as_version=4), lesson, target)
    env = os.environ | {
        "SIZING_LEARNER_DIR": str(folder / "learner"),
        "SIZING_RECORDED": "1" if way == "again" else "",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    client = NotebookClient(book, timeout=SECONDS, resources={"metadata": {"path": str(folder)}})
    places = [place for place, cell in enumerate(book.cells) if cell.cell_type == "code"]
    orders = passes(len(places), lesson.stem)
    wrong, before, started = [], {}, time.monotonic()
    with client.setup_kernel(env=env):
        for name in orders if way == "again" else ("first",):
            for number in orders[name]:
                place = places[number]
                cell = book.cells[place]
                if error := execute(client, cell, place):
                    wrong.append(f"{name}: {error}")
                    if name == "first":
                        return wrong, time.monotonic() - started
                elif name == "first":
                    before[place] = text(cell)
                elif text(cell) != before[place] and not REMEMBERS.search(cell.source):
                    wrong.append(f"{name}: cell {place} {difference(before[place], text(cell))}")
    return wrong, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("lessons", nargs="*", help="numbers, such as 01; by default all")
    parser.add_argument("--only", choices=WAYS, help="one way; by default both")
    options = parser.parse_args()
    chosen = [p for p in LESSONS if not options.lessons or p.name[:2] in options.lessons]
    bad = 0
    for way in [options.only] if options.only else WAYS:
        for lesson in chosen:
            with tempfile.TemporaryDirectory(prefix="elsewhere-") as folder:
                wrong, seconds = run(lesson, way, Path(folder))
            bad += bool(wrong)
            print(f"{'FAILED' if wrong else 'ok':7s}{way:6s}{lesson.name:36s}{seconds:6.0f} s")
            for line in wrong:
                print(f"       {line}")
            sys.stdout.flush()
    print(f"{len(chosen)} lessons, {bad} runs with something wrong")
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
