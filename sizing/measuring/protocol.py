"""The protocol of every experiment: a grid for the device, a row for each point, and survival.

An experiment is a name, a grid and a measurement. The runner walks the grid, shows its progress,
turns "out of memory" into a row, really frees the memory, and writes the rows after every point,
so that a run that is cut off keeps what it had.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from tqdm.auto import tqdm

from .device import Device, find, provenance
from .recording import OK, OUT_OF_MEMORY, UNAVAILABLE, Recording, write

Row = dict[str, int | float | str | None]


class Unavailable(Exception):
    """A point cannot run here because a library or a feature of the device is missing."""


@dataclass(frozen=True)
class Experiment:
    """One experiment.

    Attributes:
        name: what it is called in files and in `run`.
        grid: from the device, and options with defaults, to the points to measure; scaled to the
            device's memory and speed, under a minute on a laptop's CPU.
        measure: from a point and the device to what was measured there, as one row or, for a
            series over time or for several processes, several. It may raise `Unavailable`.
        find: finds the device to measure on.
        distributed: whether it measures several processes, which torchrun may have started.
    """

    name: str
    grid: Callable[..., list[Row]]
    measure: Callable[[Row, Device], Row | list[Row]]
    find: Callable[[], Device] = find
    distributed: bool = False

    @property
    def options(self) -> tuple[str, ...]:
        """Names of the options that its grid takes."""
        return tuple(inspect.signature(self.grid).parameters)[1:]

    def points(self, device: Device, **options) -> list[Row]:
        """The grid for a device.

        Raises:
            ValueError: an option that the grid does not have.
        """
        for option in options:
            if option not in self.options:
                allowed = ", ".join(self.options) or "none"
                raise ValueError(f"option: {self.name} has no {option!r}; allowed: {allowed}")
        return self.grid(device, **options)


def measure(
    experiment: Experiment,
    device: Device,
    points: Iterable[Row],
    path: Path,
    command: str,
    deadline: float | None = None,
    progress: bool = True,
    before: Recording | None = None,
) -> Recording:
    """Measure points and write their rows to a file after each of them.

    Args:
        path: the CSV file; it exists as soon as there is a row.
        command: what a reader types to make the recording again, for its provenance.
        deadline: value of `time.monotonic` after which no further point is begun.
        progress: whether to show a progress bar.
        before: a recording of these points that was cut, to go on with; see `goes_on`.

    Raises:
        Exception: whatever a measurement raised, other than out of memory. Rows measured before
            it are in the file.
    """
    points, rows = list(points), list(before.rows) if before else []
    facts = provenance(device, experiment.name, command)
    first, spent = (reached(before), duration(before)) if before else (0, 0.0)
    started = time.monotonic() - spent
    bar = tqdm(points[first:], desc=experiment.name, leave=False, disable=not progress)
    for done, point in enumerate(bar, start=first + 1):
        if deadline is not None and time.monotonic() > deadline:
            break
        rows += _attempt(experiment, point, device)
        facts["points"] = f"{done} of {len(points)}"
        facts["duration"] = f"{time.monotonic() - started:.1f} s"
        recording = Recording(experiment.name, device.slug, rows, facts)
        if leader():
            write(recording, path)
    if "points" not in facts:
        raise TimeoutError(f"{experiment.name}: no time was left for its first point")
    return recording


def reached(recording: Recording) -> int:
    """How many points of the grid a recording holds."""
    return int(recording.provenance["points"].partition(" of ")[0])


def duration(recording: Recording) -> float:
    """Seconds that a recording took."""
    return float(recording.provenance["duration"].removesuffix(" s"))


def goes_on(recording: Recording, device: Device, points: list[Row]) -> bool:
    """Whether a recording is the beginning of one of these points: it was cut, and the device, the
    code and the versions are the same."""
    here = provenance(device, recording.name, "")
    same = ("device", "driver", "torch", "transformers", "commit")
    planned = recording.provenance["points"].partition(" of ")[2]
    return (
        not complete(recording)
        and planned == str(len(points))
        and all(recording.provenance.get(key) == here.get(key) for key in same)
    )


def leader() -> bool:
    """Whether this process writes: of those that torchrun started, the first alone does."""
    return os.environ.get("RANK", "0") == "0"


def complete(recording: Recording) -> bool:
    """Whether every point of the grid was reached."""
    done, _, planned = recording.provenance["points"].partition(" of ")
    return done == planned


def _attempt(experiment: Experiment, point: Row, device: Device) -> list[Row]:
    """Rows of one point, whether it fits or not; afterwards the device's memory is free again."""
    try:
        measured = experiment.measure(point, device)
        status, note = OK, None
    except Unavailable as reason:
        measured, status, note = {}, UNAVAILABLE, str(reason)
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        measured, status, note = {}, OUT_OF_MEMORY, str(error).strip().splitlines()[0]
    # The error is gone by here, and with it the frames that held the tensors.
    device.release()
    rows = measured if isinstance(measured, list) else [measured]
    return [
        {
            key: _rounded(value)
            for key, value in (point | {"status": status, "note": note} | row).items()
        }
        for row in rows
    ]


def _rounded(value):
    """Six significant digits: no measurement has more."""
    return float(f"{value:.6g}") if isinstance(value, float) else value


# What a full device makes others say than torch's GPU allocator: the CPU's allocator; the driver,
# when it loads a kernel; the libraries, when they create a handle or a workspace; NCCL.
_FULL = (
    "DefaultCPUAllocator: can't allocate memory",
    "DefaultCPUAllocator: not enough memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_NOT_INITIALIZED",
    "CUDNN_STATUS_ALLOC_FAILED",
    "Cuda failure 2",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether memory ran out: in torch's allocators, in Python, in the driver or a library."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(text in str(error) for text in _FULL)
