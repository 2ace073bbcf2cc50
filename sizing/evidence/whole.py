"""Memory of published tensor-parallel runs without sequence parallelism, whose norms and residuals
are whole on every rank: `python -m sizing.evidence whole`.

BLOOM's topologies before its training (bigscience-workshop/bigscience, train/tr11-176B-ml/
chronicles-prequel.md: A100 80 GB, nvidia-smi's reading of a first or last node; the tables that
print their layers) and minimind on one and two GPUs (jingyaogong/minimind, issue 795: torch's peak
allocated), in data/tensor_memory.csv. Nothing was set with any of them.
"""

from __future__ import annotations

import csv
from pathlib import Path
from statistics import median

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Run
from ..units import DATA, GIB

PATH = DATA / "tensor_memory.csv"
_NUMBERS = (
    *("hidden", "layers", "heads", "data", "tensor", "pipeline", "micro_batch", "batch", "zero"),
)


def load(path: Path = PATH) -> list[dict]:
    """The published rows, numbers as numbers."""
    with path.open(newline="", encoding="utf-8") as file:
        return [
            {
                **row,
                **{name: int(row[name]) for name in _NUMBERS},
                "reported": float(row["reported"]),
            }
            for row in csv.DictReader(file)
        ]


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    degrees = {name: row[name] for name in ("micro_batch", "data", "tensor", "pipeline", "zero")}
    if row["model"] == "minimind":
        config = {
            "model_type": "qwen3",
            "vocab_size": 6400,
            "hidden_size": row["hidden"],
            "intermediate_size": 2432,
            "num_hidden_layers": row["layers"],
            "num_attention_heads": row["heads"],
            "num_key_value_heads": 4,
            "head_dim": 96,
            "tie_word_embeddings": True,
        }
        return Run(
            Model(config, name="minimind"),
            sequence=340,
            precision="fp32",
            attention="eager",
            sequence_parallel=False,
            **degrees,
        )
    config = {
        "model_type": "bloom",
        "vocab_size": 250880,
        "hidden_size": row["hidden"],
        "n_layer": row["layers"],
        "n_head": row["heads"],
    }
    return Run(
        Model(config, name=f"bloom-{row['hidden']}-{row['layers']}"),
        sequence=2048,
        accumulation=row["batch"] // row["data"] // row["micro_batch"],
        precision="bf16-master",  # the early rows have fp16, of as many bytes
        gradients=row["gradients"],
        optimizer="adamw-fused",
        recompute="full",
        attention="eager",
        sequence_parallel=False,
        engine="megatron-deepspeed",
        **degrees,
    )


def predicted(row: dict) -> float:
    """In the unit of the report: MiB of tensors, or GiB as nvidia-smi shows them."""
    held = memory(run_of(row))
    if row["model"] == "minimind":
        return held.total / 2**20
    return held.on("a100-sxm-80gb").total / GIB


def error(row: dict) -> float:
    """Relative error, positive where the formula says too much."""
    return predicted(row) / row["reported"] - 1


def groups() -> dict[str, list[float]]:
    """{group: errors}."""
    found: dict[str, list[float]] = {}
    for row in load():
        kind = row["model"]
        if kind == "minimind":
            kind += f", tensor {row['tensor']}"
        else:
            kind += ", 16-bit gradients" if row["gradients"] == "same" else ", fp32 gradients"
        found.setdefault(kind, []).append(error(row))
    return found


def text() -> str:
    """The table as printed."""
    lines = [
        "Memory of tensor-parallel runs without sequence parallelism (data/tensor_memory.csv)",
        f"  {'':28} {'runs':>4} {'median':>7} {'signed':>8} {'worst':>7}",
    ]
    for kind, errors in groups().items():
        size = [abs(error) for error in errors]
        middle, signed = median(size), median(errors)
        lines.append(f"  {kind:28} {len(errors):4} {middle:7.1%} {signed:+8.1%} {max(size):7.1%}")
    lines.append("  minimind's vocabulary is whole on both ranks, which counts most in few layers")
    return "\n".join(lines)
