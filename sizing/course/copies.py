"""A learner's working copies: `work/`, which git ignores, made from the lessons and labs.

    python -m sizing.course.copies            what `make lab` does before it opens lesson 00
    python -m sizing.course.copies FOLDER     the same in another folder

Copies of the lessons carry no outputs, so no answer stands before its question; labs are copied,
solutions are not, and links lead where they led. A copy is made once. When the course changes, a
copy follows cell by cell: cells that the learner wrote or edited stay as they are, and where the
course changed one of those, its new version stands below it. Cells that were not touched keep what
they showed if they stay the same. A copy that cannot be read is left alone, and said to be.

What was copied is known from the notebook itself: ids are made from what cells say
(`notebooks.cell_digest`), and `metadata.sizing.copied` lists those of the version copied last.
"""

import argparse
import re
import sys
from difflib import SequenceMatcher
from os.path import relpath
from pathlib import Path

import nbformat
from nbformat import NotebookNode

from ..units import DATA
from .notebooks import cell_digest, normalise, without_outputs, write

COURSE = DATA.parent
FOLDERS = ("notebooks", "labs")
WORK = COURSE / "work"
MADE, KEPT, FOLLOWED, UNREADABLE = "made", "up to date", "brought up to date", "not readable"
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)|(?<=<img src=\")(?![a-z]+:)([^\"]+)")


def working_copy(notebook: NotebookNode, source: Path, target: Path) -> NotebookNode:
    """A notebook of the course as it is first given to a learner, to stand at ``target``."""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = _LINK.sub(lambda link: _link(link[0], source, target), cell.source)
    without_outputs(notebook)
    normalise(notebook)  # gives each cell the id of what it says
    notebook.metadata["sizing"] = {"copied": [cell.id for cell in notebook.cells]}
    return notebook


def _link(link: str, source: Path, target: Path) -> str:
    """A link between notebooks as it is; to anything else, from where the copy stands."""
    file = (source.parent / link).resolve()
    if file.parent.name in FOLDERS and file.parent.parent == source.resolve().parent.parent:
        return link
    return Path(relpath(file, target.resolve().parent)).as_posix()


def follow(mine: NotebookNode, new: NotebookNode) -> NotebookNode:
    """A learner's copy with what changed in the course since; ``new`` is a fresh working copy.

    The learner's cells stay, in their order. Of the course's cells, those that the learner left
    alone become the new ones, and those that were deleted stay deleted unless they changed.
    """
    before = list(mine.metadata.get("sizing", {}).get("copied", []))
    after = [cell.id for cell in new.cells]
    fresh = {cell.id: cell for cell in new.cells}
    held = {cell.id: cell for cell in mine.cells}
    own = _own(mine, before)
    cells = list(own.pop("", []))
    for what, i, j, k, m in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        for old in before[i:j]:
            if old in held and what == "equal":
                cells.append(held[old])
            elif old in held and edited(held[old]):  # from now on a cell of the learner's own
                cells.append(NotebookNode(held[old] | {"id": f"{old}-own"}))
            cells += own.pop(old, [])
        if what != "equal":
            cells += [fresh[one] for one in after[k:m]]
    made = NotebookNode(mine | {"cells": _unique(cells)})
    made.metadata["sizing"] = {"copied": after}
    return made


def edited(cell: NotebookNode) -> bool:
    """Whether a cell of the course says something else than when it was copied."""
    return cell_digest(cell) != cell.id.split("-")[0]


def _own(mine: NotebookNode, before: list[str]) -> dict[str, list[NotebookNode]]:
    """The cells that the learner added, by the course's cell that they follow ("" for none)."""
    found: dict[str, list[NotebookNode]] = {}
    place = ""
    for cell in mine.cells:
        if cell.id in before:
            place = cell.id
        else:
            found.setdefault(place, []).append(cell)
    return found


def _unique(cells: list[NotebookNode]) -> list[NotebookNode]:
    """The cells with ids that differ, as nbformat asks for."""
    seen: set[str] = set()
    for cell in cells:
        while cell.id in seen:
            cell.id += "-own"
        seen.add(cell.id)
    return cells


def bring(source: Path, target: Path) -> str:
    """Make or update one copy; says which: MADE, KEPT, FOLLOWED or UNREADABLE."""
    new = working_copy(nbformat.read(source, as_version=4), source, target)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        write(new, target)
        return MADE
    try:
        mine = nbformat.read(target, as_version=4)
    except Exception:  # nbformat raises what the damage leads to: of any kind
        return UNREADABLE
    if mine.metadata.get("sizing", {}).get("copied") == new.metadata["sizing"]["copied"]:
        return KEPT
    write(follow(mine, new), target)
    return FOLLOWED


def bring_all(course: Path = COURSE, work: Path = WORK) -> dict[str, str]:
    """What was done for each lesson and lab: ``{'notebooks/00-start-here.ipynb': 'made', ...}``."""
    return {
        f"{folder}/{source.name}": bring(source, work / folder / source.name)
        for folder in FOLDERS
        for source in sorted((course / folder).glob("*.ipynb"))
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 1 if a copy could not be read."""
    parser = argparse.ArgumentParser(
        prog="python -m sizing.course.copies",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("work", nargs="?", type=Path, default=WORK, metavar="FOLDER")
    work = parser.parse_args(arguments).work
    done = bring_all(work=work)
    for what in (MADE, FOLLOWED):
        names = [name for name, how in done.items() if how == what]
        if names:
            print(f"{work.name}/: {what}: {', '.join(names)}")
    bad = [name for name, how in done.items() if how == UNREADABLE]
    for name in bad:
        print(
            f"{work.name}/{name} is not readable as a notebook and was left alone. Rename it, "
            "and the next `make lab` makes a new copy.",
            file=sys.stderr,
        )
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main())
