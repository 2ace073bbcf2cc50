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
from dataclasses import fields
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
OPTIMIZERS = ("sgd", "momentum", "adamw", "adamw-fused", "adamw-8bit", "adafactor", "muon", "lion")
LARGEST = 80e9  # bytes: rows are what one H100 of 80 GB holds


def grid() -> list[Run]:
    """The runs of the committed table, each once.

    The first 66 are recipes that were chosen, on nine models, and five are models with wide heads,
    latent attention or experts; `draw` chose the others.
    """
    return list(dict.fromkeys(run_of(row) for row in load()))


def draw(count: int, seed: int) -> list[Run]:
    """Runs at random that one GPU holds: every family in turn, and every setting that a run has.

    Lengths are not multiples of 64, except some. The same seed gives the same runs as long as there
    are no new presets.
    """
    chance, runs, tried = random.Random(seed), [], 0
    models = [m for m in map(Model, presets()) if m.parameters.total < 2.6e10]
    families = sorted({m.family for m in models})
    chance.shuffle(families)
    while len(runs) < count:
        family, tried = families[tried % len(families)], tried + 1
        model = chance.choice([m for m in models if m.family == family])
        try:
            run = _random_run(chance, model)
            fits = memory(run).total < LARGEST
        except (
            ValueError
        ):  # what a family does not have, as Falcon no fused kernel for one key head
            continue
        if fits:
            runs.append(run)
    return runs


def _random_run(chance: random.Random, model: Model) -> Run:
    longest = min(model.max_positions or 8192, 8192)
    lengths = (77, 200, 500, 777, 1000, 1023, 1025, 1536, 2047, 2048, 3001, 4096, 6000, 8192)
    adapters = (
        Lora(8),
        Lora(16, base="fp32"),
        Lora(32, targets=("q_proj", "v_proj")),
        Lora(16, dropout=0.1),
        Lora(8, dtype="bf16"),
    )
    chosen = {
        "micro_batch": (1, 1, 2, 3, 5, 8, 16),
        "accumulation": (1, 1, 2, 3),
        "precision": ("fp32", *["bf16-mixed"] * 2, "bf16-master", "bf16", "fp16-mixed", "fp16"),
        "gradients": ("same", "same", "fp32"),
        "optimizer": OPTIMIZERS,
        "recompute": ("none", "none", "selective", "full"),
        "attention": ("flash", "flash", "eager"),
        "lora": (*[None] * 2 * len(adapters), *adapters),
    }
    return Run(
        model,
        sequence=chance.choice([n for n in lengths if n <= longest]),
        **{name: chance.choice(values) for name, values in chosen.items()},
    )


def _described(lora: Lora | None) -> str:
    """Adapters as a cell: "16 base=fp32 targets=q_proj+v_proj", what is default left out."""
    if lora is None:
        return ""
    changed = [
        f"{field.name}={'+'.join(value) if isinstance(value, tuple) else value}"
        for field in fields(Lora)
        if field.name != "rank" and (value := getattr(lora, field.name)) != field.default
    ]
    return " ".join([str(lora.rank), *changed])


def _lora(cell: str) -> Lora | None:
    if not cell:
        return None
    rank, *changed = cell.split()
    given = dict(pair.split("=") for pair in changed)
    for name in ("targets", "embeddings"):
        if name in given:
            given[name] = tuple(given[name].split("+"))
    if "dropout" in given:
        given["dropout"] = float(given["dropout"])
    return Lora(int(rank), **given)


# -- the measurement, on a GPU or on what stands in for one


def measure(run: Run) -> dict:
    """One row: the run's settings, the formula, and what the allocator handed out at most.

    Raises:
        torch.OutOfMemoryError: the step does not fit.
    """

    before = _buffers()
    peaks, kernel = _peaks(run)
    for phase in peaks:
        peaks[phase]["requested"] -= before["requested"]
    phase = max(peaks, key=lambda name: peaks[name]["requested"])
    said = memory(run, device="cuda")
    return {
        **settings(run),
        "family": run.model.family,
        "kernel": kernel,
        "formula_bytes": said.total,
        "formula_phase": said.peak_phase,
        "allocator_bytes": peaks[phase]["requested"],
        "allocator_phase": phase,
        "allocated_bytes": max(peak["allocated"] for peak in peaks.values()),
        "reserved_bytes": max(peak["reserved"] for peak in peaks.values()),
        "buffer_bytes": before["allocated"],
        **versions(),
    }


def settings(run: Run) -> dict:
    """A run as cells; `run_of` reads them."""
    shape = {name: getattr(run, name) for name in SETTINGS}
    return {"model": run.model.name, **shape, "lora": _described(run.lora)}


def versions() -> dict:
    """What stands under torch here, and the versions on it."""
    import torch

    return {
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
    release()
    stats = torch.cuda.memory_stats()
    return {name: stats[f"{name}_bytes.all.current"] for name in ("requested", "allocated")}


def release() -> None:
    """Give unused memory back to the driver."""
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
    release()
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
    release()
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
    """Take a step of every run of the grid on the GPU here and write the table.

    Rows that are in the file already stay, and those of this device and torch are not taken again:
    a table that was cut off goes on where it was.
    """
    import torch

    rows = {_key(row): row for row in load(path)} if path.exists() else {}
    here = versions()
    for done, run in enumerate(runs or grid(), 1):
        key = _key(settings(run) | here)
        if key in rows:
            continue
        try:
            rows[key] = measure(run)
        except torch.OutOfMemoryError:
            report(done, {"model": f"{run.model.name}: out of memory"})
        else:
            _write(path, rows.values())
            report(done, rows[key])
        release()


def _write(path: Path, rows) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def merge(rows: list[dict], path: Path = PATH) -> None:
    """Put rows into the committed table, all with today's formula; what of it has the same run and
    torch is replaced."""
    together = {_key(row): row for row in (*load(path), *rows)}
    for row in together.values():
        said = memory(run_of(row))
        row |= {"formula_bytes": said.total, "formula_phase": said.peak_phase}
    _write(path, together.values())


def differences(rows: list[dict], others: list[dict]) -> list[str]:
    """Where two tables have the same run and torch, and not the same bytes."""
    known = {_key(row): row["allocator_bytes"] for row in others}
    return [
        f"{row['model']}: {row['allocator_bytes']} bytes, not {known[_key(row)]}"
        for row in rows
        if known.get(_key(row), row["allocator_bytes"]) != row["allocator_bytes"]
    ]


def _key(row: dict) -> tuple:
    return run_of(row), *(row[name] for name in ("torch", "driver", "device"))


def load(path: Path = PATH) -> list[dict]:
    """The recorded rows, numbers as integers."""
    return tables.read(path, ("sequence", "micro_batch", "accumulation", *BYTES))


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    return Run(row["model"], lora=_lora(row["lora"]), **{name: row[name] for name in SETTINGS})


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
