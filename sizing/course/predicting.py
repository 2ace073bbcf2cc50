"""`predict(...)` asks for a guess before a number is computed or measured; `reveal(...)` compares.

Guesses are kept in `predictions.json` in the learner's folder (`.learner/`, which git ignores).
With `SIZING_RECORDED=1` they live as long as the session, so that a notebook's text does not depend
on who runs it; the widget itself is the same. `reveal` says nothing before there is a guess, unless
it is asked to (`show=True`, or its button). `SIZING_ANSWERS=shown` is for the notebooks that are
stored executed: there it always says. With `SIZING_CLASS` guesses join a class's: `classroom`.
"""

import math
import os
import re
from functools import cache
from html import escape, unescape
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from ..measuring.recording import learner_directory, recorded_only
from . import classroom
from .guesses import Guesses, calibration, quantity


class Prediction(widgets.VBox):
    """A question, a box for the guess and a button that commits it. A view of `Guesses`."""

    def __init__(self, name: str, question: str, unit: str, guesses: Guesses, within: float = 2):
        self.name, self.question, self.unit, self.guesses = name, question, unit, guesses
        self.within = within
        self.box = widgets.Text(
            description="Your guess:",
            placeholder="such as 0.5, 250 or 2.5e3",
            style={"description_width": "initial"},
        )
        self.button = widgets.Button(description="Commit", tooltip="Keep this guess")
        self.status = widgets.HTML(escape(self._before()))
        self.box.observe(self._typed, "value")
        self.box.on_msg(self._message)
        self.button.on_click(self._commit)
        line = widgets.HBox([self.box, widgets.Label(unit), self.button])
        asked = f"<div style='line-height:1.4'><b>Predict.</b> {escape(question)}</div>"
        super().__init__([widgets.HTML(asked), line, self.status])

    def _before(self) -> str:
        try:
            entries = self.guesses.entries()
        except OSError as error:
            return f"The earlier guesses could not be read: {error}."
        if self.guesses.set_aside:
            return f"The earlier guesses could not be read; they are in {self.guesses.set_aside}."
        earlier = [entry for entry in entries if entry["name"] == self.name and "guess" in entry]
        if not earlier:
            return f"Commit a guess before you read on: {nearness(self.within)} is good."
        return f"Your guess so far: {quantity(earlier[-1]['guess'], self.unit)}."

    def _typed(self, _change: dict[str, Any]) -> None:
        try:
            value = read_number(self.box.value, self.unit)
            text = f"{quantity(value, self.unit)}: press Enter or Commit to keep it."
        except ValueError as error:
            text = str(error)
        self.status.value = escape(text)

    def _message(self, box: widgets.Text, content: dict[str, Any], _buffers: Any) -> None:
        if content.get("event") == "submit":  # Enter
            self._commit(box)

    def _commit(self, _source: widgets.Widget) -> None:
        try:
            value = read_number(self.box.value, self.unit)
            self.guesses.guess(self.name, value, self.unit)
            joined = classroom.join(self.name, self.unit, guess=value)
            text = f"Committed: {quantity(value, self.unit)}. {joined}".rstrip()
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


class Withheld(widgets.VBox):
    """What `reveal` shows while there is no guess: why it says nothing, and a button to see it."""

    def __init__(self, name: str, answer: str):
        self.answer = answer
        self.status = widgets.HTML(escape(f"{name}: {_WITHHELD}"))
        self.button = widgets.Button(description="Show me", tooltip="Show it without a guess")
        self.button.on_click(self._show)
        super().__init__([self.status, self.button])

    def _show(self, _button: widgets.Button) -> None:
        self.status.value = f"<pre style='white-space:pre-wrap'>{escape(self.answer)}</pre>"
        self.button.layout.display = "none"

    def _repr_mimebundle_(self, **kwargs: Any) -> dict[str, Any]:
        text = unescape(re.sub("<[^>]*>", "", self.status.value))
        shown = {"text/plain": text, "text/html": f"<p>{self.status.value}</p>"}
        return super()._repr_mimebundle_(**kwargs) | shown


_WITHHELD = (
    "no guess is committed yet. Commit one where it was asked for and run this cell again, "
    "or press Show me."
)


def predict(name: str, question: str, unit: str = "", within: float = 2) -> Prediction:
    """Ask for a guess, such as ``predict("00.matmul", "How fast is it?", unit="TFLOP/s")``.

    ``name`` is what `reveal` is called with later: the lesson's number, a dot, and a word.
    ``within`` is the factor to which a guess counts as good: 1.1 is within 10 %. Choose it so that
    the misconceptions of `reveal` lie outside. ValueError unless it is a number above 1.
    """
    if not 1 < within < math.inf:
        raise ValueError(f"within of {name!r} is {within!r}; allowed: a factor above 1")
    _asked[name] = (unit, within)
    return Prediction(name, question, unit, _guesses(), within)


def reveal(
    name: str, actual: float, misconceptions: dict[float, str] | None = None, show: bool = False
) -> None:
    """Print the guess beside what it turned out to be, their ratio, and the calibration so far.

    ``actual`` is in the unit of the question. ``misconceptions`` are wrong answers that a way of
    thinking leads to, each with what that way assumes: ``{2.0: "the update is added"}`` tells who
    guessed near 2.0 "you assumed that the update is added". Without a guess nothing is said of
    ``actual``, unless ``show``. ValueError unless all numbers are positive and finite.
    """
    actual, misconceptions = float(actual), misconceptions or {}
    for what, value in [("actual", actual), *(("misconception", m) for m in misconceptions)]:
        if not 0 < value < math.inf:
            raise ValueError(f"{what} of {name!r} is {value!r}; allowed: a positive, finite number")
    guesses = _guesses()
    unit, within = _asked.get(name, ("", 2.0))
    answer = f"{name}: it is {quantity(actual, unit)}."
    try:
        before = guesses.entries()
        guess = guesses.reveal(name, actual)
        entries = guesses.entries()
    except OSError as error:
        print(f"{name}: the guesses could not be read: {error}. reveal(..., show=True) shows it.")
        if show:
            print(answer)
        return
    if guesses.set_aside:
        print(f"The earlier guesses could not be read; they are in {guesses.set_aside}.")
    if guess is None:
        told = "\n".join([f"{answer} No guess was committed.", *_told(misconceptions, unit)])
        if show or answers_shown():
            print(told)
        else:
            display(Withheld(name, told))
        return
    again = any(entry["name"] == name and "actual" in entry for entry in before)
    print(f"{name}: you guessed {quantity(guess, unit)}, it is {quantity(actual, unit)}:")
    print(f"  {verdict(guess, actual, within)}. {calibration(entries)}")
    assumed = assumption(guess, actual, within, misconceptions)
    if assumed and not again:
        print(f"  You said {quantity(guess, unit)}: you assumed that {assumed}.")
    elif assumed:
        print(f"  {quantity(guess, unit)} is what one gets who assumes that {assumed}.")
    classroom.join(name, unit, actual=actual)
    if of_class := classroom.shown(name, unit, actual):
        print(of_class)


def verdict(guess: float, actual: float, within: float) -> str:
    """How near a guess is: ``'good, within 5 %'``, ``'3 times too high'``, ``'12 % too low'``."""
    factor = max(guess / actual, actual / guess)
    if factor <= min(1.05, within):
        return "good, within 5 %"
    side = "high" if guess > actual else "low"
    if factor < 1.5:
        off = f"{abs(guess / actual - 1):.0%}".replace("%", " %") + f" too {side}"
    else:
        off = (
            f"{factor:,.2g} times too {side}" if factor < 10 else f"{factor:,.0f} times too {side}"
        )
    return f"{off}, and {nearness(within)} is good" if factor <= within else off


def assumption(
    guess: float, actual: float, within: float, misconceptions: dict[float, str]
) -> str | None:
    """What the misconception assumes that leads to this guess; None if none does.

    The nearest one counts, if it is nearer than the truth and within the square root of ``within``
    (3 % at least, for numbers that are rounded when typed).
    """
    if not misconceptions:
        return None

    def distance(value: float) -> float:
        return abs(math.log(guess / value))

    nearest = min(misconceptions, key=distance)
    near = max(math.log(within) / 2, math.log(1.03))
    close = distance(nearest) <= near and distance(nearest) < distance(actual)
    return misconceptions[nearest] if close else None


def nearness(within: float) -> str:
    """A factor in words: ``'within 10 %'``, ``'within a factor of 2'``."""
    return (
        f"within {100 * (within - 1):.3g} %" if within < 1.5 else f"within a factor of {within:g}"
    )


def answers_shown() -> bool:
    """Whether this is a notebook that is stored executed, to be read: answers stand in it."""
    return os.environ.get("SIZING_ANSWERS") == "shown"


def read_number(text: str, unit: str = "") -> float:
    """The positive number that a learner typed: ``'2.5e3'``, ``'1,500'``, ``'124 439 808'``.

    The unit of the question may stand after it. ValueError for anything else, ``'2,5'`` included: a
    comma only ever groups thousands here.
    """
    plain = text.strip().removesuffix(unit).strip()
    plain = re.sub(r"(?<=\d)[, _](?=\d{3}(?!\d))", "", plain)
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"{text!r} is not a number greater than 0, such as 0.5, 250 or 2.5e3.")
    return value


_asked: dict[str, tuple[str, float]] = {}  # unit and tolerance of this session's questions


@cache
def _session() -> Guesses:
    return Guesses()


def _guesses() -> Guesses:
    if recorded_only():
        return _session()
    return Guesses(learner_directory().parent / "predictions.json")


def _told(misconceptions: dict[float, str], unit: str) -> list[str]:
    return [
        f"  {quantity(value, unit)} is what one gets who assumes that {assumed}."
        for value, assumed in misconceptions.items()
    ]
