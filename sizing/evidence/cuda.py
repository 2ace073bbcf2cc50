"""Memory against torch's CUDA allocator: the rehearsal's table, its summary, and how it is made.

The rows come from an *allocator rehearsal, no GPU*: real training steps of the CUDA build of torch
on a driver that hands out addresses and computes nothing (tests/rehearsal, `make rehearse`). Which
operator runs, which attention kernel, every block that torch's allocator hands out and takes back
are torch's own; values and times are not real, nor is what libraries allocate behind torch. On a
real GPU ``python -m sizing.evidence record cuda`` makes the same table, and confirms or refutes it.

Compared are bytes that tensors asked for: the allocator's rounding, cuBLAS's workspaces and the
CUDA context belong to a GPU and are added by `Memory.on`.
"""

from __future__ import annotations

import csv
import gc
import os
import random
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

from ..architecture.model import Model, presets
from ..footprint.step import PHASES, memory
from ..run import Lora, Run
from ..units import DATA
from . import tables
from .traces import SETTINGS

NAME = "allocator rehearsal, no GPU"
PATH = DATA / "cuda_error.csv"
FIELDS = (*SETTINGS, "lora")
BYTES = ("formula_bytes", "allocator_bytes", "allocated_bytes", "reserved_bytes", "buffer_bytes")
COLUMNS = (
    "model", "family", *FIELDS, "kernel", "formula_bytes", "formula_phase", "allocator_bytes",
    "allocator_phase", "allocated_bytes", "reserved_bytes", "buffer_bytes", "device", "driver",
    "torch", "transformers", "cudnn",
)  # fmt: skip
GROUPS = {
    "kernel": "kernel",
    "allocator_phase": "phase of the peak",
    **{key: key for key in ("family", "precision", "optimizer", "recompute")},
}
LARGEST = 80e9  # bytes: rows are what one H100 of 80 GB holds

# Nine recipes on six models and four longer steps on three: what goes wrong in one of them was
# found here first.
_RECIPES = (
    {"optimizer": "adamw"},
    {"micro_batch": 4, "optimizer": "adamw-fused"},
    {"optimizer": "sgd", "recompute": "full"},
    {"precision": "bf16", "micro_batch": 2, "optimizer": "adamw-8bit", "recompute": "full"},
    {"precision": "fp32", "micro_batch": 2, "optimizer": "sgd"},
    {"precision": "bf16-master", "sequence": 512, "micro_batch": 8, "attention": "eager"},
    {"micro_batch": 2, "optimizer": "lion", "attention": "eager", "recompute": "selective"},
    {"precision": "fp32", "optimizer": "muon", "attention": "eager"},
    {"micro_batch": 2, "accumulation": 4, "optimizer": "adafactor", "recompute": "full"},
)
_LONGER = (
    {"micro_batch": 4},
    {"micro_batch": 2, "attention": "eager", "recompute": "selective"},
    {"precision": "bf16", "micro_batch": 4, "attention": "eager", "recompute": "full"},
    {"precision": "fp32"},
)
_MODELS = ("gpt2", "pythia-410m", "qwen3-0.6b", "gemma-3-270m", "llama-3.2-1b", "gemma-2-2b")
_LONGER_MODELS = ("tinyllama-1.1b", "opt-1.3b", "smollm2-360m")
# Heads wider than FlashAttention-2 takes, latent attention, experts.
_OTHERS = (
    ("gemma-4-e2b", {"precision": "bf16", "recompute": "full"}),
    ("gemma-4-e2b", {"precision": "bf16"}),
    ("gemma-4-e2b", {"micro_batch": 2}),
    ("deepseek-v2-lite", {"sequence": 2048, "precision": "bf16", "recompute": "full"}),
    ("olmoe-1b-7b", {"sequence": 2048, "precision": "bf16"}),
)


def grid(more: int = 60, seed: int = 11) -> list[Run]:
    """The runs above, then `more` at random: other models and every setting that a run has."""
    base = {"sequence": 1024, "precision": "bf16-mixed"}
    runs = [Run(name, **{**base, **recipe}) for name in _MODELS for recipe in _RECIPES]
    base = {"sequence": 2048, "precision": "bf16-mixed", "optimizer": "sgd"}
    runs += [Run(name, **{**base, **step}) for name in _LONGER_MODELS for step in _LONGER]
    base = {"sequence": 1024, "precision": "bf16-mixed", "optimizer": "sgd"}
    runs += [Run(name, **{**base, **step}) for name, step in _OTHERS]
    draw = random.Random(seed)
    models = [m for m in map(Model, presets()) if m.parameters.total < 9e9]
    families = sorted({m.family for m in models})
    while more:
        family = families[more % len(families)]
        run = _random_run(draw, draw.choice([m for m in models if m.family == family]))
        try:
            fits = memory(run).total < LARGEST
        except (
            ValueError
        ):  # what a family does not have, as Falcon no fused kernel for one key head
            continue
        if fits:
            runs.append(run)
            more -= 1
    return runs


def _random_run(draw: random.Random, model: Model) -> Run:
    longest = min(model.max_positions or 8192, 8192)
    lengths = [n for n in (128, 384, 1000, 1536, 2048, 4096, 8192) if n <= longest]
    optimizers = ("sgd", "momentum", "adamw", "adamw-fused", "adamw-8bit", "adafactor", "muon")
    return Run(
        model,
        sequence=draw.choice(lengths),
        micro_batch=draw.choice((1, 1, 2, 3, 5, 8, 16)),
        accumulation=draw.choice((1, 1, 2)),
        precision=draw.choice(("fp32", "bf16-mixed", "bf16-mixed", "bf16-master", "bf16")),
        gradients=draw.choice(("same", "same", "fp32")),
        optimizer=draw.choice((*optimizers, "lion")),
        recompute=draw.choice(("none", "none", "selective", "full")),
        attention=draw.choice(("flash", "flash", "eager")),
        lora=draw.choice((None, None, None, None, Lora(16, base="fp32"))),
    )


# -- the measurement, on a GPU or on what stands in for one


def measure(run: Run) -> dict:
    """One row: the run's settings, the formula, and what the allocator handed out at most.

    Raises:
        torch.OutOfMemoryError: the step does not fit.
    """
    import torch  # which reading the table does not need

    before = _buffers()
    peaks, kernel = _peaks(run)
    for phase in peaks:
        peaks[phase]["requested"] -= before["requested"]
    phase = max(peaks, key=lambda name: peaks[name]["requested"])
    said = memory(run, device="cuda")
    return {
        "model": run.model.name,
        "family": run.model.family,
        **{name: getattr(run, name) for name in SETTINGS},
        "lora": run.lora.rank if run.lora else "",
        "kernel": kernel,
        "formula_bytes": said.total,
        "formula_phase": said.peak_phase,
        "allocator_bytes": peaks[phase]["requested"],
        "allocator_phase": phase,
        "allocated_bytes": max(peak["allocated"] for peak in peaks.values()),
        "reserved_bytes": max(peak["reserved"] for peak in peaks.values()),
        "buffer_bytes": before["allocated"],
        "device": torch.cuda.get_device_name(),
        "driver": NAME if "NULLCUDA_DEVICES" in os.environ else "NVIDIA",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "cudnn": torch.backends.cudnn.version(),
    }


def _buffers() -> dict[str, int]:
    """Bytes held once matrices have been multiplied forward and backward: cuBLAS's workspaces."""
    import torch

    x = torch.zeros(64, 64, device="cuda", requires_grad=True)
    (x @ x).sum().backward()
    del x
    _release()
    stats = torch.cuda.memory_stats()
    return {name: stats[f"{name}_bytes.all.current"] for name in ("requested", "allocated")}


def _release() -> None:
    import torch

    gc.collect()
    torch.cuda.empty_cache()


def _peaks(run: Run) -> tuple[dict[str, dict[str, int]], str]:
    """{phase: peaks} of a steady step, and the attention kernel that the first step took."""
    import torch

    from ..trace.step import Step

    with torch.device("cuda"):
        step = Step(run)
    with _Operators() as seen:
        step()
    _release()
    peaks: dict[str, dict[str, int]] = {}
    now = "start"

    def enter(phase):
        nonlocal now
        torch.cuda.synchronize()
        stats = torch.cuda.memory_stats()
        kept = peaks.setdefault(now, {"requested": 0, "allocated": 0, "reserved": 0})
        for name in kept:
            kept[name] = max(kept[name], stats[f"{name}_bytes.all.peak"])
        torch.cuda.reset_peak_memory_stats()
        now = phase

    _mark_backward(step.model, enter)
    torch.cuda.reset_peak_memory_stats()
    step(enter)
    enter("end")
    del peaks["start"], step
    _release()
    return peaks, _kernel(run, seen.names)


def _mark_backward(model, enter) -> None:
    """Call `enter` where the backward pass reaches the layers, and the embedding."""

    def on_gradient(tensor, phase):
        if tensor.requires_grad:
            tensor.register_hook(lambda _: enter(phase))

    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: on_gradient(args[0], "layers")
    )
    model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: on_gradient(out, "embedding")
    )


def _Operators():
    """A mode that lists the operators that torch dispatches."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Operators(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.names = set()

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            self.names.add(str(function))
            return function(*args, **(kwargs or {}))

    return Operators()


KERNELS = {"flash": "FlashAttention-2", "efficient": "memory-efficient", "cudnn": "cuDNN"}


def _kernel(run: Run, operators: set[str]) -> str:
    found = [
        name
        for word, name in KERNELS.items()
        if f"aten._scaled_dot_product_{word}_attention.default" in operators
    ]
    return " and ".join(found) or ("eager" if run.attention == "eager" else "math")


# -- the table


def record(path: Path = PATH, runs=None, report=lambda done, row: None) -> None:
    """Take a step of every run of the grid on the GPU here and write the table."""
    import torch

    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for done, run in enumerate(runs or grid(), 1):
            try:
                row = measure(run)
            except torch.OutOfMemoryError:
                row = None
            _release()
            if row is not None:
                writer.writerow(row)
                file.flush()
            report(done, row or {"model": f"{run.model.name}: out of memory"})


def load(path: Path = PATH) -> list[dict]:
    """The recorded rows, numbers as integers."""
    return tables.read(path, ("sequence", "micro_batch", "accumulation", *BYTES))


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    lora = Lora(int(row["lora"]), base="fp32") if row["lora"] else None
    return Run(row["model"], lora=lora, **{name: row[name] for name in SETTINGS})


def error(row: dict) -> float:
    """Relative error of the formula, positive where it says too much."""
    return row["formula_bytes"] / row["allocator_bytes"] - 1


def summary(**settings) -> str:
    """The table in one line; of the runs with these settings alone, as `recompute="full"`."""
    rows = [row for row in load() if all(row[name] == v for name, v in settings.items())]
    errors = [100 * abs(error(row)) for row in rows]
    return (
        f"{NAME}: {len(rows)} runs, formula off by {fmean(errors):.3f} % on average, "
        f"{max(errors):.2f} % at worst"
    )


def text(rows: list[dict] | None = None) -> str:
    """The error table as printed: all, then by kernel, phase and setting."""
    rows = load() if rows is None else rows
    errors = [abs(error(row)) for row in rows]
    sources = {(r["driver"], r["device"], r["torch"], r["transformers"], r["cudnn"]) for r in rows}
    lines = [
        f"Peak memory of a training step: formula against torch's CUDA allocator, {len(rows)} runs",
        *(
            f"{driver}: as {device}, torch {torch}, transformers {hf}, cuDNN {cudnn}"
            for driver, device, torch, hf, cudnn in sorted(sources)
        ),
        f"all: mean {fmean(errors):.4%}, median {median(errors):.4%}, worst {max(errors):.4%}",
        "",
        tables.HEADER,
        *tables.lines(rows, GROUPS, error),
    ]
    return "\n".join(lines)


__all__ = ["COLUMNS", "NAME", "PHASES", "error", "grid", "load", "measure", "record", "run_of"]
