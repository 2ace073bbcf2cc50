"""The views: widgets that show what the core computes, and the style of the course's figures.

A calculator is a pure function of its settings and a thin view of the result; `base` has what all
share, `html` and `style` how they look.
"""

from .anatomy import MemoryCalculator
from .batch import BatchCalculator
from .compute import ComputeCalculator
from .compute_optimal import ComputeOptimal
from .costs import CostCalculator
from .dashboard import PlanDashboard
from .device_card import DeviceCard
from .optimizer import OptimizerCalculator
from .parameters import ParameterCalculator
from .planner import ParallelPlanner
from .sequence import SequenceCalculator, layer_bytes
from .storage import StorageCalculator
from .zero import ZeROStages

__all__ = [
    "BatchCalculator",
    "ComputeCalculator",
    "ComputeOptimal",
    "CostCalculator",
    "DeviceCard",
    "MemoryCalculator",
    "OptimizerCalculator",
    "ParallelPlanner",
    "ParameterCalculator",
    "PlanDashboard",
    "SequenceCalculator",
    "StorageCalculator",
    "ZeROStages",
    "layer_bytes",
]
