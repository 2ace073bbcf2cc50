"""Calculators: widgets that show what the core computes, and the style of the course's figures."""

from .batch import BatchCalculator
from .compute import ComputeCalculator
from .device_card import DeviceCard
from .memory import MemoryCalculator
from .optimizer import OptimizerCalculator
from .parameters import ParameterCalculator
from .planner import ParallelPlanner
from .sequence import SequenceCalculator
from .zero import ZeROStages

__all__ = [
    "BatchCalculator",
    "ComputeCalculator",
    "DeviceCard",
    "MemoryCalculator",
    "OptimizerCalculator",
    "ParallelPlanner",
    "ParameterCalculator",
    "SequenceCalculator",
    "ZeROStages",
]
