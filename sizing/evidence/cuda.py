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
import time
from importlib.metadata import version
from math import inf
from pathlib import Path
from statistics import fmean, median

from ..footprint.step import PHASES, memory
from ..run import Run
from ..units import DATA
from . import tables
from .cuda_runs import FIELDS, run_of, settings

NAME = "allocator rehearsal, no GPU"
PATH = DATA / "cuda_error.csv"
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


def grid() -> list[Run]:
    """The runs of the committed table, each once.

    The first 66 are recipes that were chosen, on nine models, and five are models with wide heads,
    latent attention or experts; `cuda_runs.draw` chose the others, or they are a family's first.
    """
    return list(dict.fromkeys(run_of(row) for row in load()))


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


def record(
    path: Path = PATH, runs=None, report=lambda done, row: None, minutes: float | None = None
) -> None:
    """Take a step of every run of the grid on the GPU here and write the table.

    Rows that are in the file already stay, and those of this device and torch are not taken again:
    a table that was cut off, after some `minutes` for one, goes on where it was.
    """
    import torch

    end = time.monotonic() + 60 * (minutes or inf)
    rows = {_key(row): row for row in load(path)} if path.exists() else {}
    here = versions()
    for done, run in enumerate(runs or grid(), 1):
        key = _key(settings(run) | here)
        if key in rows:
            continue
        if time.monotonic() > end:
            break
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
