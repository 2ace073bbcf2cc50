"""The real transformers model of a run, with the attention and recompute that the run asks for."""

from __future__ import annotations

import sys
import warnings
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    AutoConfig,
    AutoModelForCausalLM,
    PreTrainedConfig,
    masking_utils,
)
from transformers import __version__ as version
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward

from ..footprint import kernels
from ..run import Run
from . import checkpoints

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def model(run: Run, attention: str | None = None) -> torch.nn.Module:
    """`AutoModelForCausalLM` of the run's config in training mode, on the device mode now active.

    Args:
        run: the training run; dropout is whatever its config says.
        attention: overrides transformers' attention implementation.
    """
    if run.model.head != "language model":
        raise ValueError(
            f"architectures: a model with head {run.model.head!r} given; allowed: a causal "
            "language model, whose loss is over the vocabulary"
        )
    config = config_of(run.model)
    config.use_cache = False  # as transformers' Trainer sets it
    implementation = attention or _attention(run)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        network = _built(
            run.model, config, dtype=DTYPES[run.recipe.weights], attn_implementation=implementation
        )
        checkpoints.enable(network, run)
    # GPT-2's class name does not say its loss: transformers would warn, and take this one.
    network.loss_type = "ForCausalLM"
    return network.train()


def config_of(model) -> PreTrainedConfig:
    """transformers' config of a model.

    Raises:
        ValueError: transformers refuses the config; names it and says why.
    """
    try:
        return AutoConfig.for_model(**_plain(model.config))
    except Exception as error:  # each config class has its own
        reason = " ".join(str(error).split())
        raise ValueError(
            f"config: transformers {version} does not take that of {model.name!r} "
            f"({type(error).__name__}: {reason[:300]}); allowed: a config that it takes"
        ) from error


# Rotary types that transformers' own code does not know; they change angles, not sizes.
_ROPE_TYPES = ("default", "linear", "dynamic", "yarn", "longrope", "su", "llama3", "proportional")


def _plain(config: dict) -> dict:
    """The config without what transformers checks though it changes no size: special tokens outside
    the vocabulary, constants that are no numbers, foreign kinds of rotary scaling. Layers that are
    left out at random (layerdrop) stay: the largest step runs them all."""
    plain = {**config, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0}
    for key in ("initializer_range", "layerdrop"):
        plain.pop(key, None)
    for key in [key for key in plain if key.endswith(("_eps", "_epsilon"))]:
        if not isinstance(plain[key], float):
            del plain[key]
    for key in ("rope_scaling", "rope_parameters"):
        rope = plain.get(key)
        if isinstance(rope, str) or (
            isinstance(rope, dict)
            and rope.get("rope_type", rope.get("type", "default")) not in _ROPE_TYPES
        ):
            del plain[key]
    return plain


def _built(model, config, **settings) -> torch.nn.Module:
    try:
        return AutoModelForCausalLM.from_config(config, **settings)
    except (KeyError, AttributeError, AssertionError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        if "fused_core" in reason or "recomputed_core" in reason:
            raise ValueError(
                f"attention: {model.family!r} has no other than transformers' own; allowed: "
                "attention='eager' and recompute 'none' or 'full'"
            ) from error
        raise ValueError(
            f"config: transformers {version} does not build {model.name!r} "
            f"({type(error).__name__}: {reason[:300]})"
        ) from error


def not_packed():
    """A context for fake tensors, on which transformers cannot see that a batch is not packed, and
    would build a mask of batch x s x s that no real run has."""
    found = "find_packed_sequence_indices"
    return patch.object(masking_utils, found, lambda *args, **kwargs: None)


def _attention(run: Run) -> str:
    if not run.model.traits.fused_attention:
        return "eager"
    if run.attention != "eager":
        return "sdpa" if run.model.family == "falcon" else "fused_core"
    return "recomputed_core" if run.recompute == "selective" else "eager"


def _flash(module, query, key, value, attention_mask, **kwargs):
    """transformers' SDPA path without what a fused kernel does without: masks of dropout, softcaps.

    A fused kernel regenerates dropout from its seed, and those that cap scores do so on the fly;
    the CPU kernel would fall back to eager attention for the one, transformers refuses the other.

    On a GPU a fused kernel is what runs: FlashAttention-2 for bf16 and fp16 without a mask,
    memory-efficient attention for fp32 and for masks. Left alone, torch takes cuDNN's kernel on a
    Hopper GPU, and for fp32 with grouped heads none: its math path writes all s x s scores down.
    There keys and values are repeated for every query head first, as for a mask.
    """
    if kwargs.pop("softcap", None) is not None:
        attention_mask = None
    kwargs["dropout"] = 0.0
    width = value.shape[-1]
    # Latent attention's values may have another width than its keys; fused kernels take one.
    query, key, value = (_widened(x, max(width, key.shape[-1])) for x in (query, key, value))
    if _without_grouping(query):
        groups = query.shape[1] // key.shape[1]
        key, value, module = repeat_kv(key, groups), repeat_kv(value, groups), _UNGROUPED
    with _fused_kernels(query):
        out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return out[..., :width], None


def _widened(x: torch.Tensor, width: int) -> torch.Tensor:
    """Heads filled up with zeros, which add nothing to a score."""
    return functional.pad(x, (0, width - x.shape[-1])) if x.shape[-1] < width else x


_UNGROUPED = SimpleNamespace(is_causal=True)  # what transformers reads of an attention module


def on_cuda(tensor: torch.Tensor) -> bool:
    """Whether the tensor's operators are CUDA's; a trace for CUDA says yes to every tensor."""
    return tensor.is_cuda


def _without_grouping(query: torch.Tensor) -> bool:
    """Whether the kernel that takes this query, memory-efficient attention, knows no groups."""
    lowered = torch.is_autocast_enabled(query.device.type)
    wide = query.shape[-1] > kernels.WIDEST
    return on_cuda(query) and (wide or (query.dtype == torch.float32 and not lowered))


def _fused_kernels(query: torch.Tensor):
    """The same kernels on every GPU; for fp64, and before Ampere for bf16, there may be none."""
    if not query.is_cuda:
        return nullcontext()
    old = torch.cuda.get_device_capability(query.device) < (8, 0)
    without = old or query.dtype == torch.float64
    return sdpa_kernel([*KERNELS, SDPBackend.MATH] if without else KERNELS)


KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]


def _eager_recomputed(module, query, key, value, attention_mask, **kwargs):
    """Selective recompute (arXiv:2205.05198, section 5): the attention core keeps its inputs."""
    eager = sys.modules[type(module).__module__].eager_attention_forward

    def core(query, key, value):
        return eager(module, query, key, value, attention_mask, **kwargs)

    return checkpoint(core, query, key, value, use_reentrant=False)


AttentionInterface.register("fused_core", _flash)
AttentionInterface.register("recomputed_core", _eager_recomputed)
AttentionMaskInterface.register("fused_core", masking_utils.sdpa_mask)
AttentionMaskInterface.register("recomputed_core", masking_utils.eager_mask)
