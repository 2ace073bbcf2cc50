"""The lab generator, and every lab of the course: made from its solution, checked, and safe."""

import re
from importlib import import_module

import matplotlib
import nbformat
import nbformat.v4 as v4
import pytest
from hygiene import ROOT, code_cells, notebooks, read
from IPython.display import display

import sizing.course
from sizing.course import labs
from sizing.course.checking import exercises
from sizing.course.exercise import RIGHT, UNANSWERED, WRONG, judge
from sizing.course.notebooks import text

HINTS = ("1: a question back", "2: a relation", "3: a worked neighbour")
CHECK = re.compile(r"\bcheck\(\s*[\"']([^\"']+)[\"']")


@pytest.mark.parametrize(
    ("source", "stub"),
    [
        ("x = 1\n### BEGIN SOLUTION\ny = 2 * x\n### END SOLUTION\nz = y", "x = 1\ny = ...\nz = y"),
        ("### BEGIN SOLUTION\na = 1\nb, c = a, 2\n### END SOLUTION", "b, c = ..., ..."),
        ("### BEGIN SOLUTION\nx: int = (\n    1 +\n    2\n)\n### END SOLUTION", "x: int = ..."),
        ("### BEGIN SOLUTION\nx = y = 2  # why\n\n### END SOLUTION", "x = y = ..."),
        (
            "def f(x):\n    ### BEGIN SOLUTION\n    y = x\n    return y, 1\n    ### END SOLUTION",
            "def f(x):\n    return ...",
        ),
        (
            "### BEGIN SOLUTION\na = 1\n### END SOLUTION\n### BEGIN SOLUTION\nb = 1\n"
            "### END SOLUTION",
            "a = ...\nb = ...",
        ),
        ("x = 1", "x = 1"),
    ],
)
def test_stub(source, stub):
    assert labs.without_answers(source) == stub


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("### BEGIN SOLUTION\nx = 1", "'### BEGIN SOLUTION' without its partner"),
        ("x = 1\n### END SOLUTION", "'### END SOLUTION' without its partner"),
        ("### BEGIN SOLUTION\n### BEGIN SOLUTION\n### END SOLUTION", "without its partner"),
        ("### BEGIN SOLUTION\n\n### END SOLUTION", "ends in nothing; allowed"),
        ("### BEGIN SOLUTION\nx = 1\nprint(x)\n### END SOLUTION", "ends in Expr; allowed"),
    ],
)
def test_a_block_without_a_stub_is_refused(source, fault):
    with pytest.raises(ValueError, match=rf"lab\.ipynb, cell 2.*{fault}"):
        labs.without_answers(source, "lab.ipynb, cell 2")


@pytest.fixture
def solution(tmp_path):
    """A small solution in solutions/, and its lab's place in labs/."""
    explanation = v4.new_markdown_cell("Because 2 bytes.", metadata={"tags": ["solution"]})
    notebook = v4.new_notebook(
        cells=[
            v4.new_markdown_cell("How large?"),
            v4.new_code_cell("print('an error?')\nweights = 124_439_808"),
            v4.new_code_cell(
                "### BEGIN SOLUTION\nsize = 2 * weights\n### END SOLUTION\nprint(size)"
            ),
            explanation,
        ]
    )
    path = tmp_path / "solutions" / "01-size.ipynb"
    path.parent.mkdir()
    nbformat.write(notebook, path)
    return path, tmp_path / "labs" / path.name


def test_generates_the_same_bytes_each_time(solution):
    source, lab = solution
    labs.generate(source, lab)
    first = lab.read_bytes()
    labs.generate(source, lab)
    assert lab.read_bytes() == first
    made = nbformat.read(lab, as_version=4)
    assert [cell.source for cell in made.cells][2:] == ["size = ...\nprint(size)"]
    assert [cell.execution_count for _, cell in code_cells(made)] == [1, 2]
    assert made.cells[2].outputs[0].text == "Ellipsis\n"
    assert labs.is_current(source, lab)
    assert not labs.is_edited(lab)


def change(path, cell, source):
    notebook = nbformat.read(path, as_version=4)
    notebook.cells[cell].source = source
    nbformat.write(notebook, path)


def test_a_lab_that_is_worked_in_is_never_overwritten(solution):
    source, lab = solution
    labs.generate(source, lab)
    change(lab, 2, "size = 248_879_616\nprint(size)")
    worked = lab.read_bytes()
    with pytest.raises(FileExistsError, match=r"01-size\.ipynb was edited .* --force"):
        labs.generate(source, lab)
    assert lab.read_bytes() == worked
    labs.generate(source, lab, force=True)
    assert not labs.is_edited(lab)


def test_running_a_lab_is_no_edit(solution):
    source, lab = solution
    labs.generate(source, lab)
    notebook = nbformat.read(lab, as_version=4)
    notebook.cells[1].outputs = []
    notebook.cells[1].execution_count = 17
    nbformat.write(notebook, lab)
    assert not labs.is_edited(lab)
    change(source, 0, "How large is it?")
    assert not labs.is_current(source, lab)
    labs.generate(source, lab)
    assert labs.is_current(source, lab)


def test_a_lab_that_cannot_run_to_its_end_is_not_written(solution):
    source, lab = solution
    labs.generate(source, lab)
    before = lab.read_bytes()
    change(source, 1, "weights = missing")
    assert labs._failure(source, lab, force=False).startswith("not written. ")
    assert lab.read_bytes() == before


def test_the_command_line_checks_and_writes(solution, monkeypatch, capsys):
    source, lab = solution
    monkeypatch.setattr(labs, "SOLUTIONS", source.parent)
    monkeypatch.setattr(labs, "LABS", lab.parent)
    assert labs.main(["--check"]) == 1
    assert labs.main([]) == 0
    assert labs.main(["--check"]) == 0
    lab.with_name("02-orphan.ipynb").write_text("{}")
    assert labs.main(["--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "labs/01-size.ipynb: is not what its solution gives",
        "labs/01-size.ipynb: ok",
        "labs/01-size.ipynb: ok",
        "labs/01-size.ipynb: ok",
        "labs/02-orphan.ipynb: has no solution",
    ]


# The labs of the course


def names_in(notebook):
    return [name for _, cell in code_cells(notebook) for name in CHECK.findall(cell.source)]


def printed(notebook):
    outputs = [output for _, cell in code_cells(notebook) for output in cell.outputs]
    return "".join(output.get("text", "") for output in outputs)


def each(folder):
    return pytest.mark.parametrize("path", notebooks(folder), ids=lambda path: path.stem)


def test_every_solution_has_its_lab_and_every_lab_its_solution():
    solutions, made = (
        {path.name for path in notebooks(folder)} for folder in ("solutions", "labs")
    )
    assert solutions == made
    assert solutions


@each("solutions")
def test_lab_is_what_its_solution_gives(path):
    assert labs.is_current(path, ROOT / "labs" / path.name)


def test_every_exercise_is_asked_once_in_some_lab():
    asked = [name for path in notebooks("labs") for name in names_in(read(path))]
    assert sorted(asked) == sorted(exercises())


@each("solutions")
def test_the_stored_solution_got_every_exercise_right(path):
    assert names_in(read(path))
    for name in names_in(read(path)):
        assert f"{name}: {RIGHT}." in printed(read(path))


def answer_alone(path, name, monkeypatch):
    """What the solution hands to one check when every other exercise is skipped."""
    given = {}
    for module in (sizing.course, import_module("sizing.course.checking")):
        monkeypatch.setattr(module, "check", given.__setitem__)
    monkeypatch.chdir(path.parent)
    namespace = {"__name__": "__main__", "display": display}
    for number, cell in code_cells(read(path)):
        solved = name in CHECK.findall(cell.source)
        source = cell.source if solved else labs.without_answers(cell.source)
        if "solution" not in cell.metadata.get("tags", []):
            exec(compile(source, f"{path.name}, cell {number}", "exec"), namespace)
    return given[name]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        pytest.param(path, name, id=name)
        for path in notebooks("solutions")
        for name in names_in(read(path))
    ],
)
def test_each_check_takes_the_solution_whatever_else_is_skipped(path, name, monkeypatch):
    matplotlib.use("Agg")
    verdict = judge(exercises()[name], answer_alone(path, name, monkeypatch))
    assert verdict.status == RIGHT, verdict


@pytest.mark.parametrize("name", exercises())
def test_each_check_refuses_the_stub(name):
    exercise = exercises()[name]
    stubs = [..., lambda *arguments: ...] if exercise.inputs else [...]
    assert [judge(exercise, stub).status for stub in stubs] == [UNANSWERED] * len(stubs)


@pytest.mark.parametrize("name", exercises())
def test_each_known_mistake_gets_its_own_message(name):
    exercise = exercises()[name]
    reasons = [why for _, why in exercise.mistakes]
    assert reasons, "an exercise knows the mistakes that people make"
    assert len(set(reasons)) == len(reasons)
    for mistake, why in exercise.mistakes:
        given = mistake() if callable(mistake) and not exercise.inputs else mistake
        if not exercise.inputs:
            right = exercise.answer() if callable(exercise.answer) else exercise.answer
            given = completed(given, right)
        verdict = judge(exercise, given)
        assert (verdict.status, verdict.text) == (WRONG, why)


def completed(mistake, right):
    """A mistake with the right value wherever it does not say what was given."""
    if mistake is ...:
        return right
    if isinstance(mistake, dict):
        return {key: completed(part, right[key]) for key, part in mistake.items()}
    if isinstance(mistake, tuple):
        return tuple(completed(part, whole) for part, whole in zip(mistake, right, strict=True))
    return mistake


@each("labs")
def test_nothing_in_a_lab_is_answered(path):
    notebook = read(path)
    for name in names_in(notebook):
        assert f"{name}: {UNANSWERED}." in printed(notebook)
    assert len(names_in(notebook)) >= 3


@each("labs")
def test_each_exercise_has_a_card_before_it_and_hints_after_it(path):
    cells = read(path).cells
    places = [place for place, cell in enumerate(cells) if CHECK.search(cell.source)]
    for place, after in zip(places, [*places[1:], len(cells)], strict=True):
        card = cells[place - 1].source
        for word in ("min", "ifficulty", "mportance", "ractises"):
            assert word in card, f"no card before cell {place + 1}: {card[:60]!r} lacks {word!r}"
        follow = "".join(cell.source for cell in cells[place + 1 : after])
        for step in HINTS:
            assert f"Hint {step}" in follow, f"no hint {step} after cell {place + 1}"
        assert follow.count("<details>") == follow.count("</details>")


@each("labs")
def test_each_check_stands_in_the_cell_of_its_stub(path):
    for number, cell in code_cells(read(path)):
        if CHECK.search(cell.source):
            assert "..." in cell.source, f"cell {number}"


@each("labs")
def test_lab_file_is_as_it_would_be_written(path):
    assert text(read(path)) == path.read_text(encoding="utf-8")
