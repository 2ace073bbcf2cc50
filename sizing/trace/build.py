"""The real transformers model of a run, with the attention and recompute that the run asks for."""

from __future__ import annotations

import sys
import warnings

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, AutoConfig
from transformers import AutoModelForCausalLM, masking_utils
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from ..run import Run

DTYPES = {
    "fp32": torch.float32,
    "bf16-mixed": torch.float32,
    "bf16-master": torch.bfloat16,
    "bf16": torch.bfloat16,
}


def model(run: Run, attention: str | None = None) -> torch.nn.Module:
    """`AutoModelForCausalLM` of the run's config in training mode, on the device mode now active.

    Args:
        run: the training run; dropout is whatever its config says.
        attention: overrides transformers' attention implementation.
    """
    config = AutoConfig.for_model(**run.model.config)
    config.use_cache = False  # as transformers' Trainer sets it
    implementation = attention or _attention(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = AutoModelForCausalLM.from_config(
            config, dtype=DTYPES[run.precision], attn_implementation=implementation
        )
        if run.recompute == "full":
            network.gradient_checkpointing_enable({"use_reentrant": False})
    return network.train()


def _attention(run: Run) -> str:
    if run.attention == "flash":
        return "fused_core"
    return "recomputed_core" if run.recompute == "selective" else "eager"


def _flash(module, query, key, value, attention_mask, **kwargs):
    """transformers' SDPA path without what a fused kernel does without: masks of dropout, softcaps.

    A fused kernel regenerates dropout from its seed, and those that cap scores do so on the fly;
    the CPU kernel would fall back to eager attention for the one, transformers refuses the other.
    """
    if kwargs.pop("softcap", None) is not None:
        attention_mask = None
    kwargs["dropout"] = 0.0
    return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)


def _eager_recomputed(module, query, key, value, attention_mask, **kwargs):
    """Selective recompute: the attention core keeps only its inputs (arXiv:2205.05198, section 5)."""
    eager = sys.modules[type(module).__module__].eager_attention_forward

    def core(query, key, value):
        return eager(module, query, key, value, attention_mask, **kwargs)

    return checkpoint(core, query, key, value, use_reentrant=False)


AttentionInterface.register("fused_core", _flash)
AttentionInterface.register("recomputed_core", _eager_recomputed)
AttentionMaskInterface.register("fused_core", masking_utils.sdpa_mask)
AttentionMaskInterface.register("recomputed_core", masking_utils.eager_mask)
