"""What lies on the host and what crosses its bus: the formula against DeepSpeed, one rank on this
machine (`sizing.trace.offloaded`)."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from ..footprint.step import memory
from ..units import DATA
from . import tables

PATH = DATA / "offload_error.csv"
COLUMNS = (
    *("engine", "settings", "host_bytes", "bus_bytes", "formula_host_bytes", "formula_bus_bytes"),
    *("torch", "deepspeed"),
)
_BYTES = tuple(name for name in COLUMNS if name.endswith("_bytes"))
_DEEPSPEED = {"engine": "deepspeed", "precision": "bf16-master"}
SETTINGS = (
    {**_DEEPSPEED, "zero": 2, "offload": ["optimizer"]},
    {**_DEEPSPEED, "zero": 2, "offload": ["optimizer"], "accumulation": 3},
    {**_DEEPSPEED, "zero": 3, "offload": ["optimizer"]},
)


def measure(settings: dict) -> dict:
    """A row: the engine's own bytes, in a process of its own, and the formula's."""
    from ..trace.offloaded import run_of  # brings torch

    command = [sys.executable, "-m", "sizing.trace.offloaded", json.dumps(settings)]
    out = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    found = json.loads(out.stdout.strip().splitlines()[-1])
    said = memory(run_of(settings))
    return {
        "engine": settings["engine"],
        "settings": json.dumps({k: v for k, v in settings.items() if k != "engine"}),
        "host_bytes": found["host"],
        "bus_bytes": found["bus"],
        "formula_host_bytes": said.host,
        "formula_bus_bytes": said.bus,
        "torch": version("torch").split("+")[0],
        "deepspeed": version("deepspeed"),
    }


def record(path: Path = PATH, report=print) -> None:
    """Measure every setting and write the table."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for settings in SETTINGS:
            row = measure(settings)
            writer.writerow(row)
            file.flush()
            report(line(row))


def load(path: Path = PATH) -> list[dict]:
    return tables.read(path, _BYTES)


def error(row: dict, what: str) -> float:
    """(formula - engine) / engine, of "host" or "bus"."""
    return row[f"formula_{what}_bytes"] / row[f"{what}_bytes"] - 1


def line(row: dict) -> str:
    sizes = "  ".join(
        f"{what} {row[f'{what}_bytes'] / 1e6:7.3f} MB, formula {error(row, what):+8.3%}"
        for what in ("host", "bus")
    )
    return f"  {row['engine']:9}  {sizes}  {row['settings']}"


def text() -> str:
    """The table as printed."""
    rows = load()
    worst = max(abs(error(row, what)) for row in rows for what in ("host", "bus"))
    return "\n".join(
        [
            f"Offload: formula against the engines' own tensors and copies, {len(rows)} set-ups of "
            f"one rank; worst {worst:.3%}",
            *map(line, rows),
        ]
    )
