"""`python -m sizing.trace error-table` prints the formula's error; `record` traces it anew."""

from __future__ import annotations

import sys

from . import table


def main(arguments: list[str]) -> int:
    if arguments == ["error-table"]:
        print(table.text(table.load()))
    elif arguments == ["record"]:
        table.record(report=lambda done, row: print(done, row["model"], f"{table.error(row):+.4%}"))
    else:
        print(__doc__, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
