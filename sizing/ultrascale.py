"""The Ultra-Scale Playbook's measured runs, and how far the formulas are from them.

710 pre-training runs of two Llama-like models on up to 512 H100s with nanotron (Hugging Face,
2025), in data/ultrascale_h100.csv. `python -m sizing.ultrascale` prints the errors by size and by
degree; with `--write` it also writes data/parallel_error.csv.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import lru_cache

from .model import Model
from .run import Run
from .units import DATA

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
    memory: float  # bytes, peak on a GPU; published as "GB", which are GiB

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
    )
    return Measured(
        number,
        row["model"],
        int(row["nodes"]),
        run,
        float(row["mfu_pct"]),
        float(row["tok_s_gpu"]),
        float(row["mem_gb"]) * 2**30,
    )
