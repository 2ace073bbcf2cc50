"""How long a call takes: warm-up, synchronisation, the median of repeats and their spread."""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from .device import Device


@dataclass(frozen=True)
class Timing:
    """Seconds of one call, over repeats.

    Attributes:
        median, low, high: median, 10th and 90th percentile of the samples.
        samples: how many samples were taken.
        calls: calls in one sample; a short call is repeated so that a sample can be timed.
    """

    median: float
    low: float
    high: float
    samples: int
    calls: int

    @property
    def row(self) -> dict:
        """The timing as columns of a recording, in seconds."""
        return {
            "seconds": self.median,
            "seconds_p10": self.low,
            "seconds_p90": self.high,
            "samples": self.samples,
            "calls": self.calls,
        }


def timed(
    call: Callable[[], object],
    device: Device,
    budget: float | None = None,
    warmup: int = 1,
    warm: float | None = None,
    least: int = 3,
    most: int = 100,
    shortest: float = 5e-4,
) -> Timing:
    """Time a call.

    Args:
        call: what to time; it leaves its work on the device and does not wait for it.
        budget: seconds for all samples; by default 0.5 on a CPU, 0.3 on a GPU.
        warmup: calls before the first sample, at least: they load kernels, create handles and
            buffers.
        warm: seconds of such calls, at least, for the clock to rise; by default 0.1 on a CPU, 0.5
            on a GPU, whose clock falls while a model is built.
        least, most: bounds of the number of samples, whatever the budget.
        shortest: seconds that a sample lasts at least; shorter calls share one. 0: one call each.
    """
    budget = budget or (0.3 if device.cuda else 0.5)
    if warm is None:
        warm = 0.5 if device.cuda else 0.1
    start, done = time.perf_counter(), 0
    while done < warmup or time.perf_counter() - start < warm:
        estimate = _one(call, device)
        done += 1
    if device.cuda or estimate < budget:  # one longer than the budget gets the least, however long
        estimate = _one(call, device)
    calls = max(1, math.ceil(shortest / estimate))
    count = int(min(most, max(least, budget / (estimate * calls))))
    return summary(_samples(call, device, count, calls), calls)


def summary(samples: list[float], calls: int = 1) -> Timing:
    """Median and spread of samples, in seconds a call."""
    ordered = sorted(samples)
    last = len(ordered) - 1
    low, high = ordered[math.floor(0.1 * last)], ordered[math.ceil(0.9 * last)]
    return Timing(statistics.median(ordered), low, high, len(ordered), calls)


def _one(call: Callable[[], object], device: Device) -> float:
    device.synchronize()
    start = time.perf_counter()
    call()
    device.synchronize()
    return time.perf_counter() - start


def _samples(call: Callable[[], object], device: Device, count: int, calls: int) -> list[float]:
    if not device.cuda:
        return [_elapsed(call, calls) for _ in range(count)]
    # Events stand in the stream between the samples, so the host never has to wait for one.
    events = [torch.cuda.Event(enable_timing=True) for _ in range(count + 1)]
    events[0].record()
    for event in events[1:]:
        for _ in range(calls):
            call()
        event.record()
    torch.cuda.synchronize()
    return [a.elapsed_time(b) / 1e3 / calls for a, b in itertools.pairwise(events)]


def _elapsed(call: Callable[[], object], calls: int) -> float:
    start = time.perf_counter()
    for _ in range(calls):
        call()
    return (time.perf_counter() - start) / calls
