"""Experiments: the same measurements on a laptop's CPU and on any GPU, and their recordings.

``run("model-size")`` measures on the device that it finds; ``load("model-size", device="h100")``
reads a recording. With ``SIZING_RECORDED=1`` nothing is measured: `run` returns the recording of
the reference CPU, so that tests give the same result anywhere.
"""

from __future__ import annotations

import importlib

from ..measuring.recording import (
    REFERENCE,
    Recording,
    devices,
    load,
    new_file,
    own,
    recorded_only,
    recordings,
    reference,
)
from ..measuring.rooflines import roofline, roofline_of

# In the order of recording: the quick ones that others are read against come first.
_MODULES = {
    "ceilings": "ceilings",
    "model-size": "model_size",
    "recompute": "recompute",
    "batch": "batch",
    "sequence-length": "sequence_length",
    "isoflop": "isoflop",
    "optimizers": "optimizers",
    "accumulation": "accumulation",
    "memory-timeline": "memory_timeline",
    "speed-up-stack": "speed_up_stack",
    "formula-vs-device": "formula_vs_device",
    "zero": "zero",
    "one-rank-of-many": "one_rank_of_many",
    "data-parallel-scaling": "data_parallel_scaling",
    "tensor-and-pipeline": "tensor_and_pipeline",
    "frozen-weights": "frozen_weights",
    "finetune-stacks": "finetune_stacks",
    "checkpoint": "checkpointing",
    "tokens": "tokens",
}


def __getattr__(name: str):
    if name in _MODULES.values():  # they bring torch: loaded when first used
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def names() -> tuple[str, ...]:
    """Names of all experiments."""
    return tuple(_MODULES)


def experiment(name: str):
    """The `protocol.Experiment` of this name; loading it loads torch.

    Raises:
        ValueError: there is no such experiment.
    """
    if name not in _MODULES:
        raise ValueError(f"name: unknown experiment {name!r}; allowed: {', '.join(_MODULES)}")
    return importlib.import_module(f".{_MODULES[name]}", __name__).EXPERIMENT


def run(name: str, **options) -> Recording:
    """Measure an experiment on this machine and keep the rows in the learner's directory.

    Args:
        name: the experiment, one of `names()`.
        options: what the experiment's grid takes, such as ``sizes=(256, 512)``. A recording holds
            the default grid, whatever the options.

    Raises:
        ValueError: an unknown experiment or option.
    """
    chosen = experiment(name)
    if recorded_only():
        return load(name, reference(name))
    from ..measuring import turns
    from ..measuring.protocol import measure

    device = chosen.find()
    points = chosen.points(device, **options)
    given = "".join(f", {key}={value!r}" for key, value in options.items())
    command = f"sizing.experiments.run({name!r}{given})"
    with turns.turn(name):
        return measure(chosen, device, points, new_file(name, device.slug), command)


__all__ = [
    "REFERENCE",
    "Recording",
    "devices",
    "experiment",
    "load",
    "names",
    "own",
    "recordings",
    "reference",
    "roofline",
    "roofline_of",
    "run",
]
