"""A real training step of a `Run` on this device, timed: what most experiments measure."""

from __future__ import annotations

import torch

from ..architecture.model import Model
from ..compute import flops
from ..footprint.step import memory
from ..run import Run
from ..trace.step import Step
from .allocations import peak, resident
from .device import Device
from .timing import timed

_SHAPE = (
    "sequence",
    "micro_batch",
    "accumulation",
    "precision",
    "optimizer",
    "recompute",
    "attention",
)


def _llama(name: str, vocab: int, hidden: int, layers: int) -> Model:
    """A small model of the Llama family with heads of 64 and an MLP of 2.75 times the width."""
    return Model(
        {
            "model_type": "llama",
            "vocab_size": vocab,
            "hidden_size": hidden,
            "intermediate_size": hidden * 11 // 4,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden // 64,
            "num_key_value_heads": hidden // 64,
            "tie_word_embeddings": False,
        },
        name=name,
    )


# With a vocabulary of 50 000 the loss hides all else in a model small enough for a CPU. The first
# reads bytes and three special tokens; the second is for what must be trained or repeated often;
# the third gives GPUs something to do and a pipeline's last stage little more than the others.
BYTES_MODEL = _llama("byte-llama", vocab=259, hidden=256, layers=8)
TINY_MODEL = _llama("tiny-llama", vocab=64, hidden=64, layers=2)
WIDE_MODEL = _llama("wide-byte-llama", vocab=259, hidden=2048, layers=16)
_OWN = {model.name: model for model in (BYTES_MODEL, TINY_MODEL, WIDE_MODEL)}


def named(name: str) -> Model:
    """A model by its name in a recording: one of these experiments' own, or a preset."""
    return _OWN.get(name) or Model(name)


def real_step(run: Run, device: Device) -> Step:
    """The transformers model of a run with random weights and random tokens, on the device.

    Calling it takes one optimizer step.

    Raises:
        DeviceTooSmall: a CPU has less memory free than `sizing.memory` says the step needs.
    """
    device.require(memory(run, device=device.kind).total)
    torch.manual_seed(0)
    with torch.device(device.kind):
        step = Step(run)
    step.batch.random_(run.model.vocab)
    step.micro_batches = run.accumulation
    return step


def default_precision(device: Device) -> str:
    """What one would train in here: autocast to bf16 on a GPU, fp32 on a CPU."""
    return "bf16-mixed" if device.cuda else "fp32"


def matmul_dtype(run: Run) -> str:
    """The dtype, by its name in `ceilings`, in which a run multiplies its matrices."""
    return run.recipe.products


def describe(run: Run) -> dict:
    """A run as columns of a recording; its model is one that `named` finds."""
    shape = {key: getattr(run, key) for key in _SHAPE}
    return {"model": run.model.name, "parameters": run.model.parameters.total, **shape}


def as_run(point: dict) -> Run:
    """The run that `describe` described."""
    shape = {key: value for key, value in point.items() if key in _SHAPE}
    return Run(named(point["model"]), **shape)


def measure_step(run: Run, device: Device, budget: float | None = None) -> dict:
    """Time, throughput and peak memory of a steady training step.

    Args:
        budget: seconds of timed steps, at least three; by default 2 on a CPU, 1 on a GPU.

    Returns:
        Columns: ``seconds`` (median, with spread), ``tokens_per_second``, ``flops`` (model FLOPs of
        the step, all s x s pairs counted), ``flops_per_second``, and those of `peak`.
    """
    step = real_step(run, device)
    timing = timed(step, device, budget or (1.0 if device.cuda else 2.0), most=20, shortest=0)
    work = flops(run).model
    return {
        "tokens": run.tokens,
        **timing.row,
        "tokens_per_second": run.tokens / timing.median,
        "flops": work,
        "flops_per_second": work / timing.median,
        **peak(step, device, resident(step)),
    }
