"""Published fine-tuning peaks against the formula: IBM's fms-acceleration benchmarks on A100s.

Hugging Face's Trainer with FSDP over two GPUs, full checkpointing, torch's own peak of allocated
bytes. Its rows with fused kernels are said with the nearest of `Run`'s losses: "compiled" for its
Triton cross-entropy, "chunked" for Liger's.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Lora, Run
from ..units import DATA, GIB

PATH = DATA / "published_finetuning.csv"
POWERLM_3B = {  # said as a Llama: its multipliers change no size
    "model_type": "llama",
    "vocab_size": 49152,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 40,
    "num_attention_heads": 36,
    "num_key_value_heads": 36,
    "tie_word_embeddings": True,
}
MODELS = {"powerlm-3b": POWERLM_3B}
# scripts/benchmarks/scenarios*.yaml
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj")
LOSSES = {"none": None, "foak-fast-kernels": "compiled", "foak-fast-kernels-liger": "chunked"}


def load(path: Path = PATH) -> list[dict]:
    """The published rows."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    return Run(
        Model(MODELS.get(row["model"], row["model"]), name=row["model"]),
        sequence=int(row["sequence"]),
        micro_batch=int(row["micro_batch"]),
        precision=row["precision"],
        recompute="full",
        data=int(row["gpus"]),
        zero=3,
        lora=Lora(int(row["lora"]), TARGETS, dropout=0.1) if row["lora"] else None,
        loss=LOSSES[row["kernels"]],
        engine="fsdp",
    )


def error(row: dict) -> float:
    """Relative error of the formula, positive where it says too much."""
    return memory(run_of(row)).total / GIB / float(row["peak_gib"]) - 1


def text() -> str:
    """The table as printed: a line a row."""
    rows = load()
    errors = [error(row) for row in rows]
    head = f"Peak memory of published fine-tuning against the formula, {len(rows)} runs, GiB"
    lines = [head, f"median error {median(map(abs, errors)):.1%}", ""]
    for row, off in zip(rows, errors, strict=True):
        kind = f"LoRA {row['lora']}" if row["lora"] else "full"
        lines.append(
            f"{row['model']:14} {row['precision']:10} {kind:8} batch {row['micro_batch']:>2} "
            f"{row['kernels']:24} {float(row['peak_gib']):7.1f} {off:+7.1%}"
        )
    return "\n".join(lines)
