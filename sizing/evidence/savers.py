"""Memory savers: the formula against traces of the real model with torch's own checkpointing, hooks
and optimizers, and against published reports of what people saw."""

from __future__ import annotations

import csv
import json
from importlib.metadata import version
from pathlib import Path

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Lora, Run
from ..units import DATA
from . import tables

PATH = DATA / "savers_error.csv"
REPORTS = DATA / "memory_reports.csv"
COLUMNS = (
    *("model", "saver", "settings", "trace_bytes", "trace_phase"),
    *("formula_bytes", "formula_phase", "torch", "transformers"),
)
UNITS = {"GB": 1e9, "GiB": 2**30, "MiB": 2**20}

MINIMIND = {  # jingyaogong/minimind's own code, said as a Qwen 3
    "model_type": "qwen3",
    "vocab_size": 6400,
    "hidden_size": 768,
    "intermediate_size": 2432,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 96,
    "tie_word_embeddings": True,
}

_SAVERS = (
    ("recompute", {"recompute": "selective"}),
    ("recompute", {"recompute": "every-2"}),
    ("offload", {"offload": "activations"}),
    ("optimizer in backward", {"optimizer_in_backward": True, "optimizer": "adamw-fused"}),
    ("objective", {"objective": "dpo"}),
    ("objective", {"objective": "distillation"}),
)
_MODELS = ("qwen3-0.6b", "llama-3.2-1b", "pythia-410m")


def runs() -> list[tuple[str, dict, Run]]:
    """(saver, its settings, the run) of the table."""
    base = {"sequence": 1024, "micro_batch": 2, "precision": "bf16", "optimizer": "adamw-fused"}
    found = [
        (saver, settings, Run(Model(name), **{**base, **settings}))
        for name in _MODELS
        for saver, settings in _SAVERS
    ]
    modules = ({"recompute": ("mlp",)}, {"recompute": ("self_attn", "input_layernorm")})
    found += [
        ("recompute", way, Run(Model(name), **{**base, "precision": precision, **way}))
        for name in _MODELS[:2]
        for precision in ("bf16-mixed", "fp32")
        for way in modules
    ]
    return found


def record(path: Path = PATH, report=print) -> None:
    """Trace every run and write the table."""
    from .. import trace  # brings torch

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for saver, settings, run in runs():
            traced, formula = trace.memory(run), memory(run)
            shown = {"precision": run.precision, **settings}
            row = {
                "model": run.model.name,
                "saver": saver,
                "settings": json.dumps(shown),
                "trace_bytes": traced.total,
                "trace_phase": traced.peak_phase,
                "formula_bytes": formula.total,
                "formula_phase": formula.peak_phase,
                "torch": version("torch"),
                "transformers": version("transformers"),
            }
            writer.writerow(row)
            file.flush()
            report(f"{row['model']} {row['settings']} {error(row):+.4%}")


def load(path: Path = PATH) -> list[dict]:
    return tables.read(path, ("trace_bytes", "formula_bytes"))


def error(row: dict) -> float:
    """(formula - trace) / trace."""
    return row["formula_bytes"] / row["trace_bytes"] - 1


def text() -> str:
    """The tables as text."""
    rows = load()
    lines = [
        f"Memory savers: formula against {len(rows)} traced steps (data/savers_error.csv)",
        tables.HEADER,
        *tables.lines(rows, {"saver": "saver", "model": "model"}, error),
        "",
        "Published reports of memory (data/memory_reports.csv)",
    ]
    for row in reports():
        lines.append(
            f"  {row['what'][:60]:60} {row['reported']:>7} {row['unit']:3} {row['kind']:9} "
            f"formula {row['predicted']:7.2f}  {row['error']:+7.1%}  {row['note']}"
        )
    return "\n".join(lines)


def run_of(row: dict) -> Run:
    """The run that a report describes; "minimind-32" has 32 layers."""
    settings, name = json.loads(row["settings"]), row["model"]
    if isinstance(settings.get("lora"), dict):
        given = settings["lora"]
        targets = tuple(given.pop("targets", ())) or "all-linear"
        settings["lora"] = Lora(targets=targets, **given)
    if name.startswith("minimind-"):
        layers = int(name.removeprefix("minimind-"))
        return Run(Model({**MINIMIND, "num_hidden_layers": layers}, name=name), **settings)
    return Run(name, **settings)


def reports(path: Path = REPORTS) -> list[dict]:
    """Each published report with `predicted` in its unit and `error`, a fraction of the report."""
    found = []
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            held = memory(run_of(row))
            size = held.total
            if row["quantity"] == "state":
                size = held.parameters + held.optimizer
            elif row["quantity"] == "state and gradients":
                size = held.parameters + held.optimizer + held.gradients
            predicted = size / UNITS[row["unit"]]
            off = predicted / float(row["reported"]) - 1
            found.append({**row, "predicted": predicted, "error": off})
    return found
