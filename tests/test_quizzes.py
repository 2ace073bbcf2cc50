"""The quiz: every question is asked, has a sentence per choice, and tells nothing early."""

import re

import pytest
from hygiene import code_cells, notebooks, read

from sizing.course import quiz
from sizing.course.quizzing import Question, questions, reply

ASKED = re.compile(r"\bquiz\(\s*[\"']([^\"']+)[\"']")
CHOICES = (("one", "It is one."), ("two", "It is not two."), ("three", "It is not three."))


def question(**changes):
    given = {"name": "00.q", "asked": "How many?", "choices": CHOICES, "right": 0, "about": "00"}
    return Question(**given | changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"choices": CHOICES[:2]}, "choices of '00.q': 2 given; allowed: 3 or 4"),
        ({"choices": CHOICES + CHOICES}, "6 given"),
        ({"choices": (*CHOICES, CHOICES[0])}, "allowed: texts that differ"),
        ({"choices": (*CHOICES, ("four", "It is one."))}, "sentences of '00.q'"),
        ({"choices": (*CHOICES, ("four", ""))}, "sentences of '00.q'"),
        ({"right": 3}, "right of '00.q' is 3; allowed: 0 to 2"),
        ({"right": -1}, "right of '00.q' is -1"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(changes, fault):
    with pytest.raises(ValueError, match=re.escape(fault)):
        question(**changes)


def test_a_choice_is_answered_with_its_sentence():
    name = next(iter(questions()))
    widget = quiz(name)
    assert widget.answer() == "Choose one, then press Answer."
    for place in range(len(widget.question.choices)):
        text = widget.answer(place)
        assert text == reply(widget.question, place)
        assert ("Right." in text) == (place == widget.question.right)
    widget.choices.value = 0
    widget.button.click()
    assert "role='status'" in widget.said.value and "A: " in widget.said.value


def test_no_sentence_is_told_before_a_choice():
    for name, asked in questions().items():
        widget = quiz(name)
        bundle = widget._repr_mimebundle_()
        sent = bundle["text/plain"] + bundle["text/html"]
        sent += "".join(str(child.get_state()) for child in widget.children)
        assert not any(sentence in sent for _, sentence in asked.choices)
        assert all(choice in bundle["text/plain"] for choice, _ in asked.choices)


def test_a_stored_lesson_folds_the_sentences(monkeypatch):
    monkeypatch.setenv("SIZING_ANSWERS", "shown")
    name = next(iter(questions()))
    bundle = quiz(name)._repr_mimebundle_()
    assert bundle["text/html"].count("<details>") == 1 and "Right." in bundle["text/html"]
    assert "Right." not in bundle["text/plain"]


def test_an_unknown_question_names_the_nearest():
    with pytest.raises(ValueError, match=r"no question '01\.widr'; allowed: 01\.wider"):
        quiz("01.widr")


def asked_in(path):
    return [name for _, cell in code_cells(read(path)) for name in ASKED.findall(cell.source)]


def test_every_question_is_asked_once_in_its_lesson():
    asked = {name: path.name[:2] for path in notebooks("notebooks") for name in asked_in(path)}
    assert sorted(asked) == sorted(questions())
    assert all(name.startswith(f"{lesson}.") for name, lesson in asked.items())
    counts = [len(asked_in(path)) for path in notebooks("notebooks")]
    assert set(counts) <= {0, 2}, "two per lesson"


def test_one_of_two_goes_back_two_lessons():
    lessons = {}
    for name, asked in questions().items():
        lessons.setdefault(name[:2], []).append(asked.about)
    for lesson, about in lessons.items():
        back = max(int(lesson) - 2, 0)
        assert lesson in about, lesson
        assert lesson == "00" or f"{back:02}" in about, lesson
