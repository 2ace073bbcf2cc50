"""The teaching: what the notebooks use to ask, to check and to answer.

`predict` and `reveal` keep guesses, `check` judges an exercise (`checks` has one module a lab),
`environment` looks at the machine. `labs` and `notebooks` are the maintainer's tools.
"""

from .checking import check
from .machine import environment
from .predicting import predict, reveal

__all__ = ["check", "environment", "predict", "reveal"]
