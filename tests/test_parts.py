"""Core, depth, appendix: who reads the core alone misses no name, and about half of the cells."""

import pytest
from hygiene import PARTS, code_cells, made_and_read, notebooks, read

TAGGED = [
    path
    for path in notebooks("notebooks")
    if all(set(PARTS) & set(cell.metadata.get("tags", ())) for cell in read(path).cells)
]


def part(cell) -> str:
    """The one part that a cell belongs to."""
    (found,) = set(PARTS) & set(cell.metadata.tags)
    return found


def test_there_are_lessons_with_a_part_for_each_cell():
    assert {path.name[:2] for path in TAGGED} >= {"07", "08", "09", "12"}


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: path.stem)
def test_the_core_is_about_half(path):
    parts = [part(cell) for cell in read(path).cells]
    assert 0.4 <= parts.count("core") / len(parts) <= 0.65


@pytest.mark.parametrize("path", TAGGED, ids=lambda path: path.stem)
def test_the_core_runs_alone(path):
    """Each name that a core cell reads is bound by a core cell, if a cell binds it at all."""
    cells = [(part(cell), *made_and_read(cell.source)) for _, cell in code_cells(read(path))]
    bound = set().union(*(made for _, made, _ in cells))
    core = set().union(*(made for kind, made, _ in cells if kind == "core"))
    needed = set().union(*(names for kind, _, names in cells if kind == "core"))
    assert needed & bound - core == set()
