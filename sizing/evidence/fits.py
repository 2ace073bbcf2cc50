"""What fits: the largest step that is said to fit an H100, taken on a device that is as full.

As `evidence.cuda`, an *allocator rehearsal, no GPU*: the null driver refuses what goes beyond the
memory of an H100 less what a context is assumed to take, and torch's allocator does the rest:
rounding, segments, gaps. Each setting is tried at three micro-batches: with expandable segments
(PYTORCH_ALLOC_CONF=expandable_segments:True) at the largest that is not said to be too large, which
must run, and at one more, which must not; with torch's default segments at the largest that fits at
their usual waste (`footprint.fit`), below which most runs of the CUDA table lie.
"""

from __future__ import annotations

import csv
import os
import time
from dataclasses import replace
from math import inf
from pathlib import Path

from ..footprint.step import memory
from ..hardware import GPU, gpu
from ..run import Lora, Run
from ..units import DATA
from . import cuda, tables
from .traces import SETTINGS

PATH = DATA / "cuda_fits.csv"
SAME = ("segments", "torch", "driver", "device")
EXPANDABLE, DEFAULT = "expandable", "default"
RAN, FULL = "ran", "out of memory"
COLUMNS = (
    "model", *SETTINGS, "lora", "segments", "verdict", "outcome", "formula_bytes", "limit_bytes",
    "reserved_bytes", "device", "driver", "torch", "transformers",
)  # fmt: skip
STEPS = 3  # taken of each: gaps come with the second, when the optimizer's state is there

_MIXED = {"precision": "bf16-mixed", "sequence": 1024}
_LONG = {"precision": "bf16-mixed", "sequence": 2048, "optimizer": "adamw-fused"}
CASES = (
    ("gpt2", {**_MIXED, "optimizer": "adamw"}),
    ("pythia-410m", {**_MIXED, "optimizer": "adamw-fused"}),
    ("qwen3-0.6b", {**_MIXED, "optimizer": "adamw"}),
    ("gemma-3-270m", {**_MIXED, "optimizer": "sgd", "recompute": "full"}),
    ("llama-3.2-1b", {**_MIXED, "optimizer": "lion", "attention": "eager"}),
    ("llama-3.2-1b", {"precision": "bf16", "sequence": 1024, "optimizer": "adamw-8bit"}),
    ("gemma-2-2b", {**_MIXED, "optimizer": "adafactor", "recompute": "full"}),
    ("tinyllama-1.1b", {"precision": "bf16", "attention": "eager", "recompute": "full"}),
    ("opt-1.3b", {**_LONG, "attention": "eager", "recompute": "selective"}),
    ("smollm2-360m", {**_LONG, "precision": "fp32", "optimizer": "sgd"}),
    ("gpt2-xl", {**_LONG, "sequence": 1000, "precision": "bf16-master", "recompute": "full"}),
    ("phi-2", {**_LONG, "precision": "bf16", "optimizer": "muon", "sequence": 1000}),
    ("qwen2.5-1.5b", {**_LONG, "sequence": 1537, "accumulation": 4}),
    ("gemma-3-1b", {**_LONG, "precision": "fp16-mixed", "recompute": "selective"}),
    ("olmo-2-1b", {**_LONG, "sequence": 4096, "recompute": "full"}),
    ("llama-3.1-8b", {**_LONG, "lora": Lora(16), "recompute": "full"}),
    ("mistral-7b", {**_LONG, "precision": "bf16", "optimizer": "adafactor", "sequence": 777}),
    ("olmoe-1b-7b", {**_LONG, "precision": "bf16", "optimizer": "sgd", "sequence": 1000}),
)


def largest(run: Run, allowed: tuple[str, ...], card: GPU) -> int:
    """The largest micro-batch of a run with one of these verdicts on a GPU; 0: none."""
    fits = 0
    while memory(replace(run, micro_batch=fits + 1)).on(card).verdict in allowed:
        fits += 1
    return fits


def cases(segments: str, card: GPU) -> list[Run]:
    """The steps to take on a GPU with an allocator's setting."""
    runs = [Run(name, **settings) for name, settings in CASES]
    if segments == DEFAULT:
        return [replace(run, micro_batch=largest(run, ("fits",), card)) for run in runs]
    most = [(run, largest(run, ("fits", "tight"), card)) for run in runs]
    return [replace(run, micro_batch=n) for run, fits in most for n in (fits, fits + 1)]


def record(path: Path = PATH, minutes: float | None = None) -> None:
    """Take the steps for the allocator that PYTORCH_ALLOC_CONF chose; other rows stay."""
    end = time.monotonic() + 60 * (minutes or inf)
    segments = EXPANDABLE if "expandable" in os.environ.get("PYTORCH_ALLOC_CONF", "") else DEFAULT
    rows = load(path) if path.exists() else []
    known = [(run_of(row), *(row[key] for key in SAME)) for row in rows]
    card, here = _card(), {"segments": segments, **cuda.versions()}
    for run in cases(segments, card):
        if (run, *(here[key] for key in SAME)) in known:
            continue
        if time.monotonic() > end:
            break
        rows.append(_attempt(run, segments, card))
        print(
            *(rows[-1][key] for key in ("model", "micro_batch", "segments", "outcome")), flush=True
        )
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


def _card() -> GPU:
    """The H100, or another of its generation, with the memory that it has here."""
    import torch

    return replace(gpu("h100-sxm"), memory=torch.cuda.get_device_properties(0).total_memory)


def _attempt(run: Run, segments: str, card: GPU) -> dict:
    import torch  # which reading the table does not need

    cuda.release()
    torch.cuda.reset_peak_memory_stats()
    try:
        _steps(run)
        outcome = RAN
    except torch.OutOfMemoryError:
        outcome = FULL
    reserved = torch.cuda.max_memory_reserved()
    cuda.release()
    said = memory(run)
    on = said.on(card)
    return {
        **{key: value for key, value in cuda.settings(run).items() if key in COLUMNS},
        "segments": segments,
        "verdict": on.verdict,
        "outcome": outcome,
        "formula_bytes": said.total,
        "limit_bytes": on.memory - on.context,
        "reserved_bytes": reserved,
        **{key: value for key, value in cuda.versions().items() if key in COLUMNS},
    }


def _steps(run: Run) -> None:
    import torch

    from ..trace.step import Step

    with torch.device("cuda"):
        step = Step(run)
    for _ in range(STEPS):
        step()


def load(path: Path = PATH) -> list[dict]:
    """The recorded rows, numbers as integers."""
    numbers = ("sequence", "micro_batch", "accumulation", "formula_bytes", "limit_bytes")
    return tables.read(path, (*numbers, "reserved_bytes"))


run_of = cuda.run_of


def wrong(rows: list[dict], segments: str = EXPANDABLE) -> list[str]:
    """Where a verdict was not what happened."""
    return [
        f"{row['model']} at {row['micro_batch']}, {segments} segments: "
        f"{row['verdict']}, {row['outcome']}"
        for row in rows
        if row["segments"] == segments
        and (row["verdict"] == "does not fit") == (row["outcome"] == RAN)
    ]


def text(rows: list[dict] | None = None) -> str:
    """The table as printed: a line for each setting."""
    rows = load() if rows is None else rows
    found: dict[Run, dict] = {}
    for row in rows:
        setting = replace(run_of(row), micro_batch=1)
        found.setdefault(setting, {})[row["segments"], row["verdict"]] = row
    lines = [
        f"Largest micro-batch on an H100: said and tried, {len(found)} settings, {cuda.NAME}",
        f"{'':62} {'default':>8} {'expandable':>11} {'one more':>14} {'reserved':>9}",
    ]
    for run, tried in found.items():
        by_default = next((r for (kind, _), r in tried.items() if kind == DEFAULT), None)
        fits = next(
            (r for (k, v), r in tried.items() if k == EXPANDABLE and v in ("fits", "tight")), None
        )
        more = tried.get((EXPANDABLE, "does not fit"))
        cells = [
            f"{r['micro_batch']} {r['outcome']}" if r else "-" for r in (by_default, fits, more)
        ]
        full = f"{fits['reserved_bytes'] / fits['limit_bytes']:.1%}" if fits else "-"
        name = (
            f"{run.model.name} s{run.sequence} {run.precision} {run.optimizer} {run.recompute} "
            f"{run.attention}"
        )
        lines.append(f"{name:62} {cells[0]:>8} {cells[1]:>11} {cells[2]:>14} {full:>9}")
    for segments in (EXPANDABLE, DEFAULT):
        tried, off = [r for r in rows if r["segments"] == segments], wrong(rows, segments)
        lines += [f"{segments} segments: {len(off)} of {len(tried)} verdicts wrong", *off]
    return "\n".join(lines)
