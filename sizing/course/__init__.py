"""The teaching: what the notebooks use to ask, to check and to answer.

`predict` and `reveal` keep guesses, `quiz` asks (`quizzes`: a module per lesson), `found` answers a
calculator's questions (`findings`), `check` judges an exercise (`checks`: a module per lab), `plan`
grows by a line per lesson, `environment` and `ready` look at the machine. `copies` makes a
learner's notebooks; `labs` and `notebooks` are the maintainer's tools.
"""

from .checking import check
from .finding import found
from .machine import environment
from .planbook import catch_up, plan
from .predicting import predict, reveal
from .preflight import ready
from .quizzing import quiz

__all__ = [
    "catch_up",
    "check",
    "environment",
    "found",
    "plan",
    "predict",
    "quiz",
    "ready",
    "reveal",
]
