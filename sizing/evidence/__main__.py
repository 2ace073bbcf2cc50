"""How far off are we: `python -m sizing.evidence` prints every error table.

`python -m sizing.evidence published` prints one of them. `record traces`, `record ultrascale`,
`record published`, `record finetuning` (which needs peft and bitsandbytes) or, where there is a
GPU, `record cuda` and `record fits` make a table anew; those two go on where they were cut.
"""

from __future__ import annotations

import argparse
import sys

from . import (
    cuda,
    finetuning,
    fits,
    fms,
    hours,
    offload,
    published_memory,
    savers,
    traces,
    ultrascale,
    whole,
)
from .bands import record_trust
from .published_text import text as published_text


def _report_cuda(done: int, row: dict) -> None:
    off = f"{cuda.error(row):+.4%}" if "formula_bytes" in row else ""
    print(done, row["model"], off, flush=True)


TABLES = {
    "traces": lambda: traces.text(traces.load()),
    "cuda": cuda.text,
    "fits": fits.text,
    "finetuning": finetuning.text,
    "published fine-tuning": fms.text,
    "published memory": published_memory.text,
    "ultrascale": ultrascale.text,
    "published": published_text,
    "hours": hours.text,
    "savers": savers.text,
    "offload": offload.text,
    "whole": whole.text,
}
RECORDERS = {  # each is given the minutes that it may take, or None
    "traces": lambda _: traces.record(
        report=lambda done, row: print(done, row["model"], f"{traces.error(row):+.4%}", flush=True)
    ),
    "cuda": lambda minutes: cuda.record(report=_report_cuda, minutes=minutes),
    "fits": lambda minutes: fits.record(minutes=minutes),
    "finetuning": lambda _: finetuning.record(
        report=lambda done, row: print(
            done, *list(row.values())[:5], f"{finetuning.error(row):+.4%}", flush=True
        )
    ),
    "ultrascale": lambda _: ultrascale.record(),
    "published": lambda _: record_trust(),
    "savers": lambda _: savers.record(),
    "offload": lambda _: offload.record(),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m sizing.evidence", description=__doc__)
    commands = parser.add_subparsers(dest="command")
    recorder = commands.add_parser("record", help="make a table anew")
    recorder.add_argument("table", choices=RECORDERS)
    recorder.add_argument(
        "--minutes", type=float, help="of a GPU: after them no further row is begun (cuda, fits)"
    )
    for name in TABLES:
        commands.add_parser(name, help=f"print the table of {name} alone")
    options = parser.parse_args(arguments)
    if options.command == "record":
        RECORDERS[options.table](options.minutes)
    elif options.command:
        print(TABLES[options.command]())
    else:
        print("\n\n".join(table() for table in TABLES.values()))
    return 0


if __name__ == "__main__":
    sys.exit(main())
