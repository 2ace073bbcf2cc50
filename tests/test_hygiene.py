"""Every committed notebook keeps the house rules, and each rule finds what it is there for."""

import json
from copy import deepcopy

import nbformat.v4 as v4
import pytest
from hygiene import ROOT, WIDGET_VIEW, bound_twice, dead_links, notebooks, problems, read


def test_there_are_notebooks():
    for folder in ("notebooks", "solutions", "labs"):
        assert notebooks(folder), f"{folder}/ holds no notebook"


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_notebook_is_clean(path):
    assert problems(read(path)) == []


@pytest.mark.parametrize("path", notebooks(), ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_links_lead_somewhere(path):
    assert dead_links(read(path), path.parent) == []


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_lesson_has_20_cells_at_least(path):  # one idea a cell: no upper limit
    assert len(read(path).cells) >= 20


@pytest.mark.parametrize("path", notebooks("notebooks"), ids=lambda path: path.stem)
def test_no_cell_depends_on_which_ran_last(path):
    assert list(bound_twice(read(path))) == []


def test_names_that_two_cells_bind_are_found():
    cells = ["n = 1", "def f():\n    return n\nm = [n for n in 'ab']", "n = 2", "f(), m"]
    book = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    assert list(bound_twice(book)) == ["n: bound by cells [1, 3], read by [2]"]
    cells = ["from math import pi, e", "for pi in range(3):\n    pass", "from math import e\npi, e"]
    book = v4.new_notebook(cells=[v4.new_code_cell(cell) for cell in cells])
    assert list(bound_twice(book)) == ["pi: bound by cells [2, 1], read by [3]"]


@pytest.mark.parametrize("path", notebooks("labs"), ids=lambda path: path.stem)
def test_lab_holds_no_solution(path):
    cells = read(path).cells
    assert not any("SOLUTION" in cell.source for cell in cells)
    assert not any("solution" in cell.metadata.get("tags", []) for cell in cells)


def clean():
    """A notebook without a problem: a sentence, a calculation, a figure and what it shows."""
    figure = v4.new_output("display_data", {"image/png": "", "text/plain": "<Figure>"})
    result = v4.new_output("execute_result", {"text/plain": "2"}, execution_count=1)
    return v4.new_notebook(
        cells=[
            v4.new_markdown_cell("One and one."),
            v4.new_code_cell("1 + 1", outputs=[result], execution_count=1),
            v4.new_code_cell("plt.show()", outputs=[figure], execution_count=2),
            v4.new_markdown_cell("![a rising line](line.png) It rises."),
        ]
    )


def print_(text, name="stdout"):
    def change(notebook):
        notebook.cells[1].outputs = [v4.new_output("stream", name=name, text=text)]

    return change


def say(cell, source):
    def change(notebook):
        notebook.cells[cell].source = source

    return change


def tag(name):
    def change(notebook):
        notebook.cells[1].metadata.tags = [name]

    return change


def strip(notebook):
    notebook.cells[1].update(outputs=[], execution_count=None)


def swap(notebook):
    notebook.cells[1].execution_count, notebook.cells[2].execution_count = 2, 1


def fail(notebook):
    notebook.cells[1].outputs = [v4.new_output("error", ename="KeyError", evalue="1")]


def keep_view(notebook):
    notebook.cells[1].outputs[0].data[WIDGET_VIEW] = {"model_id": "1"}


def keep_state(notebook):
    notebook.metadata.widgets = {}


def leave_the_figure_alone(notebook):
    del notebook.cells[3]


BREAKS = {
    "execution count None": strip,
    "execution count 2": swap,
    "an empty code cell": say(1, " "),
    "widget state": keep_state,
    "a widget view": keep_view,
    "ends in KeyError": fail,
    "stderr": print_("loading", name="stderr"),
    "'/home/a'": print_("/home/ann/model.bin"),
    "'/Users/a'": print_("in /Users/ann"),
    "'C:": print_("C:\\Users"),
    "'site-packages'": print_("lib/site-packages/torch"),
    "'FutureWarning'": print_("x.py:1: FutureWarning: soon"),
    "'Traceback (most recent'": print_("Traceback (most recent call last):"),
    "26 lines": say(1, "\n".join(["x = 1"] * 26)),
    "88 characters": say(1, "x" * 88),
    "semicolon": say(1, "x;"),
    "under its figure": leave_the_figure_alone,
    "121 words": say(0, "word " * 121),
    "text alternative": say(0, "![ ](line.png)"),
    "an image without": say(0, '<img src="line.png">'),
    "uses 'interact('": say(1, "interact(f, x=1)"),
    "uses 'Output('": say(1, "with widgets.Output() as out:\n    f()"),
    "uses '# NBVAL_'": say(1, "# NBVAL_IGNORE_OUTPUT\nf()"),
    "the tag 'nbval-skip'": tag("nbval-skip"),
}


def test_a_clean_notebook_has_no_problem():
    assert problems(clean()) == []


@pytest.mark.parametrize("expected", BREAKS)
def test_rule_finds(expected):
    notebook = deepcopy(clean())
    BREAKS[expected](notebook)
    assert expected in " ".join(problems(notebook))


def test_a_rate_or_an_address_is_not_a_path():
    notebook = clean()
    print_("3 TB/s/GPU, <b>1</b>/<i>2</i>, https://arxiv.org/abs/2001.08361")(notebook)
    assert problems(notebook) == []


def test_dead_links(tmp_path):
    (tmp_path / "here.md").touch()
    notebook = clean()
    say(0, "[a](here.md#top) [b](gone.md) [c](https://example.org/x) [d](#top)")(notebook)
    say(3, "It rises.")(notebook)
    assert dead_links(notebook, tmp_path) == ["gone.md"]


def test_files_that_are_timed_are_there():
    """tests/seconds.json orders the files; one that is gone, or renamed, is timed no more."""
    timed = json.loads((ROOT / "tests" / "seconds.json").read_text(encoding="utf-8"))
    assert len(timed) >= 15 and min(timed.values()) >= 0
    assert [name for name in timed if not (ROOT / name).exists()] == []
