"""What the notebooks use to teach: exercise checks, predictions, and a look at the machine."""

from .check import check
from .environment import environment
from .predict import predict, reveal

__all__ = ["check", "environment", "predict", "reveal"]
