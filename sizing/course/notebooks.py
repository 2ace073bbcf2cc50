"""Maintainer's tool: run notebooks and store them so that two runs give the same file.

    python -m sizing.course.notebooks execute notebooks/00-start-here.ipynb ...

runs each notebook from its own folder in recorded mode, with an empty learner's folder, and writes
it back: cells numbered from 1, ids made from what the cells say, no widget state, nothing about the
machine. A cell that fails is named and its notebook is left as it was.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
KERNEL = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
KEPT_CELL_METADATA = ("jupyter", "tags")
STORED = {"SIZING_RECORDED": "1", "SIZING_ANSWERS": "shown"}  # the same text everywhere, to be read
FAILURES = (CellExecutionError, CellTimeoutError, DeadKernelError)


def execute(notebook: NotebookNode, folder: Path, timeout: float = 600) -> NotebookNode:
    """Run a notebook's cells in a new kernel in ``folder`` and return it, normalised.

    ``timeout`` is in seconds, of one cell. One of `FAILURES` if a cell fails that is not tagged
    ``raises-exception``.
    """
    with tempfile.TemporaryDirectory() as learner:
        client = NotebookClient(
            notebook,
            timeout=timeout,
            kernel_name=KERNEL["name"],
            record_timing=False,
            resources={"metadata": {"path": str(folder)}},
        )
        env = os.environ | STORED | {"SIZING_LEARNER_DIR": learner}
        client.execute(env=env, stderr=subprocess.DEVNULL)  # the kernel's own log, not the cells'
    return normalise(notebook)


def normalise(notebook: NotebookNode) -> NotebookNode:
    """Drop, in place, whatever depends on the machine or the moment, and return the notebook."""
    kept = {key: value for key, value in notebook.metadata.items() if key == "sizing"}
    notebook.metadata = NotebookNode(
        kept | {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    count, seen = 0, Counter()
    for cell in notebook.cells:
        metadata = {key: cell.metadata[key] for key in KEPT_CELL_METADATA if key in cell.metadata}
        cell.metadata = NotebookNode(metadata)
        cell.id = _cell_id(cell, seen)
        if cell.cell_type == "code":
            count += 1
            cell.execution_count = count if cell.execution_count else None
            cell.outputs = [_normal_output(output, count) for output in _joined(cell.outputs)]
    return notebook


def _cell_id(cell: NotebookNode, seen: Counter) -> str:
    """An id that stays when cells come or go around it; a repeated cell gets a number as well."""
    digest = cell_digest(cell)
    seen[digest] += 1
    return digest if seen[digest] == 1 else f"{digest}-{seen[digest]}"


def cell_digest(cell: NotebookNode) -> str:
    """What a cell's id begins with in a notebook as it is stored: a digest of what it says."""
    return hashlib.sha256(f"{cell.cell_type}\n{cell.source}".encode()).hexdigest()[:12]


def _joined(outputs: list[NotebookNode]) -> list[NotebookNode]:
    """Consecutive outputs of a stream as one: where a kernel splits what is printed is chance."""
    joined = []
    for output in outputs:
        before = joined[-1] if joined else None
        if before and output.output_type == "stream" and output.name == before.get("name"):
            before.text += output.text
        else:
            joined.append(output)
    return joined


def _normal_output(output: NotebookNode, count: int) -> NotebookNode:
    if output.output_type == "execute_result":
        output.execution_count = count
    if output.output_type == "error":  # frames name files of this machine
        output.traceback = [f"{output.ename}: {output.evalue}"]
    if "data" in output:
        output.data.pop(WIDGET_VIEW, None)
    return output


def without_outputs(notebook: NotebookNode) -> NotebookNode:
    """Take the outputs out, in place, and return the notebook."""
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return notebook


def text(notebook: NotebookNode) -> str:
    """The notebook as it stands in a file."""
    return nbformat.writes(notebook).rstrip("\n") + "\n"


def write(notebook: NotebookNode, path: Path) -> None:
    """Write a notebook; a reader never sees half of it."""
    part = path.with_suffix(".part")
    part.write_text(text(notebook), encoding="utf-8")
    part.replace(path)


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 1 if a notebook failed."""
    parser = argparse.ArgumentParser(
        prog="python -m sizing.course.notebooks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=["execute"])
    parser.add_argument("paths", nargs="+", type=Path, metavar="notebook.ipynb")
    failed = False
    for path in parser.parse_args(arguments).paths:
        started = time.perf_counter()
        try:
            notebook = execute(nbformat.read(path, as_version=4), path.resolve().parent)
        except FAILURES as error:
            print(f"{path}: not written, a cell failed\n{error}", file=sys.stderr)
            failed = True
            continue
        write(notebook, path)
        minutes, seconds = divmod(time.perf_counter() - started, 60)
        print(f"{path}: {len(notebook.cells)} cells, {minutes:.0f} min {seconds:.1f} s")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
