"""What lies in the host's memory instead of the GPU's, and what it sends over the bus for that.

As DeepSpeed's ZeRO-Offload and ZeRO-Infinity (arXiv:2101.06840, arXiv:2104.07857), FSDP2's
CPUOffloadPolicy and torchtune's OffloadActivations do. Overlap and pinned staging buffers on the
GPU are a few tensors and not counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..run import Run
from .optimizer import Trained, paged_bytes


@dataclass(frozen=True)
class Host:
    """Bytes of model state on the host: the whole model's, divided by nothing.

    Attributes:
        parameters: working weights, or the host's copy of them where the GPU has them too.
        gradients: as the host's optimizer reads them.
        optimizer: its state, master weights included; paged state.
    """

    parameters: int = 0
    gradients: int = 0
    optimizer: int = 0


@dataclass(frozen=True)
class Beside:
    """What a step has beside the GPU's memory: `host`, the model state there; `saved`, bytes that
    the layers hand over, as a polynomial; `weights`, bytes of the weights that a step uses."""

    host: Host
    saved: tuple
    weights: int


def leaves_at_once(run: Run) -> bool:
    """Whether a gradient goes to the host as soon as it is complete.

    It must stay where micro-batches are added up on the GPU: without ZeRO-2, whose ranks reduce
    every micro-batch and add it up on the host.
    """
    if "optimizer" not in run.offload:
        return False
    return run.accumulation == 1 or run.zero >= 2


def kept_gradients(run: Run) -> int:
    """1 where complete gradients stay on the GPU until the update, 0 where they leave or are used
    up at once."""
    return 0 if run.optimizer_in_backward or leaves_at_once(run) else 1


def traffic(run: Run, beside: Beside, share: float, saved: float) -> tuple[int, int]:
    """(bytes on the host, bytes over its bus in a step) of one GPU.

    Gradients go out, updated weights come back, once a step, or gradients with every micro-batch
    that is reduced (ZeRO-2 and 3); offloaded weights come in for forward and for backward;
    activations go out and come back. Paged state moves where the GPU is full, and is not counted.

    Args:
        run: the training run.
        beside: the whole model's.
        share: of the model that the GPU's stage and tensor-parallel rank hold.
        saved: bytes that its layers hand over in one micro-batch.
    """
    host, weights = beside.host, beside.weights
    ranks, micro = run.shards, run.accumulation
    optimizer = share / (ranks if run.zero >= 1 else 1)
    gradients = share / (ranks if run.zero >= 2 else 1)
    parameters = share / (ranks if run.zero >= 3 else 1)
    own = parameters if "parameters" in run.offload else optimizer  # the optimizer's copy
    held = host.parameters * own + host.gradients * gradients + host.optimizer * optimizer
    sent = host.gradients * (micro if run.zero >= 2 else 1)
    if in_fp32(run):
        sent = 2 * host.gradients
        held += host.gradients * (gradients + optimizer)  # twice as wide, and 16-bit weights
        if run.zero == 2 and micro > 1:  # 16-bit sums, which the GPU fetches to add to them
            held += host.gradients * gradients
            sent += host.gradients * (2 * micro - 1)
    moved = 0.0
    if "optimizer" in run.offload:
        moved += sent * gradients
        moved += 0 if "parameters" in run.offload else weights * optimizer
    if "parameters" in run.offload:
        moved += 2 * micro * weights * parameters
    return round(held + saved), round(moved + 2 * micro * saved)


def in_fp32(run: Run) -> bool:
    """Whether gradients are cast before they leave: DeepSpeed's stages 1 and 2 keep fp32 gradients
    beside the master weights on the host, and a 16-bit buffer for the weights that come of them:
    18 bytes a parameter (deepspeed 0.19, runtime/zero/stage_1_and_2.py)."""
    ours = run.engine == "deepspeed" and run.zero in (1, 2)
    return ours and run.recipe.master and "optimizer" in run.offload


def updates_copy(optimizer: str) -> int:
    """Copies of one gradient that an update inside the backward pass allocates."""
    return {"adamw": 1, "adafactor": 1, "lion": 1, "adam-mini": 2}.get(optimizer, 0)


def host_bytes(
    offload: tuple[str, ...],
    optimizer: str,
    trained: list[Trained],
    state: dict[str, int],
    master: bool,
) -> Host:
    """What the offloaded state takes on the host: the optimizer there has gradients and weights of
    its own to read, master weights where it keeps some."""
    parameters = gradients = kept = 0
    if "optimizer" in offload:
        kept, gradients = state["optimizer"], state["gradients"]
        parameters = 0 if master else sum(t.total * t.width for t in trained)
    if "parameters" in offload:
        parameters = state["parameters"]
    return Host(parameters, gradients, kept + paged_bytes(optimizer, trained))
