"""Calculators: widgets that show what the core computes, and the style of the course's figures."""

from .compute import ComputeCalculator
from .device_card import DeviceCard
from .parameters import ParameterCalculator

__all__ = ["ComputeCalculator", "DeviceCard", "ParameterCalculator"]
