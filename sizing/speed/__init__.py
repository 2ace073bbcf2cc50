"""How long does a step take, on which accelerators and links.

`step_time` adds up matmuls, attention, memory traffic, launches and collectives (`step`), at the
rates that hardware sustains (`rates`: `sustained_rates`, `matmul_time`).
"""

from .rates import NETWORK, NODE, Rates, matmul_time, sustained_rates
from .step import StepTime, step_time

__all__ = ["NETWORK", "NODE", "Rates", "StepTime", "matmul_time", "step_time", "sustained_rates"]
