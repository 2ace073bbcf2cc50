"""`check("lab01.heads", answer)`: the verdict on a learner's answer, printed and never raised.

A lab's exercises are declared in `sizing/course/checks/`, one plain module a lab, as a tuple named
`EXERCISES`; a new module there is found without being registered anywhere.
"""

import difflib
import importlib
import pkgutil
from typing import Any

from . import checks
from .exercise import Exercise, judge


def check(name: str, answer: Any) -> None:
    """Print whether ``answer`` is right for the exercise ``name``, and why not if it is wrong."""
    try:
        print(f"{name}: {judge(find(name), answer)}")
    except Exception as error:  # Run All must reach the end, whatever the learner typed
        print(f"{name}: not judged. {error}")


def find(name: str) -> Exercise:
    """The exercise called ``'<lab>.<exercise>'``; ValueError with the nearest names if none is."""
    known = exercises()
    if name not in known:
        near = difflib.get_close_matches(str(name), known, n=3) or known
        raise ValueError(f"There is no exercise {name!r}; allowed: {', '.join(near) or 'none'}")
    return known[name]


def exercises() -> dict[str, Exercise]:
    """Every declared exercise under its full name, in the order of the labs."""
    return {
        f"{lab.name}.{exercise.name}": exercise
        for lab in pkgutil.iter_modules(checks.__path__)
        for exercise in importlib.import_module(f"{checks.__name__}.{lab.name}").EXERCISES
    }
