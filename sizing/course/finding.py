"""`found("01.parameters", calculator)`: under a calculator's questions, what one should have found.

Each answer is folded, and has a button that sets the calculator there. The answers are declared in
`sizing/course/findings/`, so that none stands in a notebook before it is unfolded.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass, field
from html import escape
from typing import Any

import ipywidgets as widgets

from ..calculators.base import Calculator
from . import findings
from .predicting import answers_shown


@dataclass(frozen=True)
class Finding:
    """The answer to one numbered question of a calculator.

    ``says`` gives the sentence from the calculator, which stands at ``settings`` when it is asked;
    it may look at other settings with `at`.
    """

    says: Callable[[Calculator], str]
    settings: dict[str, Any] = field(default_factory=dict)


def at(calculator: Calculator, **settings: Any):
    """The result of a calculator at other settings; it does not move."""
    return calculator.finish(calculator.result(**calculator.settings | settings))


class Found(widgets.VBox):
    """The answers under a calculator's questions, each behind a button."""

    def __init__(self, name: str, answers: tuple[Finding, ...], calculator: Calculator):
        self.name, self.answers, self.calculator = name, answers, calculator
        self.rows = [_Row(number, self, a) for number, a in enumerate(answers, 1)]
        super().__init__([widgets.HTML(f"<b>{_TITLE}</b>"), *self.rows])
        self.add_class("sizing")

    def sentence(self, number: int) -> str:
        """The answer to a question, counted from 1. The calculator does not move."""
        answer = self.answers[number - 1]
        there = type(self.calculator)(**self.calculator.settings | answer.settings)
        return answer.says(there)

    def go(self, number: int) -> None:
        """Set the calculator where the answer can be seen."""
        self.calculator.set(**self.answers[number - 1].settings)

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and beside it what GitHub, a screen reader or a test can read."""
        html = f"<p><b>{_TITLE}</b>: unfold it when the notebook runs.</p>"
        if answers_shown():
            html = "".join(
                f"<details><summary>{number}. {_TITLE}</summary>"
                f"{escape(self.sentence(number))}</details>"
                for number in range(1, len(self.answers) + 1)
            )
        text = f"{_TITLE}: {len(self.answers)} answers, folded."
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": text, "text/html": html}


class _Row(widgets.VBox):
    """One answer: a button unfolds the sentence, another one moves the calculator."""

    def __init__(self, number: int, found: Found, answer: Finding):
        self.number, self.found = number, found
        self.unfold = widgets.Button(description=f"Question {number}", tooltip=_TITLE)
        self.set = widgets.Button(
            description="Set it there",
            tooltip=f"Question {number}: set the calculator there",
            layout={"display": "none"},
        )
        self.text = widgets.HTML()
        self.unfold.on_click(self._fold)
        self.set.on_click(lambda _button: found.go(number))
        self.movable = bool(answer.settings)
        super().__init__([widgets.HBox([self.unfold, self.set]), self.text])

    def _fold(self, _button: widgets.Button) -> None:
        folded = not self.text.value
        sentence = escape(self.found.sentence(self.number)) if folded else ""
        self.text.value = sentence and f"<div style='{_TEXT}'>{sentence}</div>"
        self.set.layout.display = "" if folded and self.movable else "none"


_TEXT = "line-height:1.45;max-width:880px"  # JupyterLab's lines are as high as a control
_TITLE = "What you should have found"


def found(name: str, calculator: Calculator) -> Found:
    """The folded answers that are declared under this name, for a calculator in this notebook.

    ValueError with the nearest names if none are, or if an answer's settings are not the
    calculator's.
    """
    known = declared()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3) or sorted(known)[:5]
        raise ValueError(f"There are no findings {name!r}; allowed: {', '.join(near) or 'none'}")
    for answer in known[name]:
        for setting in answer.settings:
            if setting not in calculator.settings:
                raise ValueError(
                    f"{name} sets {setting!r}; allowed: {', '.join(calculator.settings)}"
                )
    return Found(name, known[name], calculator)


def declared() -> dict[str, tuple[Finding, ...]]:
    """All answers by their name, in the order of the lessons."""
    modules = (
        importlib.import_module(f"{findings.__name__}.{lesson.name}")
        for lesson in pkgutil.iter_modules(findings.__path__)
    )
    return {name: answers for module in modules for name, answers in module.FINDINGS.items()}
