"""formula-vs-device: the predicted peak of a step against the measured one, the course's error bar.

Real models, one setting changed at a time. No time is measured, so the steps are few.
"""

from __future__ import annotations

from dataclasses import replace

from ..footprint.step import memory
from ..measuring.allocations import peak, resident
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import BYTES_MODEL, as_run, default_precision, describe, named, real_step
from ..run import Run

SETTINGS = (
    {},
    {"micro_batch": 2},
    {"attention": "eager"},
    {"attention": "eager", "recompute": "selective"},
    {"recompute": "full"},
    {"accumulation": 2},
    {"optimizer": "adamw"},
    {"optimizer": "sgd"},
    {"optimizer": "adafactor"},
    {"precision": "fp32"},
    {"precision": "bf16-mixed"},
    {"precision": "bf16-master"},
    {"precision": "bf16"},
    {"precision": "bf16", "gradients": "fp32"},
)
CPU_MODELS = (BYTES_MODEL.name, "pythia-14m")
GPU_MODELS = ("gpt2", "pythia-410m", "qwen3-0.6b", "gemma-3-270m", "llama-3.2-1b", "olmo-2-1b")


def grid(
    device: Device,
    models: tuple[str, ...] | None = None,
    sequence: int | None = None,
    settings: tuple[dict, ...] = SETTINGS,
) -> list[Row]:
    """Every setting of every model.

    Args:
        models: names of presets; by default six families up to 1.5 B parameters on a GPU, two
            small models on a CPU.
        sequence: tokens in a sequence; by default 1024 on a GPU, 512 on a CPU.
        settings: fields of `Run` that differ from a step on one sequence with flash attention and
            fused AdamW, whose own peak is too low to hide the rest.
    """
    base = {
        "sequence": sequence or (1024 if device.cuda else 512),
        "precision": default_precision(device),
        "optimizer": "adamw-fused",
    }
    points = [
        describe(run := Run(named(name), **(base | setting))) | {"gradients": run.gradients}
        for name in models or (GPU_MODELS if device.cuda else CPU_MODELS)
        for setting in settings
    ]
    return [point for i, point in enumerate(points) if point not in points[:i]]


def measure(point: Row, device: Device) -> Row:
    """Both peaks in bytes, the phase that the formula names, and predicted over measured."""
    run = replace(as_run(point), gradients=point["gradients"])
    predicted = memory(run, device=device.kind)
    step = real_step(run, device)
    step()
    measured = peak(step, device, resident(step))
    return {
        "predicted_bytes": predicted.total,
        "predicted_phase": predicted.peak_phase,
        **measured,
        "ratio": predicted.total / _asked_for(measured),
    }


def _asked_for(measured: Row) -> int:
    """The measured peak without what the formula leaves to `Memory.on`: rounding, workspaces."""
    if measured["requested_bytes"] is None:
        return measured["peak_bytes"]
    return measured["requested_bytes"] - measured["library_bytes"]


EXPERIMENT = Experiment("formula-vs-device", grid, measure)
