"""The Ultra-Scale Playbook's measured runs, and how far the formulas are from them.

710 pre-training runs of two Llama-like models on up to 512 H100s with nanotron (Hugging Face,
2025), in data/ultrascale_h100.csv. `python -m sizing.evidence` prints the errors by size and by
degree; `python -m sizing.evidence record ultrascale` writes data/parallel_error.csv.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from statistics import median

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Run
from ..speed.step import step_time
from ..units import DATA, GIB

SOURCE = DATA / "ultrascale_h100.csv"
TABLE = DATA / "parallel_error.csv"

# nanotron's scaling benchmark script. Its vocabulary and the rule that models with an MLP narrower
# than 10 000 tie their embeddings are from there as well; every head has its own keys and values.
_COMMON = {
    "model_type": "llama",
    "vocab_size": 131072,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}
MODELS = {
    "1B": {
        "num_hidden_layers": 16,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "tie_word_embeddings": True,
    },
    "8B": {"num_hidden_layers": 32, "hidden_size": 4096, "intermediate_size": 14336},
}
# Rows of the CSV, from 0, that the constants of step_time were calibrated with: 1B all of them.
CALIBRATION = (0, 1, 5, 7, 9, 15, 19, 27, 66, 75, 78, 257, 259, 269, 385)
LEAST_MFU = 10.0  # percent: below, runs wait for something that no formula here describes


@dataclass(frozen=True)
class Measured:
    """One row: the run, where it ran, and what was measured."""

    row: int
    size: str
    nodes: int
    run: Run
    mfu: float  # percent, as published; its convention differs between groups of rows
    tokens_per_second: float  # a GPU
    memory: float  # bytes, peak on a GPU; published as "GB", which are GiB: torch's, over 2**30

    @property
    def calibration(self) -> bool:
        return self.row in CALIBRATION


@lru_cache
def model(size: str) -> Model:
    return Model({**_COMMON, **MODELS[size]}, name=f"ultrascale-{size}")


@lru_cache
def measured() -> tuple[Measured, ...]:
    """All rows of data/ultrascale_h100.csv."""
    with SOURCE.open(newline="", encoding="utf-8") as file:
        return tuple(_measured(number, row) for number, row in enumerate(csv.DictReader(file)))


def _measured(number: int, row: dict[str, str]) -> Measured:
    run = Run(
        model(row["model"]),
        sequence=4096,
        micro_batch=int(row["mbs"]),
        accumulation=int(row["gradacc"]),
        precision="bf16-master",
        gradients="fp32",
        optimizer="adamw-fused",
        data=int(row["dp"]),
        zero=int(row["zero"]),
        tensor=int(row["tp"]),
        pipeline=int(row["pp"]),
        engine="nanotron",
    )
    return Measured(
        number,
        row["model"],
        int(row["nodes"]),
        run,
        float(row["mfu_pct"]),
        float(row["tok_s_gpu"]),
        float(row["mem_gb"]) * GIB,
    )


@dataclass(frozen=True)
class Compared:
    """One row with what the formulas say of it."""

    measured: Measured
    tokens_per_second: float
    memory: float

    @property
    def throughput_error(self) -> float:
        """Predicted over measured, less one."""
        return self.tokens_per_second / self.measured.tokens_per_second - 1

    @property
    def memory_error(self) -> float:
        return self.memory / self.measured.memory - 1


def compare(row: Measured) -> Compared:
    run = row.run
    return Compared(row, step_time(run).tokens_per_second(run), memory(run).total)


_COLUMNS = (
    "row", "model", "nodes", "mbs", "gradacc", "dp", "pp", "tp", "zero", "mfu_pct", "calibration",
    "tok_s_gpu", "predicted_tok_s_gpu", "throughput_error_pct", "mem_gib", "predicted_mem_gib",
    "memory_error_pct",
)  # fmt: skip


def table() -> list[dict[str, str]]:
    """data/parallel_error.csv: every row, in the order of the measurements."""
    return [_row(compare(row)) for row in measured()]


def _row(compared: Compared) -> dict[str, str]:
    row = compared.measured
    run = row.run
    values = (
        row.row, row.size, row.nodes, run.micro_batch, run.accumulation, run.data, run.pipeline,
        run.tensor, run.zero, row.mfu, int(row.calibration),
        f"{row.tokens_per_second:.0f}",
        f"{compared.tokens_per_second:.0f}",
        f"{100 * compared.throughput_error:.1f}",
        f"{row.memory / GIB:.1f}",
        f"{compared.memory / GIB:.1f}",
        f"{100 * compared.memory_error:.1f}",
    )  # fmt: skip
    return dict(zip(_COLUMNS, map(str, values), strict=True))


GROUPS: dict[str, Callable[[Measured], object]] = {
    "model": lambda row: row.size,
    "tensor": lambda row: row.run.tensor,
    "pipeline": lambda row: row.run.pipeline,
    "data": lambda row: row.run.data,
    "zero": lambda row: row.run.zero,
    "nodes": lambda row: row.nodes,
    "micro-batch": lambda row: row.run.micro_batch,
}


def held_out(rows: Iterable[Compared]) -> list[Compared]:
    """Rows that throughput is judged by: above 10 % MFU and not calibrated with."""
    return [row for row in rows if row.measured.mfu > LEAST_MFU and not row.measured.calibration]


def summary(rows: list[Compared], error: Callable[[Compared], float]) -> str:
    """Errors of all rows and by group: count, median size, median sign, share within 20 %."""
    lines = [f"{'':>12} {'':>5} {'runs':>5} {'median':>8} {'signed':>8} {'in 20 %':>8}"]
    lines.append(_line("all", "", [error(row) for row in rows]))
    for name, key in GROUPS.items():
        groups = sorted({key(row.measured) for row in rows})
        for group in groups:
            errors = [error(row) for row in rows if key(row.measured) == group]
            lines.append(_line(name, group, errors))
    return "\n".join(lines)


def _line(name: str, group: object, errors: list[float]) -> str:
    size, sign = median(map(abs, errors)), median(errors)
    close = sum(abs(error) <= 0.2 for error in errors) / len(errors)
    return f"{name:>12} {group!s:>5} {len(errors):5d} {size:7.1%} {sign:+8.1%} {close:8.0%}"


def text() -> str:
    """The error tables as printed: throughput, then memory, by size and by degree."""
    rows = [compare(row) for row in measured()]
    judged = held_out(rows)
    return "\n".join(
        (
            f"Throughput: {len(judged)} runs above {LEAST_MFU:.0f} % MFU, calibration left out",
            summary(judged, lambda row: row.throughput_error),
            f"\nMemory: all {len(rows)} runs, nothing calibrated",
            summary(rows, lambda row: row.memory_error),
        )
    )


def record() -> None:
    """Write data/parallel_error.csv."""
    with TABLE.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(table())
