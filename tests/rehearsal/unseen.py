"""Runs that nobody chose, held against the CUDA allocator: `unseen.py SEED`.

`sizing.evidence.cuda_runs.draw` draws them: every family in turn, with precision, optimizer,
recompute, attention, batch, length, tied or untied head and adapters at random, the largest models
cut to a few layers. What the formula says of them stands before they are run. The bars are the
table's (rehearse.py). Every run is printed; a run that fails otherwise than by memory is an error.

    .venv-rehearsal/bin/python tests/rehearsal/unseen.py 7 [--count 60] [--write]

With --write the rows are added to data/cuda_error.csv. Stopped and called again it goes on.
"""

from __future__ import annotations

import argparse
import sys

from driver import COURSE, python
from rehearse import Failed, judged, scratch_folder

_RUNS = """
import sys
import traceback
from pathlib import Path
from sizing.evidence import cuda, cuda_runs

failed = []

def report(done, row):
    if "formula_bytes" not in row:
        print(done, row["model"], flush=True)
        return
    cells = [str(row[name]) for name in ("model", *cuda_runs.FIELDS) if row[name]]
    sides = f"{row['formula_phase']}/{row['allocator_phase']}"
    print(f"{done:3} {cuda.error(row):+9.4%} {sides:20}", *cells, flush=True)

for number, run in enumerate(cuda_runs.draw(*map(int, sys.argv[2:])), 1):
    try:
        cuda.record(Path(sys.argv[1]), [run], lambda _, row: report(number, row))
    except Exception as error:
        failed.append(f"{cuda_runs.settings(run)}: {type(error).__name__}: {error}")
        traceback.print_exc()
        print(number, failed[-1], flush=True)
        cuda.release()
sys.exit(bool(failed))
"""


def main() -> int:
    """Run the command line; returns 1 if a run failed or a bar is not met."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("--count", type=int, default=60)
    parser.add_argument("--write", action="store_true", help="add the rows to data/cuda_error.csv")
    options = parser.parse_args()
    scratch = scratch_folder()
    scratch.mkdir(parents=True, exist_ok=True)
    path = scratch / f"unseen-{options.seed}.csv"
    failed = python(scratch, "-c", _RUNS, path, options.count, options.seed).returncode
    sys.path.insert(0, str(COURSE))
    from sizing.evidence import cuda

    rows = cuda.load(path)
    print(cuda.text(rows))
    if options.write:
        cuda.merge(rows)
    try:
        judged(rows)
    except Failed as reason:
        print(reason)
        return 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
