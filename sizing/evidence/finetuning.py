"""Memory of fine-tuning set-ups: the formula against the libraries that people fine-tune with.

Each row is a step of a small model as peft and bitsandbytes build it, traced operation by operation
on this machine; `record` needs both, reading the table neither.
"""

from __future__ import annotations

import csv
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, median

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Lora, Run
from ..units import DATA
from . import tables

PATH = DATA / "finetuning_error.csv"
MODELS = {
    "small-llama": {
        "model_type": "llama",
        "vocab_size": 2000,
        "hidden_size": 512,
        "intermediate_size": 1408,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 2,
    },
    "small-qwen2": {
        "model_type": "qwen2",
        "vocab_size": 30000,
        "hidden_size": 384,
        "intermediate_size": 1024,
        "num_hidden_layers": 5,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "tie_word_embeddings": True,
    },
}
ADAPTERS = {
    "all linear": Lora(16),
    "q, v": Lora(8, ("q_proj", "v_proj")),
    "bf16, dropout": Lora(8, dtype="bf16", dropout=0.05),
    "tables": Lora(8, embeddings=("embed_tokens", "lm_head")),
}
COLUMNS = (
    *("model", "precision", "adapters", "quantization", "recompute"),
    *("library_bytes", "library_phase", "library_trained_bytes"),
    *("formula_bytes", "formula_phase", "formula_trained_bytes"),
    *("torch", "peft", "bitsandbytes"),
)
GROUPS = {name: name for name in ("model", "precision", "adapters", "quantization", "recompute")}
BYTES = tuple(name for name in COLUMNS if name.endswith("_bytes"))


def grid() -> list[dict]:
    """Every model, recipe and adapter; quantised the two that people combine with it."""
    rows = []
    for model, precision, recompute in product(
        MODELS, ("bf16-mixed", "bf16", "fp32"), ("none", "full")
    ):
        for adapters in ADAPTERS:
            kinds = ("", "int8", "nf4", "nf4-double") if adapters != "tables" else ("",)
            for kind in kinds if model == "small-llama" or adapters == "all linear" else ("",):
                rows.append(
                    {
                        "model": model,
                        "precision": precision,
                        "adapters": adapters,
                        "quantization": kind,
                        "recompute": recompute,
                    }
                )
    return rows


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    return Run(
        Model(MODELS[row["model"]], name=row["model"]),
        sequence=256,
        micro_batch=2,
        precision=row["precision"],
        recompute=row["recompute"],
        lora=ADAPTERS[row["adapters"]],
        quantization=row["quantization"] or None,
    )


def measure(row: dict) -> dict:
    """The row with what the libraries hold and what the formula says."""
    from .. import trace as tracing  # brings torch, which reading the table does not need

    run = run_of(row)
    traced = tracing.memory(run, library=True)
    said = memory(run)
    return {
        **row,
        "library_bytes": traced.total,
        "library_phase": traced.peak_phase,
        "library_trained_bytes": traced.phases["optimizer"]["gradients"],
        "formula_bytes": said.total,
        "formula_phase": said.peak_phase,
        "formula_trained_bytes": said.gradients,
        "torch": version("torch").split("+")[0],
        "peft": version("peft"),
        "bitsandbytes": version("bitsandbytes"),
    }


def record(path: Path = PATH, report=lambda done, row: None) -> None:
    """Trace the whole grid and write the table."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for done, point in enumerate(grid(), 1):
            row = measure(point)
            writer.writerow(row)
            file.flush()
            report(done, row)


def load(path: Path = PATH) -> list[dict]:
    """The recorded rows, bytes as integers."""
    return tables.read(path, BYTES)


def error(row: dict) -> float:
    """Relative error of the formula, positive where it says too much."""
    return row["formula_bytes"] / row["library_bytes"] - 1


def text(rows: list[dict] | None = None) -> str:
    """The error table as printed."""
    rows = load() if rows is None else rows
    errors = [abs(error(row)) for row in rows]
    used = sorted({(row["torch"], row["peft"], row["bitsandbytes"]) for row in rows})
    lines = [
        f"Peak memory of fine-tuning: formula against peft and bitsandbytes, {len(rows)} set-ups",
        *(f"torch {torch}, peft {peft}, bitsandbytes {bnb}" for torch, peft, bnb in used),
        f"all: mean {fmean(errors):.4%}, median {median(errors):.4%}, worst {max(errors):.4%}",
        "",
        tables.HEADER,
        *tables.lines(rows, GROUPS, error),
    ]
    return "\n".join(lines)
