"""What an exercise asks and how an answer is judged. Pure: nothing here prints.

An answer is a number, a truth value, one word out of a few, a tuple or dict of those, or a
function, which is then tried on several inputs. Numpy scalars, arrays and tensors count as the
plain numbers they hold.
"""

import copy
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from numbers import Real
from typing import Any

from ..units import GB, GIB

_BYTES = re.compile(r"\b(?:[kMGTP]?B|bytes?)\b(?! of parameters)")
UNANSWERED, RIGHT, WRONG = "not answered yet", "right", "not yet"


@dataclass(frozen=True)
class Exercise:
    """One exercise of a lab, declared in ``sizing/course/checks/<lab>.py``.

    ``answer`` is the value, or a function without arguments that derives it from ``sizing``. With
    ``inputs`` (a tuple of argument tuples) the learner hands in a function instead, and ``answer``
    is the reference function of the same arguments. ``mistakes`` are pairs: what a known mistake
    leads to, in any form that ``answer`` may have, and the sentence that says why it is wrong; a
    value of it that is ``...`` is whatever was given there. ``choices`` are the words that may be
    given, where answer and mistakes do not show them all.
    ``tolerance`` is relative; 0 asks for the exact number. ``because`` is said when it is right: a
    text, or a function that finds one where it depends on what was measured.
    """

    name: str
    answer: Any
    unit: str = ""
    tolerance: float = 0.01
    mistakes: tuple[tuple[Any, str], ...] = ()
    inputs: tuple[tuple, ...] = ()
    because: str | Callable[[], str] = ""
    choices: tuple[str, ...] = ()

    def __post_init__(self):
        if not 0 <= self.tolerance < 1:
            raise ValueError(
                f"tolerance of exercise {self.name!r} is {self.tolerance!r}; allowed: 0 <= x < 1"
            )
        if self.inputs and not callable(self.answer):
            raise ValueError(
                f"answer of exercise {self.name!r} is {self.answer!r}; with inputs it is a function"
            )

    @property
    def precision(self) -> str:
        """How near a number must come: ``'exact'`` or ``'within 1 %'``."""
        return f"within {100 * self.tolerance:g} %" if self.tolerance else "exact"


@dataclass(frozen=True)
class Verdict:
    """How an answer fared: ``status`` is UNANSWERED, RIGHT or WRONG, and ``text`` says more."""

    status: str
    text: str = ""

    def __str__(self) -> str:
        return f"{self.status}. {self.text}".rstrip()


def judge(exercise: Exercise, given: Any) -> Verdict:
    """Say whether ``given`` is right, not answered, or why it is wrong."""
    expected = _leaves(exercise, exercise.answer)
    if given is ...:
        return Verdict(UNANSWERED, _asked(exercise, expected))
    if callable(given) and not exercise.inputs:
        return Verdict(WRONG, "You gave a function: give what it returns, `f(...)` and not `f`.")
    if exercise.inputs and not callable(given):
        return Verdict(
            WRONG, f"A function is asked for: give `f` and not `f(...)`, {_kind(given)}."
        )
    try:
        found = _leaves(exercise, given)
    except (Exception, SystemExit) as error:  # the learner's own code: anything can happen in it
        what = "Your function" if exercise.inputs else "Reading your answer"
        return Verdict(WRONG, f"{what} stops with {type(error).__name__}: {error}")
    missing = [label for label, leaf in found.items() if leaf is ...]
    if missing:
        where = f"{_subject(missing[0])} is `...`. " if len(missing) < len(found) else ""
        return Verdict(UNANSWERED, where + _asked(exercise, expected))
    fault = _fault(exercise, expected, found)
    if fault is None:
        return Verdict(RIGHT, _praise(exercise, expected))
    for mistake, why in exercise.mistakes:
        if _is(exercise, mistake, found):
            return Verdict(WRONG, why)
    turned = dict(zip(found, reversed(found.values()), strict=True))
    if len(found) > 1 and not exercise.inputs and _fault(exercise, expected, turned) is None:
        return Verdict(WRONG, "The values are right, in the reverse order.")
    return Verdict(WRONG, fault)


def _leaves(exercise: Exercise, answer: Any) -> dict[str, Any]:
    """The single values of an answer, each under a label that says where it stands."""
    if exercise.inputs:
        return {
            label: leaf
            for number, inputs in enumerate(exercise.inputs, 1)
            for label, leaf in _flatten(_case(number, inputs), answer(*copy.deepcopy(inputs)))
        }
    return dict(_flatten("", answer() if callable(answer) else answer))


def _flatten(label: str, value: Any) -> Iterator[tuple[str, Any]]:
    if hasattr(value, "tolist"):  # numpy and torch
        value = value.tolist()
    if isinstance(value, dict):
        parts = [(f"{key!r}", part) for key, part in value.items()]
    elif isinstance(value, tuple | list):
        parts = [(f"value {number}", part) for number, part in enumerate(value, 1)]
    else:
        yield label, value
        return
    for name, part in parts:
        yield from _flatten(f"{label}, {name}" if label else name, part)


def _is(exercise: Exercise, mistake: Any, found: dict[str, Any]) -> bool:
    """Whether an answer is a known mistake in all values that the mistake names."""
    leaves = _leaves(exercise, mistake)
    named = {label: leaf for label, leaf in leaves.items() if leaf is not ...}
    if leaves.keys() != found.keys():
        return False
    return _fault(exercise, named, {label: found[label] for label in named}) is None


def _fault(exercise: Exercise, expected: dict[str, Any], found: dict[str, Any]) -> str | None:
    """What is wrong with the first value that is wrong, or None."""
    if len(found) != len(expected):
        asked = "1 value is" if len(expected) == 1 else f"{len(expected)} values are"
        return f"{asked} asked for, and you gave {len(found)}."
    for label, right in expected.items():
        if label not in found:
            return f"There is no {label} in your answer." if label else "Give the value alone."
        if isinstance(right, bool):
            fault = _fault_of_truth(right, found[label])
        elif isinstance(right, str):
            fault = _fault_of_word(right, found[label], _choices(exercise, label))
        else:
            fault = _fault_of_number(exercise, right, found[label])
        if fault:
            return f"{_subject(label)} {fault}"
    return None


def _fault_of_truth(right: bool, given: Any) -> str | None:
    if not isinstance(given, bool):
        return f"must be True or False, not {_kind(given)}."
    return None if given == right else f"is not {given}."


def _fault_of_word(right: str, given: Any, choices: list[str]) -> str | None:
    if not isinstance(given, str):
        return f"must be one of {', '.join(choices)}, not {_kind(given)}."
    if _plain(given) == _plain(right):
        return None
    if _plain(given) not in map(_plain, choices):
        return f"must be one of {', '.join(choices)}, not {_kind(given)}."
    return f"is not {given.strip()!r}."


def _fault_of_number(exercise: Exercise, right: float, given: Any) -> str | None:
    unit = f" ({exercise.unit})" if exercise.unit else ""
    if isinstance(given, bool) or not isinstance(given, Real | Decimal):
        return f"must be a number{unit}, not {_kind(given)}."
    try:
        given = float(given)
    except OverflowError:
        given = math.inf
    if not math.isfinite(given):
        return f"is {given}, which is no finite number: look for a division by zero."
    if math.isclose(given, right, rel_tol=0, abs_tol=max(exercise.tolerance, 1e-12) * abs(right)):
        return None
    return f"is {_quantity(exercise, given)}: {_distance(exercise, right, given)}."


def _distance(exercise: Exercise, right: float, given: float) -> str:
    direction = "large" if given > right else "small"
    if right and math.isclose(given, -right, rel_tol=exercise.tolerance):
        return "the right size with the wrong sign"
    if right == 0 or given / right <= 0:
        return f"too {direction}"
    factor = max(given / right, right / given)
    if _BYTES.search(exercise.unit) and math.isclose(factor, GIB / GB, rel_tol=0.002):
        return f"too {direction} by 7.4 %, as a GiB is to a GB: look at the unit"
    for base in (1000, 1024):
        for power in (1, 2, 3, 4):
            if math.isclose(factor, base**power, rel_tol=0.005):
                return f"too {direction} by a factor of {base**power:,}, so look at the unit"
    for times in (2, 3, 4, 8):
        if math.isclose(factor, times, rel_tol=0.002):
            return f"too {direction} by a factor of {times}"
    if factor < 1.1:
        return f"close, but a little too {direction} ({exercise.precision} is asked for)"
    return f"too {direction}" + (", by more than ten times" if factor > 10 else "")


def _choices(exercise: Exercise, label: str) -> list[str]:
    """The words that may stand at a place: right ones and those of the known mistakes.

    Under all keys of a dict the same words may stand, so that none of them tells its answer.
    """
    if exercise.choices:
        return [repr(word) for word in exercise.choices]
    answers = [exercise.answer, *(mistake for mistake, _ in exercise.mistakes)]
    words = [
        word
        for answer in answers
        for other, word in _leaves(exercise, answer).items()
        if _place(other) == _place(label)
    ]
    return sorted({repr(word) for word in words if isinstance(word, str)})


def _place(label: str) -> str:
    """The place of a value in its tuple, whatever the key of the dict around it."""
    last = label.split(", ")[-1]
    return last if last.startswith("value ") else ""


def _asked(exercise: Exercise, expected: dict[str, Any]) -> str:
    """The form that the answer should have, for who has not begun."""
    if exercise.inputs:
        return f"Asked for: a function, tried on {len(exercise.inputs)} inputs."
    first = next(iter(expected.values()))
    if isinstance(first, bool):
        form = "True or False"
    elif isinstance(first, str):
        form = f"one of {', '.join(_choices(exercise, next(iter(expected))))}"
    else:
        form = f"a number ({', '.join(filter(None, (exercise.unit, exercise.precision)))})"
    if len(expected) > 1:
        form = f"{len(expected)} values, each {form}"
    return f"Asked for: {form}."


def _praise(exercise: Exercise, expected: dict[str, Any]) -> str:
    because = exercise.because() if callable(exercise.because) else exercise.because
    if exercise.inputs or len(expected) > 1:
        return because
    (right,) = expected.values()
    shown = str(right) if isinstance(right, bool | str) else _quantity(exercise, right)
    return f"{shown}. {because}".rstrip()


def _quantity(exercise: Exercise, value: float) -> str:
    number = f"{value:,.0f}" if value == int(value) and abs(value) < 1e15 else f"{value:,.6g}"
    return f"{number} {exercise.unit}".rstrip()


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, str):
        return f"the text {_short(value)}"
    return f"an object of type {type(value).__name__}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:59] + "…"


def _case(number: int, inputs: tuple) -> str:
    return f"your result for input {number}, ({', '.join(map(_short, inputs))}),"


def _subject(label: str) -> str:
    return label[:1].upper() + label[1:] if label else "Your answer"


def _plain(word: str) -> str:
    return " ".join(word.split()).strip("'\"").casefold()
