"""Memory of published fine-tuning and training runs against the formula, source by source.

What a source calls memory is compared with its like: bytes allocated with `Memory.total`, reserved
and nvidia-smi's with the band that `Memory.on` states, from the least that a GPU reserves for those
tensors to the most that is known; where the source does not say which, the band begins with what is
allocated. And the verdict: did the run fit on its GPU.
"""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import median

from ..architecture.model import Model
from ..footprint.step import memory
from ..run import Lora, Run
from ..units import DATA, GIB
from .fms import MODELS as FMS_MODELS

PATH = DATA / "published_memory.csv"
QWEN_14B = {  # of 2023, said as a Qwen 2 with as many key and value heads as heads
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 5120,
    "intermediate_size": 13696,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
MODELS = {**FMS_MODELS, "qwen-14b": QWEN_14B}


def load(path: Path = PATH) -> list[dict]:
    """The published rows."""
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    settings = json.loads(row["settings"])
    if "lora" in settings:
        given = settings["lora"]
        targets = tuple(given.pop("targets", ())) or "all-linear"
        settings["lora"] = Lora(targets=targets, **given)
    return Run(Model(MODELS.get(row["model"], row["model"]), name=row["model"]), **settings)


def judged(row: dict) -> dict:
    """The row with `predicted` GiB (as a pair where it is a band), `error` and `right`.

    `error` is relative: of allocated bytes as they are, else to the nearer end of the band, 0
    inside it; None where nothing was printed. `right` says whether the verdict is.
    """
    found = memory(run_of(row))
    fit = found.on(row["gpu"])
    low, high = fit.reserved_band
    if row["kind"] == "allocated":
        low = high = found.total
    elif row["kind"] == "not said":
        low = found.total
    elif row["kind"] == "nvidia-smi":
        low, high = low + fit.nccl + fit.context, high + fit.nccl + fit.context
    low, high = low / GIB, high / GIB
    error = None
    if row["reported"]:
        reported = float(row["reported"])
        nearest = min(max(reported, low), high)
        error = nearest / reported - 1
    fits = fit.verdict != "does not fit"
    return {
        **row,
        "predicted": (low, high),
        "error": error,
        "right": fits == (row["fits"] == "yes"),
    }


def text() -> str:
    """The table as printed: a line a source, and the rows that are far off."""
    rows = [judged(row) for row in load()]
    right = sum(row["right"] for row in rows)
    lines = [
        f"Memory of published runs against the formula, {len(rows)} runs; verdict right in {right}",
        f"{'':28} {'kind':11} {'runs':>4} {'median error':>13} {'worst':>7} {'verdicts':>9}",
    ]
    for source, kind in dict.fromkeys((row["source"], row["kind"]) for row in rows):
        some = [row for row in rows if (row["source"], row["kind"]) == (source, kind)]
        errors = [abs(row["error"]) for row in some if row["error"] is not None]
        shown = f"{median(errors):13.1%} {max(errors):7.1%}" if errors else f"{'':13} {'':7}"
        verdicts = f"{sum(row['right'] for row in some)}/{len(some)}"
        name = source.split(":")[0].split("@")[0].split("/")[1]
        lines.append(f"{name:28} {kind or 'no memory':11} {len(some):4} {shown} {verdicts:>9}")
    lines += ["", "More than 7 % off, or a wrong verdict:"]
    for row in rows:
        if not row["right"] or (row["error"] is not None and abs(row["error"]) > 0.07):
            low, high = row["predicted"]
            off = "" if row["error"] is None else f"{row['error']:+.1%}"
            lines.append(
                f"  {row['model']:13} {row['reported'] or '-':>6} {row['kind']:10} formula "
                f"{low:6.1f} to {high:6.1f} {off:>7} {row['settings'][:70]} {row['note']}"
            )
    return "\n".join(lines)
