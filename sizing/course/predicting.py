"""`predict(...)` asks for a guess before a number is computed or measured; `reveal(...)` compares.

Guesses are kept in `predictions.json` in the learner's folder (`.learner/`, which git ignores).
With `SIZING_RECORDED=1` they live as long as the session, so that a notebook's text does not depend
on who runs it; the widget itself is the same.
"""

import math
import re
from functools import cache
from html import escape, unescape
from typing import Any

import ipywidgets as widgets

from ..measuring.recording import learner_directory, recorded_only
from .guesses import Guesses, calibration


class Prediction(widgets.VBox):
    """A question, a box for the guess and a button that commits it. A view of `Guesses`."""

    def __init__(self, name: str, question: str, unit: str, guesses: Guesses):
        self.name, self.question, self.unit, self.guesses = name, question, unit, guesses
        self.box = widgets.Text(
            description="Your guess:",
            placeholder="such as 0.5, 250 or 2.5e3",
            style={"description_width": "initial"},
        )
        self.button = widgets.Button(description="Commit", tooltip="Keep this guess")
        self.status = widgets.HTML(escape(self._before()))
        self.box.observe(self._typed, "value")
        self.button.on_click(self._commit)
        line = widgets.HBox([self.box, widgets.Label(unit), self.button])
        super().__init__([widgets.HTML(f"<b>Predict.</b> {escape(question)}"), line, self.status])

    def _before(self) -> str:
        try:
            entries = self.guesses.entries()
        except OSError as error:
            return f"The earlier guesses could not be read: {error}."
        if self.guesses.set_aside:
            return f"The earlier guesses could not be read; they are in {self.guesses.set_aside}."
        earlier = [entry for entry in entries if entry["name"] == self.name and "guess" in entry]
        if not earlier:
            return "Commit a guess before you read on: within a factor of 2 is good."
        return f"Your guess so far: {_quantity(earlier[-1]['guess'], self.unit)}."

    def _typed(self, _change: dict[str, Any]) -> None:
        try:
            text = f"{_quantity(read_number(self.box.value), self.unit)}: press Commit to keep it."
        except ValueError as error:
            text = str(error)
        self.status.value = escape(text)

    def _commit(self, _button: widgets.Button) -> None:
        try:
            value = read_number(self.box.value)
            self.guesses.guess(self.name, value, self.unit)
            text = f"Committed: {_quantity(value, self.unit)}."
        except ValueError as error:
            text = str(error)
        except OSError as error:
            text = f"The guess could not be kept: {error}."
        self.status.value = escape(text)

    @property
    def text(self) -> str:
        """The question and how it stands, in plain words."""
        return f"Predict. {self._asked}\n{unescape(self.status.value)}"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        """The widget, and beside it what GitHub, a screen reader or a test can read."""
        html = f"<p><b>Predict.</b> {escape(self._asked)}<br>{self.status.value}</p>"
        return super()._repr_mimebundle_(**kwargs) | {"text/plain": self.text, "text/html": html}

    @property
    def _asked(self) -> str:
        return f"{self.question} (in {self.unit})" if self.unit else self.question


def predict(name: str, question: str, unit: str = "") -> Prediction:
    """Ask for a guess, such as ``predict("00.matmul", "How fast is it?", unit="TFLOP/s")``.

    ``name`` is what `reveal` is called with later: the lesson's number, a dot, and a word.
    """
    _units[name] = unit
    return Prediction(name, question, unit, _guesses())


def reveal(name: str, actual: float) -> None:
    """Print the guess beside what it turned out to be, their ratio, and the calibration so far.

    ``actual`` is in the unit of the question. ValueError unless it is positive and finite.
    """
    actual = float(actual)
    if not 0 < actual < math.inf:
        raise ValueError(f"actual of {name!r} is {actual!r}; allowed: a positive, finite number")
    unit, guesses = _units.get(name, ""), _guesses()
    measured = f"it is {_quantity(actual, unit)}"
    try:
        guess = guesses.reveal(name, actual)
        entries = guesses.entries()
    except OSError as error:
        print(f"{name}: {measured}. The guesses could not be read: {error}.")
        return
    if guesses.set_aside:
        print(f"The earlier guesses could not be read; they are in {guesses.set_aside}.")
    if guess is None:
        print(f"{name}: {measured}. No guess was committed.")
        return
    print(f"{name}: you guessed {_quantity(guess, unit)}, {measured}:")
    print(f"  {_ratio(guess / actual)}. {calibration(entries)}")


def read_number(text: str) -> float:
    """The positive number that a learner typed: ``'2.5e3'``, ``'1,500'``, ``'124 439 808'``.

    ValueError for anything else, ``'2,5'`` included: a comma only ever groups thousands here.
    """
    plain = re.sub(r"(?<=\d)[, _](?=\d{3}(?!\d))", "", text.strip())
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a number greater than 0, such as 0.5, 250 or 2.5e3.")
    return value


_units: dict[str, str] = {}  # of the questions asked in this session


@cache
def _session() -> Guesses:
    return Guesses()


def _guesses() -> Guesses:
    if recorded_only():
        return _session()
    return Guesses(learner_directory().parent / "predictions.json")


def _quantity(value: float, unit: str) -> str:
    number = f"{value:,.0f}" if 1000 <= value < 1e15 else f"{value:.4g}"
    return f"{number} {unit}".rstrip()


def _ratio(ratio: float) -> str:
    if 0.95 <= ratio <= 1.05:
        return "within 5 %"
    side, factor = ("high", ratio) if ratio > 1 else ("low", 1 / ratio)
    return f"{factor:,.2g} times too {side}" if factor < 10 else f"{factor:,.0f} times too {side}"
