"""Minutes of the lessons: computed from what stands in them, and said where the command says them.

And the core path: a lesson of its own, about half of the cells, that needs none of the others.
"""

import nbformat.v4 as v4
import pytest
from hygiene import PARTS, ROOT, code_cells, made_and_read, notebooks, read

from sizing.course import minutes
from sizing.course.minutes import ALLOWANCES, counted, in_readme, is_core, lessons, on_cover

EACH = {each.what: each.seconds for each in ALLOWANCES}
README = (ROOT / "README.md").read_text(encoding="utf-8")
# Lessons whose core path is set.
SET = ("00", "01", "02", "04", "05", "06", "07", "08", "09", "12")


def test_what_is_counted_in_a_cell():
    text = "## Two words\n\n| a | b |\n|---|---|\n\n**1.** See [this](../docs/x.md#y).\n"
    assert counted(v4.new_markdown_cell(text)) == {"words": 7, "problems": 1}
    code = 'x = predict("00.a", "?")\n\nquiz("00.b")\nplt.show()\nfound("00.card", card)'
    cell = v4.new_code_cell(code)
    cell.outputs = [v4.new_output("display_data", {"text/html": '<table class="dataframe">'})]
    assert {what: n for what, n in counted(cell).items() if n} == {
        "lines of code": 4,
        "figures": 1,
        "tables": 1,
        "predictions": 1,
        "quizzes": 1,
        "calculator questions": 3,
    }


def test_the_minutes_are_the_allowances_and_what_ran(tmp_path, monkeypatch):
    words = v4.new_markdown_cell("word " * 1500)
    more = v4.new_markdown_cell("word " * 3000, metadata={"tags": ["depth"]})
    path = tmp_path / "07-x.ipynb"
    path.write_text(minutes.nbformat.writes(v4.new_notebook(cells=[words, more])))
    monkeypatch.setattr(minutes, "run_seconds", lambda: {})
    assert minutes.minutes(path) == (10, 30)
    assert EACH["words"] == 0.4
    ran = {"07": {"core_s": "300", "all_s": "1200"}}
    monkeypatch.setattr(minutes, "run_seconds", lambda: ran)
    assert minutes.minutes(path) == (15, 50)


def test_every_allowance_says_where_it_comes_from():
    assert all(each.origin and each.seconds > 0 for each in ALLOWANCES)
    known = set(counted(v4.new_markdown_cell("x"))) | set(counted(v4.new_code_cell("x")))
    assert set(EACH) == known


@pytest.fixture(scope="module")
def found():
    return {path.name: minutes.minutes(path) for path in lessons()}


def test_readme_has_the_minutes_of_the_command(found):
    """After a change of a lesson: `python -m sizing.course.minutes write`."""
    assert in_readme(README, found) == README
    assert all(README.count(f"| {core} / {every} |") for core, every in found.values())
    assert len(found) == 13 and "computed, not timed" in README


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_a_cover_has_the_minutes_of_the_command(path, found):
    cover = read(path).cells[0].source
    assert "computed, not timed" in cover
    assert on_cover(cover, *found[path.name]) == cover


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_the_core_path_needs_no_cell_that_it_hides(path):
    makers: dict[str, list[bool]] = {}
    for number, cell in code_cells(read(path)):
        made, imported, needed = made_and_read(cell.source)
        core = is_core(cell)
        for name in needed if core else ():
            assert any(makers.get(name, [True])), f"cell {number} needs {name}"
        for name in made | imported:
            makers.setdefault(name, []).append(core)


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_the_core_path_is_about_half_of_the_cells(path):
    if path.name[:2] not in SET:
        pytest.skip("its core path is not set yet")
    cells = read(path).cells
    core = sum(map(is_core, cells))
    assert 0.5 <= core / len(cells) <= 0.8
    assert {tag for cell in cells for tag in cell.metadata.get("tags", [])} & set(PARTS) >= {
        "depth"
    }
