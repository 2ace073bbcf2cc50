"""``python -m sizing.experiments record``: measure every experiment on the device found here.

Under torchrun, on one node or many, the experiments of several processes use those it started.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record as reported

from ..measuring.protocol import complete, leader, measure
from ..measuring.recording import MEASUREMENTS
from ..measuring.workers import leave, torchrun
from . import experiment, names


def record(chosen: list[str], out: Path, minutes: float) -> dict[str, str]:
    """Measure experiments one after the other; one that fails does not stop the others.

    Args:
        chosen: their names.
        out: directory under which ``<device>/<experiment>.csv`` is written.
        minutes: time for all of them; each may use an equal share of what is then left.

    Returns:
        What went wrong, by experiment; empty when every point of every grid was measured.
    """
    end, problems = time.monotonic() + 60 * minutes, {}
    for done, name in enumerate(chosen):
        started = time.monotonic()
        share = (end - started) / (len(chosen) - done)
        try:
            outcome = _record_one(name, out, started + share)
        except Exception as error:
            if torchrun():
                raise  # the other ranks wait for this one: torchrun ends them
            traceback.print_exc()
            outcome = problems[name] = f"{type(error).__name__}: {error}"
        else:
            if outcome:
                problems[name] = outcome
        if leader():
            print(f"{name}: {outcome or 'done'}, {time.monotonic() - started:.0f} s", flush=True)
    return problems


def _record_one(name: str, out: Path, deadline: float) -> str:
    """Record one experiment; returns what is missing, or nothing."""
    chosen = experiment(name)
    device = chosen.find()
    if leader():
        print(f"{name}: on {device.name} ({device.slug})", flush=True)
    path = out / device.slug / f"{name}.csv"
    command = f"python -m sizing.experiments record {name}"
    if torchrun():
        deadline = None  # clocks differ, and ranks must not
    bar = sys.stderr.isatty() and leader()
    recording = measure(chosen, device, chosen.points(device), path, command, deadline, bar)
    points = recording.provenance["points"]
    return "" if complete(recording) else f"out of time after {points} points"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 1 if anything is missing."""
    parser = argparse.ArgumentParser(prog="python -m sizing.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="measure here and write the recordings")
    recorder.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names())}")
    recorder.add_argument("--out", type=Path, default=MEASUREMENTS, help="default: %(default)s")
    recorder.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in names():
            parser.error(f"unknown experiment {name!r}; allowed: {', '.join(names())}")
    if torchrun():
        alone = [name for name in options.names or names() if not experiment(name).distributed]
        if alone:
            parser.error(f"torchrun is for experiments of several processes, not {alone[0]!r}")
    problems = record(options.names or list(names()), options.out, options.minutes)
    leave()
    for name, problem in problems.items():
        print(f"NOT RECORDED IN FULL: {name}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(reported(main)())
