"""The tool that stores notebooks, and proof that strict nbval sees what changed in one.

The notebooks themselves are collected by pytest through nbval (pyproject.toml, conftest.py).
"""

import subprocess
import sys
import xml.etree.ElementTree as ET
from copy import deepcopy
from pathlib import Path

import nbformat
import nbformat.v4 as v4
import pytest
from hygiene import FOLDERS, WIDGET_VIEW, executed, problems

from sizing.course.notebooks import execute, main, normalise, text, without_outputs

SOURCES = (
    "print('count', 124_439_808)",
    "import html\nfrom IPython.display import HTML, display\ndisplay(HTML('<b>2.5</b>'))",
    "from sizing.course import predict, reveal\nguess = predict('00.x', 'How fast?', 'GB/s')",
    "guess.box.value = '2.5'\nguess.button.click()\nguess",
    "import time\nstarted = time.perf_counter()\n"
    "print(f'took {time.perf_counter() - started:.9f} s')",
    "1 / 0",
)
TEXT, HTML, _, WIDGET, TIMED, RAISED = range(len(SOURCES))


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """A small notebook as the tool stores it; not to be changed."""
    notebook = v4.new_notebook(cells=[v4.new_code_cell(source) for source in SOURCES])
    notebook.cells[RAISED].metadata.tags = ["raises-exception"]
    return execute(notebook, tmp_path_factory.mktemp("cwd"))


def output(notebook, cell):
    return notebook.cells[cell].outputs[0]


def test_two_runs_store_the_same_file(stored, tmp_path):
    paths = [tmp_path / "one.ipynb", tmp_path / "two.ipynb"]
    for path in paths:
        notebook = without_outputs(deepcopy(stored))
        del notebook.cells[TIMED]
        for number, cell in enumerate(notebook.cells):
            cell.id = f"{path.stem}-{number}"  # as a converter would, anew each time
        nbformat.write(notebook, path)
    assert main(["execute", *map(str, paths)]) == 0
    one, two = (path.read_text() for path in paths)
    assert one == two
    assert problems(nbformat.reads(one, as_version=4)) == []


def test_what_is_stored(stored):
    assert stored.metadata == {
        "kernelspec": {
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        "language_info": {"name": "python"},
    }
    assert [cell.execution_count for cell in stored.cells] == [1, 2, 3, 4, 5, 6]
    assert {key for cell in stored.cells for key in cell.metadata} == {"tags"}
    assert set(output(stored, WIDGET).data) == {"text/plain", "text/html"}
    assert output(stored, WIDGET).execution_count == 4
    assert "Committed: 2.5 GB/s." in output(stored, WIDGET).data["text/plain"]
    assert output(stored, RAISED).traceback == ["ZeroDivisionError: division by zero"]
    assert text(stored).endswith("\n}\n")


def test_a_stream_that_the_kernel_split_is_joined(stored):
    split = deepcopy(stored)
    whole = output(split, TEXT).text
    parts = [v4.new_output("stream", name="stdout", text=t) for t in (whole[:4], whole[4:])]
    warned = v4.new_output("stream", name="stderr", text="no")
    split.cells[TEXT].outputs = [*parts, warned]
    normalise(split)
    assert [(o.name, o.text) for o in split.cells[TEXT].outputs] == [
        ("stdout", whole),
        ("stderr", "no"),
    ]


def test_ids_stay_when_cells_come_and_go(stored):
    before = {cell.source: cell.id for cell in stored.cells}
    longer = deepcopy(stored)
    longer.cells[1:1] = [v4.new_markdown_cell("New."), v4.new_markdown_cell("New.")]
    normalise(longer)
    assert {cell.source: cell.id for cell in longer.cells if cell.source in before} == before
    assert len({cell.id for cell in longer.cells}) == len(longer.cells)


def test_a_notebook_that_fails_is_left_alone(tmp_path, capsys):
    path = tmp_path / "fails.ipynb"
    nbformat.write(v4.new_notebook(cells=[v4.new_code_cell("missing")]), path)
    before = path.read_bytes()
    assert main(["execute", str(path)]) == 1
    assert path.read_bytes() == before
    assert "NameError" in capsys.readouterr().err


# What nbval sees


def as_stored(notebook):
    pass


def longer_time(notebook):
    output(notebook, TIMED).text = "took 12.5 min\n"


def changed_text(notebook):
    output(notebook, TEXT).text = "count 124439809\n"


def changed_html(notebook):
    output(notebook, HTML).data["text/html"] = "<b>2.6</b>"


def changed_widget(notebook):
    notebook.cells[WIDGET].source = notebook.cells[WIDGET].source.replace("2.5", "2.6")


def widget_does_nothing(notebook):
    source = notebook.cells[WIDGET].source
    notebook.cells[WIDGET].source = source.replace("guess.button.click()\n", "")


def dropped_output(notebook):
    notebook.cells[TEXT].outputs = []


def raises_nothing(notebook):
    notebook.cells[RAISED].source = "1 / 1"


def stripped_cell(notebook):
    notebook.cells[TEXT].update(outputs=[], execution_count=None)
    notebook.cells[TEXT].source = "print('anything')"


PASS = (as_stored, longer_time, stripped_cell)
FAIL = {
    changed_text: TEXT,
    changed_html: HTML,
    changed_widget: WIDGET,
    widget_does_nothing: WIDGET,
    dropped_output: TEXT,
    raises_nothing: RAISED,
}


@pytest.fixture(scope="module")
def failures(stored, tmp_path_factory, request):
    """The places of the cells that nbval fails, for each changed notebook."""
    folder = tmp_path_factory.mktemp("changed")
    for change in (*PASS, *FAIL):
        notebook = deepcopy(stored)
        change(notebook)
        nbformat.write(notebook, folder / f"{change.__name__}.ipynb")
    sanitize = request.config.option.nbval_sanitize_with
    options = ["--nbval", "--nbval-current-env", f"--nbval-sanitize-with={sanitize}"]
    report = folder / "report.xml"
    command = [sys.executable, "-m", "pytest", f"--rootdir={folder}", f"--junitxml={report}"]
    done = subprocess.run(
        [*command, "-p", "no:cacheprovider", *options, str(folder)], capture_output=True, text=True
    )
    assert report.exists(), done.stdout + done.stderr
    found = {change: [] for change in (*PASS, *FAIL)}
    seen = 0
    for case in ET.parse(report).iter("testcase"):
        change = next(c for c in found if c.__name__ in case.get("classname") + case.get("name"))
        seen += 1
        if case.find("failure") is not None:
            found[change].append(int(case.get("name").split("Cell ")[-1]))
    assert seen == len(SOURCES) * len(found)
    return found


@pytest.mark.parametrize("change", FAIL)
def test_nbval_sees(failures, change):
    assert failures[change] == [FAIL[change]]


@pytest.mark.parametrize("change", PASS)
def test_nbval_lets_pass(failures, change):
    assert failures[change] == []


def test_what_nbval_misses_the_rules_see(stored):
    notebook = deepcopy(stored)
    stripped_cell(notebook)
    assert list(executed(notebook)) == ["cell 1: execution count None, expected 1"]
    notebook = deepcopy(stored)
    output(notebook, WIDGET).data[WIDGET_VIEW] = {}
    assert problems(notebook) == [f"cell {WIDGET + 1}: stores a widget view"]


# How pytest is set up to run it over the course


def test_pytest_runs_strict_nbval_over_every_folder(request):
    config = request.config
    assert config.option.nbval and config.option.nbval_current_env
    assert not config.option.nbval_lax
    assert set(FOLDERS) <= set(config.getini("testpaths"))
    sanitize = Path(config.option.nbval_sanitize_with)
    assert sanitize.is_absolute()
    assert sanitize.read_text(encoding="utf-8").count("regex:") == 1
