"""``python -m sizing.experiments record``: measure every experiment on the device found here.

It prints its plan first (``--dry-run``: that alone). Everything on one GPU, in commands of at most
8 minutes each, by what an H100 is expected to take. What half an hour holds comes first:

    python -m sizing.experiments record --part 1        340 s
    python -m sizing.evidence record cuda --minutes 6   the memory table, its chosen rows first
    python -m sizing.experiments record --part 2        430 s
    python -m sizing.experiments record --part 3        420 s
    python -m sizing.evidence record cuda --minutes 8   the rest of it
    PYTORCH_ALLOC_CONF=expandable_segments:True python -m sizing.evidence record fits

A recording that was cut goes on if the command is given again, on the same device and commit.
On a machine with one GPU the experiments of several processes are left out, unless they are
named: they would measure its CPU.

Under torchrun, on one node or many, the experiments of several processes use those it started.
"""

from __future__ import annotations

import argparse
import sys
import time
import traceback
from pathlib import Path

import torch
from torch.distributed.elastic.multiprocessing.errors import record as reported

from ..measuring.protocol import complete, duration, goes_on, leader, measure
from ..measuring.recording import MEASUREMENTS, load, read
from ..measuring.workers import leave, torchrun
from . import experiment, names

# Seconds on an H100: estimates, since no GPU has been recorded, from the points of each grid and
# the host's share of a rehearsal. Four compilations are 240 s of speed-up-stack, jobs 100 s.
SECONDS = {
    "ceilings": 40,
    "model-size": 45,
    "recompute": 20,
    "batch": 30,
    "sequence-length": 80,
    "optimizers": 60,
    "accumulation": 10,
    "memory-timeline": 15,
    "speed-up-stack": 420,
    "formula-vs-device": 170,
    "one-rank-of-many": 60,
    "isoflop": 120,
    "finetune-stacks": 120,
}
OTHERS = 60.0  # seconds of an experiment of several processes
PARTS = (
    (
        "ceilings", "model-size", "recompute", "batch", "optimizers", "accumulation",
        "memory-timeline", "finetune-stacks",
    ),
    ("sequence-length", "formula-vs-device", "one-rank-of-many", "isoflop"),
    ("speed-up-stack",),
)  # fmt: skip


def plan(chosen: list[str]) -> tuple[dict[str, float], dict[str, str]]:
    """Seconds that each experiment is expected to take here, and why others are left out.

    A recording of this device says how long; otherwise the estimate for an H100 does.
    """
    expected, left_out = {}, {}
    for name in chosen:
        found = experiment(name)
        device = found.find()
        if torch.cuda.is_available() and not device.cuda and not torchrun():
            left_out[name] = "measures the CPU of a machine with a GPU; name it to do so"
            continue
        expected[name] = _recorded_seconds(name, device.slug) or SECONDS.get(name, OTHERS)
    return expected, left_out


def _recorded_seconds(name: str, device: str) -> float | None:
    path = MEASUREMENTS / device / f"{name}.csv"
    if not path.exists():
        return None
    recording = load(name, device)
    return duration(recording) if complete(recording) else None


def record(expected: dict[str, float], out: Path, minutes: float) -> dict[str, str]:
    """Measure experiments one after the other; one that fails does not stop the others.

    Args:
        expected: {name: the seconds that it is expected to take}.
        out: directory under which ``<device>/<experiment>.csv`` is written.
        minutes: time for all of them; each may use its share of what is then left, by its seconds.

    Returns:
        What went wrong, by experiment; empty when every point of every grid was measured.
    """
    end, problems = time.monotonic() + 60 * minutes, {}
    names_left = list(expected)
    for name in expected:
        started = time.monotonic()
        share = (end - started) * expected[name] / sum(expected[n] for n in names_left)
        names_left.remove(name)
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
    points = chosen.points(device)
    before = read(path) if path.exists() else None
    before = before if before and goes_on(before, device, points) else None
    recording = measure(chosen, device, points, path, command, deadline, bar, before)
    reached = recording.provenance["points"]
    return "" if complete(recording) else f"out of time after {reached} points; give it again"


def _print_plan(expected: dict[str, float], left_out: dict[str, str], minutes: float) -> None:
    total = sum(expected.values())
    print(f"Plan: {len(expected)} experiments in {total:.0f} s, {60 * minutes:.0f} s given")
    for name, seconds in expected.items():
        print(
            f"  {name:22} {seconds:5.0f} s expected, {60 * minutes * seconds / total:5.0f} s given"
        )
    for name, reason in left_out.items():
        print(f"  {name:22} left out: {reason}")
    if total > 60 * minutes:
        print(
            f"  Not all will be reached: give --minutes {total / 60 + 1:.0f}, name fewer, or give "
            "the same command again, which goes on."
        )
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code, 1 if anything is missing."""
    parser = argparse.ArgumentParser(prog="python -m sizing.experiments", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    recorder = commands.add_parser("record", help="measure here and write the recordings")
    recorder.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join(names())}")
    recorder.add_argument("--out", type=Path, default=MEASUREMENTS, help="default: %(default)s")
    recorder.add_argument("--minutes", type=float, default=10.0, help="default: %(default)s")
    recorder.add_argument(
        "--part", type=int, choices=(1, 2, 3), help="a third of those for one GPU, in 8 minutes"
    )
    recorder.add_argument("--dry-run", action="store_true", help="print the plan alone")
    options = parser.parse_args(arguments)
    for name in options.names:
        if name not in names():
            parser.error(f"unknown experiment {name!r}; allowed: {', '.join(names())}")
    if torchrun():
        alone = [name for name in options.names or names() if not experiment(name).distributed]
        if alone:
            parser.error(f"torchrun is for experiments of several processes, not {alone[0]!r}")
    minutes = options.minutes
    if options.part:
        if options.names:
            parser.error("name experiments or a part, not both")
        expected, left_out = plan(list(PARTS[options.part - 1]))
        minutes = min(minutes, 8.0)
    else:
        expected, left_out = plan(options.names or list(names()))
        if options.names:  # named, they are measured wherever they can be
            expected |= dict.fromkeys(left_out, OTHERS)
            left_out = {}
    if leader():
        _print_plan(expected, left_out, minutes)
    if options.dry_run:
        return 0
    problems = record(expected, options.out, minutes)
    leave()
    for name, problem in problems.items():
        print(f"NOT RECORDED IN FULL: {name}: {problem}", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(reported(main)())
