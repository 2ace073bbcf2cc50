"""`quiz("01.table")`: one question with three or four choices, and a sentence for each.

The questions are declared in `sizing/course/quizzes/`, so that no answer stands in a notebook. A
choice may be taken again: this is for thinking, not for marks.
"""

import difflib
import importlib
import pkgutil
from dataclasses import dataclass
from html import escape
from typing import Any

import ipywidgets as widgets

from . import quizzes
from .predicting import answers_shown


@dataclass(frozen=True)
class Question:
    """One question. ``choices`` are pairs (what can be chosen, what is said to it).

    ``right`` is the place of the right one, counted from 0, and ``about`` the lesson that answers
    it. ValueError unless there are three or four choices that differ, each with its own sentence,
    and ``right`` is one of them.
    """

    name: str
    asked: str
    choices: tuple[tuple[str, str], ...]
    right: int
    about: str

    def __post_init__(self):
        if not 3 <= len(self.choices) <= 4:
            raise ValueError(
                f"choices of {self.name!r}: {len(self.choices)} given; allowed: 3 or 4"
            )
        columns = zip(*self.choices, strict=True)
        for what, texts in zip(("choices", "sentences"), columns, strict=True):
            if len(set(texts)) < len(texts) or not all(texts):
                raise ValueError(f"{what} of {self.name!r}: {texts!r}; allowed: texts that differ")
        if self.right not in range(len(self.choices)):
            raise ValueError(
                f"right of {self.name!r} is {self.right!r}; allowed: 0 to {len(self.choices) - 1}"
            )


LETTERS = "ABCD"


class Quiz(widgets.VBox):
    """The view of a `Question`: radio buttons, and the sentence for what is chosen."""

    def __init__(self, question: Question):
        self.question = question
        self.choices = widgets.RadioButtons(
            options=[
                (f"{letter}  {text}", place)
                for place, (letter, (text, _)) in enumerate(
                    zip(LETTERS, question.choices, strict=False)
                )
            ],
            value=None,
            layout={"width": "auto"},
        )
        self.button = widgets.Button(description="Answer", tooltip="See what is said to it")
        self.said = widgets.HTML(_CHOOSE)
        self.button.on_click(lambda _button: self.answer())
        asked = widgets.HTML(_asked_html(question))
        super().__init__([asked, self.choices, self.button, self.said])
        self.add_class("sizing-quiz")

    def answer(self, choice: int | None = None) -> str:
        """Take a choice, by default the marked one, and say what is said to it."""
        if choice is not None:
            self.choices.value = choice
        if self.choices.value is None:
            self.said.value = _CHOOSE
            return _CHOOSE
        text = reply(self.question, self.choices.value)
        colour = "#00684a" if self.choices.value == self.question.right else "#9a3b00"
        self.said.value = (
            f"<div role='status' style='border-left:4px solid {colour};padding-left:8px;"
            f"line-height:1.4'>{escape(text)}</div>"
        )
        return text

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and beside it what GitHub, a screen reader or a test can read."""
        asked = self.question
        plain = [f"Quiz. {asked.asked}"]
        plain += [f"  {letter}  {text}" for letter, (text, _) in _lettered(asked)]
        items = "".join(f"<li>{escape(text)}</li>" for text, _ in asked.choices)
        html = f"<p><b>Quiz.</b> {escape(asked.asked)}</p><ol type='A'>{items}</ol>"
        if answers_shown():
            sentences = "".join(
                f"<p><b>{letter}</b> {escape(reply(asked, place))}</p>"
                for place, (letter, _) in enumerate(_lettered(asked))
            )
            html += f"<details><summary>What is said to each</summary>{sentences}</details>"
        return super()._repr_mimebundle_(**kwargs) | {
            "text/plain": "\n".join(plain),
            "text/html": html,
        }


_CHOOSE = "Choose one, then press Answer."


def quiz(name: str) -> Quiz:
    """Ask the question that is declared under this name; ValueError with the nearest if none is."""
    known = questions()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3) or sorted(known)[:5]
        raise ValueError(f"There is no question {name!r}; allowed: {', '.join(near) or 'none'}")
    return Quiz(known[name])


def questions() -> dict[str, Question]:
    """Every declared question by its name, in the order of the lessons."""
    modules = (
        importlib.import_module(f"{quizzes.__name__}.{lesson.name}")
        for lesson in pkgutil.iter_modules(quizzes.__path__)
    )
    return {question.name: question for module in modules for question in module.QUESTIONS}


def reply(question: Question, choice: int) -> str:
    """What is said to a choice: whether it is right, and its sentence."""
    verdict = "Right." if choice == question.right else "No."
    return f"{LETTERS[choice]}: {verdict} {question.choices[choice][1]}"


def _lettered(question: Question) -> list[tuple[str, tuple[str, str]]]:
    return list(zip(LETTERS, question.choices, strict=False))


def _asked_html(question: Question) -> str:
    return (
        f"<style>{_STYLE}</style><div style='line-height:1.4'><b>Quiz.</b> "
        f"{escape(question.asked)}</div>"
    )


# JupyterLab cuts a choice at the width of a control and gives it one line.
_STYLE = """
.sizing-quiz { max-width: 880px; }
.sizing-quiz .widget-html-content, .sizing-quiz .widget-html { height: auto; line-height: 1.4; }
.sizing-quiz .widget-radio-box label { width: auto; height: auto; line-height: 1.4;
    white-space: normal; margin-bottom: 4px; max-width: 100%; }
.sizing-quiz .widget-radio-box { max-width: 100%; margin: 4px 0; }
.sizing-quiz input:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2); }
.sizing-quiz .jupyter-widgets-disconnected::before { display: none; }
"""
