"""The course's rules for a committed notebook, each as a function that yields what breaks it."""

import dis
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import nbformat
from nbformat import NotebookNode

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("notebooks", "solutions", "labs")
WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
MACHINE = re.compile(r"(?<![\w.:/<])/\w[\w.-]*/\w|\b[A-Z]:\\\w|site-packages")  # absolute paths
NOISE = re.compile(r"\w*Warning\b|Traceback \(most recent|Error displaying widget|model not found")
LINK = re.compile(r"\]\(([^):#]+)[^):]*\)")  # to a file of the course
IMAGE = re.compile(r"!\[\s*\]\(|<img(?![^>]*\balt=[\"'][^\"'])", re.IGNORECASE)
# These draw through an Output widget, which nbval cannot compare.
UNTESTABLE = re.compile(r"\binteract(ive(_output)?)?\(|\bOutput\(|#\s*NBVAL_")
PARTS = ("core", "depth", "appendix")  # what the list above a notebook shows or hides
TAGS = {"solution", "raises-exception", "nbval-ignore-output", *PARTS}


def notebooks(*folders: str) -> list[Path]:
    """The course's notebooks, all or those of some folders."""
    return [
        path for folder in folders or FOLDERS for path in sorted((ROOT / folder).glob("*.ipynb"))
    ]


@cache
def read(path: Path) -> NotebookNode:
    """A notebook; not to be changed by the caller."""
    return nbformat.read(path, as_version=4)


def code_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """The code cells with their place among all cells, counted from 1."""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "code":
            yield number, cell


def markdown_cells(notebook: NotebookNode) -> Iterator[tuple[int, NotebookNode]]:
    """The markdown cells with their place among all cells, counted from 1."""
    for number, cell in enumerate(notebook.cells, 1):
        if cell.cell_type == "markdown":
            yield number, cell


def made_and_read(source: str) -> tuple[set[str], set[str], set[str]]:
    """The names that a code cell binds, that it imports, and that it reads before it has them."""
    code = compile(source, "cell", "exec")
    made, imported, needed, before = set(), set(), set(), ""
    for step in dis.get_instructions(code):
        if step.opname == "LOAD_NAME" and step.argval not in made | imported:
            needed.add(step.argval)
        if step.opname == "STORE_NAME":
            (imported if before.startswith("IMPORT") else made).add(step.argval)
        before = step.opname
    inner = [constant for constant in code.co_consts if hasattr(constant, "co_consts")]
    while inner:
        function = inner.pop()
        inner += [constant for constant in function.co_consts if hasattr(constant, "co_consts")]
        steps = dis.get_instructions(function)
        read = {s.argval for s in steps if s.opname in ("LOAD_GLOBAL", "LOAD_NAME")}
        needed |= read - made - imported
    return made, imported, needed


def bound_twice(notebook: NotebookNode) -> Iterator[str]:
    """Names that a cell takes from another, though two cells bind them: it depends on the order.

    Two cells may import the same name, but none may bind what another imports.
    """
    cells = [(number, *made_and_read(cell.source)) for number, cell in code_cells(notebook)]
    for name in sorted({name for *_, needed in cells for name in needed}):
        makers = [number for number, made, _, _ in cells if name in made]
        makers += [number for number, _, imported, _ in cells if makers and name in imported]
        if len(makers) > 1:
            readers = [number for number, *_, needed in cells if name in needed]
            yield f"{name}: bound by cells {makers}, read by {readers}"


def shown(output: NotebookNode) -> str:
    """All text of an output, whatever its kind."""
    data = output.get("data", {})
    parts = [output.get("text", ""), *(data.get(kind, "") for kind in data if "text/" in kind)]
    return "\n".join([*parts, output.get("evalue", ""), *output.get("traceback", [])])


def executed(notebook: NotebookNode) -> Iterator[str]:
    """Every code cell was run, in order, once: nbval does not compare a cell that was not."""
    for expected, (number, cell) in enumerate(code_cells(notebook), 1):
        if not cell.source.strip():
            yield f"cell {number}: an empty code cell"
        if cell.execution_count != expected:
            yield f"cell {number}: execution count {cell.execution_count}, expected {expected}"


def portable(notebook: NotebookNode) -> Iterator[str]:
    """No widget state, and nothing in an output about the machine, or that went wrong on it."""
    if "widgets" in notebook.metadata:
        yield "stores widget state in its metadata"
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            text = shown(output)
            raised = output.output_type == "error"
            if raised and "raises-exception" not in cell.metadata.get("tags", []):
                yield f"cell {number}: ends in {output.ename}"
            if output.get("name") == "stderr":
                yield f"cell {number}: writes to stderr"
            if WIDGET_VIEW in output.get("data", {}):
                yield f"cell {number}: stores a widget view"
            for pattern in (MACHINE, NOISE):
                if found := pattern.search(text):
                    yield f"cell {number}: its output shows {found.group(0)!r}"


def readable(notebook: NotebookNode) -> Iterator[str]:
    """Short cells and lines, and words for every picture."""
    for number, cell in code_cells(notebook):
        lines = cell.source.splitlines()
        if len(lines) > 25:
            yield f"cell {number}: {len(lines)} lines of code"
        for line in lines:
            if len(line) >= 88:
                yield f"cell {number}: a line of {len(line)} characters: {line[:30]}"
        if lines and lines[-1].rstrip().endswith(";"):
            yield f"cell {number}: its last line ends in a semicolon"
        after = notebook.cells[number].cell_type if number < len(notebook.cells) else "nothing"
        if after != "markdown" and any("image/png" in o.get("data", {}) for o in cell.outputs):
            yield f"cell {number}: no sentence under its figure says what to see"
    for number, cell in markdown_cells(notebook):
        prose = [line for line in cell.source.splitlines() if not line.startswith("|")]
        words = len(" ".join(prose).split())
        if words > 120:
            yield f"cell {number}: {words} words of markdown"
        if IMAGE.search(cell.source):
            yield f"cell {number}: an image without a text alternative"


def testable(notebook: NotebookNode) -> Iterator[str]:
    """Nothing that nbval passes over: output widgets, comment markers, tags that skip a cell."""
    for number, cell in code_cells(notebook):
        if found := UNTESTABLE.search(cell.source):
            yield f"cell {number}: uses {found.group(0)!r}, which nbval cannot test"
        for tag in set(cell.metadata.get("tags", [])) - TAGS:
            yield f"cell {number}: has the tag {tag!r}; allowed: {', '.join(sorted(TAGS))}"


def dead_links(notebook: NotebookNode, folder: Path) -> list[str]:
    """The links to files of the course that lead nowhere from this folder."""
    links = [link for _, cell in markdown_cells(notebook) for link in LINK.findall(cell.source)]
    return [link for link in links if not (folder / link.strip()).exists()]


RULES = (executed, portable, readable, testable)


def problems(notebook: NotebookNode) -> list[str]:
    """Everything that breaks a rule."""
    return [problem for rule in RULES for problem in rule(notebook)]
