"""All calculators as one page, without a notebook to see: `make calculators`.

`python -m sizing.calculators` serves them with Voila, on this machine alone, and opens the browser.
What follows is handed on to Voila, such as ``--no-browser`` or ``--port=8866``.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import nbformat

from .. import calculators
from .base import Calculator

HOST = "127.0.0.1"  # nobody else can reach it: there is no password
TITLE = "Sizing calculators"
KERNEL = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
# In the order of the lessons; a calculator that is not listed comes after them.
ORDER = (
    "DeviceCard", "ParameterCalculator", "ComputeCalculator", "ComputeOptimal",
    "SequenceCalculator", "MemoryCalculator", "OptimizerCalculator", "BatchCalculator",
    "ZeROStages", "ParallelPlanner", "StorageCalculator", "CostCalculator", "PlanDashboard",
)  # fmt: skip
_STYLE = "<style>.sizing-title { display: none; } h2 { margin-top: 2em; }</style>"


def listed() -> dict[str, type[Calculator]]:
    """{name: calculator} of all that `sizing.calculators` has, in the order of the page."""
    every = {name: getattr(calculators, name) for name in calculators.__all__}
    found = {
        name: value
        for name, value in every.items()
        if isinstance(value, type) and issubclass(value, Calculator)
    }
    rank = {name: place for place, name in enumerate(ORDER)}
    return {name: found[name] for name in sorted(found, key=lambda n: rank.get(n, len(rank)))}


def page() -> nbformat.NotebookNode:
    """The page as a notebook: contents, then a heading and a cell for each calculator."""
    found = listed()
    links = " · ".join(f"[{c.title}](#{c.title.replace(' ', '-')})" for c in found.values())
    head = f"# {TITLE}\n\n{links}\n\n{_STYLE}"
    cells = [nbformat.v4.new_markdown_cell(head, id="contents")]
    for name, calculator in found.items():
        cells += [
            nbformat.v4.new_markdown_cell(f"## {calculator.title}", id=f"{name}-title"),
            nbformat.v4.new_code_cell(
                f"from sizing.calculators import {name}\n\n{name}()", id=name
            ),
        ]
    return nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNEL, "title": TITLE})


def serve(arguments: list[str]) -> None:
    """Serve the page until it is interrupted."""
    from voila.app import Voila

    with tempfile.TemporaryDirectory(prefix="calculators-") as folder:
        path = Path(folder) / "calculators.ipynb"
        nbformat.write(page(), path)
        Voila.launch_instance([str(path), f"--Voila.ip={HOST}", *arguments])


if __name__ == "__main__":
    serve(sys.argv[1:])
