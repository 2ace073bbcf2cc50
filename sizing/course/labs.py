"""The lab generator: `solutions/NN-name.ipynb` is the source, `labs/NN-name.ipynb` is made from it.

    python -m sizing.course.labs             write every lab, executed
    python -m sizing.course.labs --check     say which labs are not what their solutions give

What is taken out:

- cells tagged `solution`;
- lines from `### BEGIN SOLUTION` to `### END SOLUTION` in a code cell. The block ends in an
  assignment or a `return`, and the stub is that statement with `...` for its value:
  `total = 12 * hidden**2` becomes `total = ...`, and `return weights, moments` `return ...`.

Nothing else changes. The lab is then executed, so that Run All is known to reach its end.

A lab that a learner works in is never overwritten: a lab carries a digest of the cells that were
generated, and one whose cells say something else is left alone (`--force` writes it all the same).
"""

import argparse
import ast
import hashlib
import sys
import textwrap
from copy import deepcopy
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..units import DATA
from .notebooks import FAILURES, execute, normalise, text, without_outputs, write

BEGIN, END, TAG = "### BEGIN SOLUTION", "### END SOLUTION", "solution"
SOLUTIONS, LABS = DATA.parent / "solutions", DATA.parent / "labs"


def lab(solution: NotebookNode, name: str) -> NotebookNode:
    """The lab of a solution, not executed. ``name`` is the solution's file, for messages.

    ValueError where a marker has no partner, or a block does not end as the module says.
    """
    made = deepcopy(solution)
    made.cells = [cell for cell in made.cells if TAG not in cell.metadata.get("tags", [])]
    for number, cell in enumerate(made.cells, 1):
        if cell.cell_type == "code":
            cell.source = without_answers(cell.source, f"{name}, cell {number} of the lab")
    made.metadata["sizing"] = {"source": name, "digest": digest(made)}
    return normalise(without_outputs(made))


def without_answers(source: str, where: str = "cell") -> str:
    """A code cell's source with its answers replaced by stubs."""
    kept, block = [], None
    for line in source.splitlines():
        marker = line.strip()
        if marker == (BEGIN if block is None else END):
            if block is not None:
                kept.append(stub(block, where))
            block = [] if block is None else None
        elif marker in (BEGIN, END):
            raise ValueError(f"{where}: {marker!r} without its partner")
        else:
            (kept if block is None else block).append(line)
    if block is not None:
        raise ValueError(f"{where}: {BEGIN!r} without its partner")
    return "\n".join(kept)


def stub(block: list[str], where: str = "cell") -> str:
    """The last statement of a block of code with `...` for its value, indented as it was."""
    code = textwrap.dedent("\n".join(block))
    statement = ast.parse(code).body[-1] if code.strip() else None
    if not isinstance(statement, ast.Assign | ast.AnnAssign | ast.Return):
        ends = type(statement).__name__ if statement else "nothing"
        raise ValueError(f"{where}: a block ends in {ends}; allowed: an assignment or a return")
    names = 1
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Tuple):
        names = len(statement.targets[0].elts)
    statement.value = ast.Name(", ".join(["..."] * names))
    first = next(line for line in block if line.strip())
    return first[: len(first) - len(first.lstrip())] + ast.unparse(statement)


def digest(notebook: NotebookNode) -> str:
    """A fingerprint of what the cells say, whatever their outputs are."""
    cells = [f"{cell.cell_type}\n{cell.source}" for cell in notebook.cells]
    return hashlib.sha256("\0".join(cells).encode()).hexdigest()[:16]


def is_edited(path: Path) -> bool:
    """Whether a lab says something else than what was generated: a learner's work may be in it."""
    notebook = nbformat.read(path, as_version=4)
    return notebook.metadata.get("sizing", {}).get("digest") != digest(notebook)


def is_current(solution: Path, path: Path) -> bool:
    """Whether a lab is, outputs aside, to the byte what its solution gives."""
    if not path.exists():
        return False
    stored = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(stored, as_version=4)
    if text(notebook) != stored:
        return False
    return text(without_outputs(notebook)) == text(_lab_of(solution))


def generate(solution: Path, path: Path, force: bool = False) -> None:
    """Write the executed lab of a solution.

    FileExistsError if the lab there is edited, unless ``force``; one of `notebooks.FAILURES` if
    the lab cannot be run to its end.
    """
    if path.exists() and not force and is_edited(path):
        raise FileExistsError(f"{path} was edited since it was generated; --force overwrites it")
    path.parent.mkdir(parents=True, exist_ok=True)
    write(execute(_lab_of(solution), path.parent), path)


def _lab_of(solution: Path) -> NotebookNode:
    return lab(nbformat.read(solution, as_version=4), f"{solution.parent.name}/{solution.name}")


def _failure(solution: Path, path: Path, force: bool) -> str | None:
    try:
        generate(solution, path, force)
    except (ValueError, FileExistsError, *FAILURES) as error:
        return f"not written. {error}"
    return None


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 1 if a lab was not written or not current."""
    parser = argparse.ArgumentParser(
        prog="python -m sizing.course.labs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("solutions", nargs="*", type=Path, help="by default all of solutions/")
    parser.add_argument("--check", action="store_true", help="compare, write nothing")
    parser.add_argument("--force", action="store_true", help="overwrite labs that were edited")
    options = parser.parse_args(arguments)
    problems = 0
    for solution in options.solutions or sorted(SOLUTIONS.glob("*.ipynb")):
        path = LABS / solution.name
        if options.check:
            problem = None if is_current(solution, path) else "is not what its solution gives"
        else:
            problem = _failure(solution, path, options.force)
        print(f"{path.parent.name}/{path.name}: {problem or 'ok'}")
        problems += bool(problem)
    if not options.solutions:
        for path in sorted(LABS.glob("*.ipynb")):
            if not (SOLUTIONS / path.name).exists():
                print(f"{path.parent.name}/{path.name}: has no solution")
                problems += 1
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
