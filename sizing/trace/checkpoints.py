"""torch's own activation checkpointing on a transformers model, as a run asks for it."""

from __future__ import annotations

from functools import partial

import torch
from torch import nn
from torch.utils.checkpoint import (
    CheckpointPolicy,
    checkpoint,
    create_selective_checkpoint_contexts,
)
from transformers.modeling_layers import GradientCheckpointingLayer

from ..recomputing import every_layer
from ..run import Run

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default)
# What a trace for CUDA allocates in place of a fused kernel, see `sizing.trace.cuda`.
_STAND_IN = (_aten.empty_like.default, _aten.new_empty.default)


def enable(network: nn.Module, run: Run) -> None:
    """Checkpoint what the run recomputes, without re-entering autograd."""
    if run.recompute == "selective":
        if run.attention == "eager" or not run.model.traits.fused_attention:
            return  # the attention core: see `build`
        contexts = partial(create_selective_checkpoint_contexts, _policy)
        network.gradient_checkpointing_enable(
            {"use_reentrant": False, "context_fn": lambda: contexts_of(contexts)}
        )
        return
    every = every_layer(run.recompute)
    if every or not isinstance(run.recompute, str):
        network.gradient_checkpointing_enable({"use_reentrant": False})
    layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
    for number, layer in enumerate(layers, 1):
        if not isinstance(run.recompute, str):
            layer.gradient_checkpointing = False
            for name in run.recompute:
                module = layer.get_submodule(name)
                module.forward = _checkpointed(module.forward)
        elif every and number % every:
            layer.gradient_checkpointing = False


def contexts_of(make):
    """A policy counts the products of one pass through one layer: it is new for each."""
    counts = {"forward": 0, "recompute": 0}
    return make.func(partial(make.args[0], counts))


def _policy(counts: dict[str, int], ctx, operator, *args, **kwargs) -> CheckpointPolicy:
    """torchtitan's: fused attention and every second matrix product are kept."""
    keep = "attention" in operator.name() or (operator in _STAND_IN and _traced_for_cuda())
    if operator in _PRODUCTS:
        way = "recompute" if ctx.is_recompute else "forward"
        counts[way] += 1
        keep = counts[way] % 2 == 1
    return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE


def _traced_for_cuda() -> bool:
    from . import build  # which enables what is here

    return build.on_cuda(torch.empty(0, device="meta"))


def _checkpointed(forward):
    def run(*args, **kwargs):
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
