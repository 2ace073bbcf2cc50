"""Memory of fine-tuning set-ups: the formula against the libraries that people fine-tune with.

Each row is a step of a small model as peft and bitsandbytes build it, traced operation by operation
on this machine; or of TRL's own DPOTrainer on a CPU, allocation by allocation. `record` needs
them, reading the table does not. TRL up to 1.13 makes all logits (loss "eager"), from 1.15 on none
("chunked"): a recording keeps the rows of the other kind.
"""

from __future__ import annotations

import csv
from importlib.metadata import version
from itertools import product
from pathlib import Path
from statistics import fmean, median

from ..architecture.model import Model
from ..footprint.step import Memory, memory
from ..run import Lora, Run
from ..settings import Dpo
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
    *("model", "precision", "adapters", "quantization", "recompute", "reference", "loss"),
    *("library_bytes", "library_phase", "library_trained_bytes"),
    *("formula_bytes", "formula_phase", "formula_trained_bytes"),
    *("torch", "peft", "bitsandbytes", "trl"),
)
GROUPS = {name: name for name in COLUMNS[: COLUMNS.index("library_bytes")]}
GROUPS["reference"] = "DPO's reference"
REFERENCES = ("model", "adapters off", "precomputed")
PLAIN = {"reference": "", "loss": ""}
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
                        **PLAIN,
                    }
                )
    return rows + preferences()


def preferences() -> list[dict]:
    """DPO steps, from logits and in chunks: every recipe and reference under full recompute, and
    without recompute the recipe that trl takes by default."""
    points = [
        *product(("small-qwen2",), ("bf16-mixed", "bf16", "fp32"), ("full",), REFERENCES),
        *product(("small-llama",), ("bf16-mixed",), ("none",), REFERENCES),
    ]
    return [
        {
            "model": model,
            "precision": precision,
            "adapters": "all linear" if reference == "adapters off" else "",
            "quantization": "",
            "recompute": recompute,
            "reference": reference,
            "loss": loss,
        }
        for loss in ("eager", "chunked")
        for model, precision, recompute, reference in points
    ]


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    return Run(
        Model(MODELS[row["model"]], name=row["model"]),
        sequence=256,
        micro_batch=2,
        precision=row["precision"],
        recompute=row["recompute"],
        lora=ADAPTERS[row["adapters"]] if row["adapters"] else None,
        quantization=row["quantization"] or None,
        objective=Dpo(row["reference"]) if row["reference"] else "lm",
        loss=row["loss"] or None,
        optimizer="adamw-fused" if row["reference"] else "adamw",
    )


def formula(row: dict) -> Memory:
    """What `memory` says of a row, on the device that it was measured on."""
    return memory(run_of(row), device="cpu" if row["reference"] else "cuda")


def measure(row: dict) -> dict:
    """The row with what the libraries hold and what the formula says."""
    from .. import trace as tracing  # brings torch, which reading the table does not need

    run, said = run_of(row), formula(row)
    if row["reference"]:
        from ..trace.trainers import preference_peak

        peak, held = preference_peak(run)
        found, bnb = {"library_bytes": peak, "library_trained_bytes": held["gradients"]}, ""
    else:
        traced = tracing.memory(run, library=True)
        found, bnb = (
            {
                "library_bytes": traced.total,
                "library_phase": traced.peak_phase,
                "library_trained_bytes": traced.phases["optimizer"]["gradients"],
            },
            version("bitsandbytes"),
        )
    return {
        **row,
        **found,
        "formula_bytes": said.total,
        "formula_phase": said.peak_phase,
        "formula_trained_bytes": said.gradients,
        "torch": version("torch").split("+")[0],
        "peft": version("peft") if row["adapters"] else "",
        "bitsandbytes": bnb,
        "trl": version("trl") if row["reference"] else "",
    }


def record(path: Path = PATH, report=lambda done, row: None, kinds=None) -> None:
    """Measure the whole grid, or the rows whose loss is in `kinds`, and write the table; DPO's rows
    of another TRL than the one installed are kept."""
    kept = {_key(row): row for row in load(path)} if path.exists() else {}
    rows = []
    for done, point in enumerate(grid(), 1):
        wanted = point["loss"] in kinds if kinds is not None else _can(point)
        rows.append(measure(point) if wanted or _key(point) not in kept else kept[_key(point)])
        report(done, rows[-1])
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def _can(row: dict) -> bool:
    """Whether the TRL that is installed takes the row's loss."""
    if not row["reference"]:
        return True
    number = tuple(int(part) for part in version("trl").split(".")[:2])
    return number >= (1, 15) if row["loss"] == "chunked" else number <= (1, 13)


def _key(row: dict) -> tuple:
    return tuple(row.get(name, "") for name in COLUMNS[: COLUMNS.index("library_bytes")])


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
    used = {
        name: ", ".join(sorted({row[name] for row in rows} - {""}))
        for name in ("torch", "peft", "bitsandbytes", "trl")
    }
    lines = [
        f"Peak memory of fine-tuning: formula against the libraries' own, {len(rows)} set-ups",
        "; ".join(f"{name} {versions}" for name, versions in used.items()),
        f"all: mean {fmean(errors):.4%}, median {median(errors):.4%}, worst {max(errors):.4%}",
        "",
        tables.HEADER,
        *tables.lines(rows, GROUPS, error),
    ]
    return "\n".join(lines)
