"""Memory against the trace of the real model: the table, its summary, and how it is made."""

from __future__ import annotations

import csv
import random
from importlib.metadata import version
from pathlib import Path

from ..architecture.model import Model, presets
from ..footprint.step import memory
from ..run import Run
from ..units import DATA
from . import tables

PATH = DATA / "memory_error.csv"
SETTINGS = (
    "sequence",
    "micro_batch",
    "accumulation",
    "precision",
    "gradients",
    "optimizer",
    "recompute",
    "attention",
)
COLUMNS = (
    "split",
    "model",
    "family",
    *SETTINGS,
    "trace_bytes",
    "trace_phase",
    "formula_bytes",
    "formula_phase",
    "torch",
    "transformers",
)
GROUPS = ("split", "family", "precision", "optimizer", "recompute", "attention")
MOST = 15e9  # parameters of the largest model in the table
_SPARSE = ("mixtral", "qwen3_moe", "deepseek_v3")

# The models that the formula was derived on: small ones, whose every allocation can be read.
_SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "num_key_value_heads": 4,
    "max_position_embeddings": 8192,
}
_GPT2 = {"vocab_size": 50257, "n_embd": 768, "n_head": 12, "n_layer": 4, "n_positions": 8192}
_OPT = {
    "vocab_size": 50272,
    "hidden_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 16,
    "ffn_dim": 4096,
    "max_position_embeddings": 8192,
}
DERIVED_ON = {
    "small-llama": {**_SHAPE, "model_type": "llama"},
    "small-gpt2": {**_GPT2, "model_type": "gpt2"},
    "small-gpt-neox": {
        "model_type": "gpt_neox",
        "vocab_size": 50304,
        "hidden_size": 1024,
        "num_hidden_layers": 4,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8192,
    },
    "small-opt": {**_OPT, "model_type": "opt", "dropout": 0.0},
    "small-qwen2": {
        **_SHAPE,
        "model_type": "qwen2",
        "vocab_size": 151936,
        "tie_word_embeddings": True,
    },
    "small-qwen3": {**_SHAPE, "model_type": "qwen3", "head_dim": 128},
    "small-mistral": {**_SHAPE, "model_type": "mistral", "sliding_window": 1024},
    "small-gemma2": {**_SHAPE, "model_type": "gemma2", "vocab_size": 100000, "head_dim": 128},
    "small-gemma3": {
        **_SHAPE,
        "model_type": "gemma3_text",
        "vocab_size": 100000,
        "sliding_window": 512,
        "num_hidden_layers": 8,
        "head_dim": 64,
    },
    "small-olmo2": {**_SHAPE, "model_type": "olmo2", "num_key_value_heads": 16},
}


def grid(held_out: int = 140, derived: int = 60, seed: int = 2026) -> list[tuple[str, Run]]:
    """(split, run): random settings, of the small models derived on and of presets never used."""
    draw = random.Random(seed)
    small = [Model(config, name=name) for name, config in DERIVED_ON.items()]
    large = [m for m in map(Model, presets()) if _fits(m)]
    families = sorted({m.family for m in large})
    runs = [("derived", _random_run(draw, small[i % len(small)])) for i in range(derived)]
    for i in range(held_out):  # each family as often as the others
        family = families[i % len(families)]
        model = draw.choice([m for m in large if m.family == family])
        runs.append(("held-out", _random_run(draw, model)))
    return runs


def _fits(model: Model) -> bool:
    return model.family not in _SPARSE and model.parameters.total < MOST


def _random_run(draw: random.Random, model: Model) -> Run:
    longest = min(model.max_positions or 8192, 8192)
    lengths = [n for n in (128, 256, 512, 1000, 1024, 2048, 4096, 8192) if n <= longest]
    precision = draw.choice(("fp32", "bf16-mixed", "bf16-mixed", "bf16-master", "bf16"))
    optimizers = ("sgd", "momentum", "adamw", "adamw", "adamw-fused", "adamw-8bit")
    return Run(
        model,
        sequence=draw.choice(lengths),
        micro_batch=draw.choice((1, 2, 3, 4, 8, 16, 32)),
        accumulation=draw.choice((1, 1, 1, 4)),
        precision=precision,
        gradients=draw.choice(("same", "same", "fp32")),
        optimizer=draw.choice((*optimizers, "adafactor", "muon", "lion")),
        recompute=draw.choice(("none", "none", "selective", "full")),
        attention=draw.choice(("flash", "eager")),
    )


def measure(split: str, run: Run) -> dict:
    """One row: the run's settings, its trace and the formula."""
    from .. import trace as tracing  # brings torch, which reading the table does not need

    trace, predicted = tracing.memory(run, device="cpu"), memory(run, device="cpu")
    return {
        "split": split,
        "model": run.model.name,
        "family": run.model.family,
        **{name: getattr(run, name) for name in SETTINGS},
        "trace_bytes": trace.total,
        "trace_phase": trace.peak_phase,
        "formula_bytes": predicted.total,
        "formula_phase": predicted.peak_phase,
        "torch": version("torch").split("+")[0],
        "transformers": version("transformers"),
    }


def record(path: Path = PATH, runs=None, report=lambda done, row: None) -> None:
    """Trace the whole grid and write the table."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for done, (split, run) in enumerate(runs or grid(), 1):
            row = measure(split, run)
            writer.writerow(row)
            file.flush()
            report(done, row)


def load(path: Path = PATH) -> list[dict]:
    """The recorded rows, numbers as integers."""
    numbers = ("sequence", "micro_batch", "accumulation", "trace_bytes", "formula_bytes")
    return tables.read(path, numbers)


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    source = DERIVED_ON.get(row["model"], row["model"])
    return Run(Model(source, name=row["model"]), **{name: row[name] for name in SETTINGS})


def error(row: dict) -> float:
    """Relative error of the formula, positive where it says too much."""
    return row["formula_bytes"] / row["trace_bytes"] - 1


def text(rows: list[dict]) -> str:
    """The error table as printed: by split, family and setting."""
    versions = sorted({(row["torch"], row["transformers"]) for row in rows})
    lines = [
        f"Peak memory of a training step: formula against trace, {len(rows)} runs",
        *(f"torch {torch}, transformers {transformers}" for torch, transformers in versions),
        "",
        tables.HEADER,
        *tables.lines(rows, {key: key for key in GROUPS}, error),
    ]
    return "\n".join(lines)
