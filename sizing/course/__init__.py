"""The teaching: what the notebooks use to ask, to check and to answer.

`predict` and `reveal` keep guesses, `quiz` asks (`quizzes`: one module per lesson), `check` judges
an exercise (`checks`: one module per lab), `plan` grows by a line per lesson, `environment` looks
at the machine. `copies` makes a learner's notebooks; `labs` and `notebooks` are the maintainer's.
"""

from .checking import check
from .machine import environment
from .planbook import catch_up, plan
from .predicting import predict, reveal
from .quizzing import quiz

__all__ = ["catch_up", "check", "environment", "plan", "predict", "quiz", "reveal"]
