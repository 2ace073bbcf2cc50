"""Seconds that state on the host costs a step: what crosses its bus, and an update on its CPU.

As DeepSpeed's ZeRO-Offload and ZeRO-Infinity (arXiv:2101.06840, section 4; arXiv:2104.07857,
section 6): gradients leave beside the backward pass, weights come in beside the pass that wants
them, updated weights go back tile by tile beside the update. The same bytes as `memory(run).bus`.
"""

from __future__ import annotations

from ..parallel import Stage, gradient_bytes, tokens
from ..run import Run
from .layer import Pass
from .rates import by_card, constants

BUS_RATE = constants()["bus_rate"]
HOST_RATE = constants()["host_rate"]


def check_offload(run: Run) -> None:
    """Whether the seconds of what a run offloads can be told.

    Raises:
        ValueError: activations of layers that are not recomputed as a whole.
    """
    if "activations" in run.offload and run.recompute != "full":
        raise ValueError(
            f"offload: 'activations' given with recompute={run.recompute!r}; allowed: recompute="
            "'full', because what else a layer keeps is known to sizing.memory alone"
        )


def exposed(run: Run, card: str, stage: Stage, held: float, one: Pass) -> float:
    """Seconds of a step in which the GPU waits for the bus, both directions of which work at once.

    Args:
        run: the training run.
        card: its accelerator.
        stage: the layers of the GPU.
        held: parameters on it before ZeRO.
        one: seconds of a layer.
    """
    bus = by_card("bus", card) * BUS_RATE
    forward, backward = stage.layers * one.forward, stage.layers * one.backward
    micro, seconds = run.accumulation, 0.0
    own = held / (run.shards if run.zero else 1)
    if "optimizer" in run.offload and run.lora is None:
        sent = own * gradient_bytes(run) / bus
        if run.zero >= 2:
            seconds += micro * max(0.0, sent - backward)
        else:  # micro-batches are added up on the GPU: what is complete leaves in the last one
            seconds += max(0.0, sent - backward) if micro == 1 else sent
    ahead = back = 0.0
    if "parameters" in run.offload:
        ahead = back = own * run.recipe.weight_bytes / bus
    if "activations" in run.offload:
        rows = tokens(run) / (run.tensor if run.sequence_parallel else 1)
        kept = rows * run.model.hidden * run.recipe.activation_bytes * stage.layers
        back += kept / bus
        seconds += micro * max(0.0, kept / bus - forward)
    return seconds + micro * (max(0.0, ahead - forward) + max(0.0, back - backward))


def update_on_host(run: Run, card: str, moved: float, back: float) -> float:
    """Seconds of an update that reads and writes `moved` bytes of the host's memory for this GPU,
    beside which `back` bytes of weights return."""
    sharing = min(run.gpus, by_card("host_gpus", card))
    updating = moved * sharing / (by_card("host_memory", card) * HOST_RATE)
    return max(updating, back / (by_card("bus", card) * BUS_RATE))
