"""What a learner should have found: folded, computed, and the calculator can be set there."""

import ast
import re

import pytest
from hygiene import ROOT, code_cells, notebooks, read

import sizing.calculators as views
from sizing.calculators import ParameterCalculator
from sizing.course import found
from sizing.course.finding import declared

ASKED = re.compile(r"\bfound\(\s*[\"']([^\"']+)[\"'],\s*(\w+)\)")
NUMBERED = re.compile(r"^\d+\. ", re.MULTILINE)


def calculators_of(path):
    """Name, class, settings and the cell of the questions, for all findings that a lesson asks."""
    cells = read(path).cells
    for place, cell in enumerate(cells):
        for name, variable in ASKED.findall(cell.source):
            at = next(i for i in range(place, -1, -1) if f"{variable} = " in cells[i].source)
            made = next(
                node.value
                for node in ast.parse(cells[at].source).body
                if isinstance(node, ast.Assign) and node.targets[0].id == variable
            )
            kind = getattr(views, made.func.id)
            settings = {k.arg: eval(ast.unparse(k.value), {}) for k in made.keywords}
            yield name, kind, settings, cells[at - 1].source


ALL = [(path, *one) for path in notebooks("notebooks") for one in calculators_of(path)]


def test_every_declared_answer_stands_in_its_lesson():
    asked = [name for _, name, *_ in ALL]
    assert sorted(asked) == sorted(declared())
    assert all(path.name.startswith(name[:2]) for path, name, *_ in ALL)


@pytest.mark.parametrize(("path", "name", "kind", "settings", "questions"), ALL)
def test_one_answer_per_numbered_question(path, name, kind, settings, questions):
    assert len(NUMBERED.findall(questions)) == len(declared()[name])


@pytest.mark.parametrize(("path", "name", "kind", "settings", "questions"), ALL)
def test_answers_are_computed_and_reachable(path, name, kind, settings, questions):
    calculator = kind(**settings)
    before = calculator.settings
    widget = found(name, calculator)
    for number, answer in enumerate(widget.answers, 1):
        sentence = widget.sentence(number)
        assert len(sentence) > 20 and calculator.settings == before
        row = widget.rows[number - 1]
        assert row.text.value == "" and row.set.layout.display == "none"
        row.unfold.click()
        assert row.text.value and (row.set.layout.display == "") == bool(answer.settings)
        row.set.click()
        assert not calculator.error
        assert {k: calculator.settings[k] for k in answer.settings} == answer.settings
        row.unfold.click()
        assert row.text.value == ""
        calculator.set(**before)


def test_nothing_is_told_before_it_is_unfolded():
    widget = found("01.parameters", ParameterCalculator(model="llama-3.1-8b"))
    bundle = widget._repr_mimebundle_()
    assert bundle["text/plain"] == "What you should have found: 3 answers, folded."
    assert widget.sentence(1) not in bundle["text/html"]
    assert all(row.text.value == "" for row in widget.rows)


def test_stored_lessons_fold_the_answers(monkeypatch):
    monkeypatch.setenv("SIZING_ANSWERS", "shown")
    html = found("01.parameters", ParameterCalculator())._repr_mimebundle_()["text/html"]
    assert html.count("<details>") == 3 and ": a token meets" in html


def test_unknown_findings_are_refused():
    with pytest.raises(ValueError, match=r"no findings '01.parametres'; allowed: 01\.parameters"):
        found("01.parametres", ParameterCalculator())


def test_the_model_with_the_smallest_share_is_where_the_button_leads():
    answer = declared()["01.parameters"][2]
    assert answer.says(None).startswith(answer.settings["model"])


def test_every_numbered_question_of_a_calculator_has_an_answer():
    """Of the lessons that have begun to give answers: all of them, or none."""
    made = re.compile(rf"^\w+ = ({'|'.join(n for n in views.__all__ if n[0].isupper())})\(", re.M)
    for path in notebooks("notebooks"):
        cells = [cell.source for _, cell in code_cells(read(path))]
        shown = sum(bool(made.search(cell)) for cell in cells)
        asked = sum(bool(ASKED.search(cell)) for cell in cells)
        assert asked in (0, shown), path.relative_to(ROOT)
