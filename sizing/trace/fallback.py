"""Models without a formula: parameters counted on the real model, FLOPs and memory traced.

`model(config)` builds any causal language model of transformers on the meta device, where tensors
have shapes and no data. What it returns goes into a `Run`, and `sizing.trace.flops(run)` and
`sizing.trace.memory(run)` take that; the formulas refuse it, and say so.
"""

from __future__ import annotations

import hashlib
import json
import warnings

import torch
from torch import nn
from transformers import AutoModelForCausalLM

from ..architecture.model import Model, Parameters
from ..architecture.reading import Text, read
from ..architecture.traits import Traits
from ..architecture.weights import Weight
from . import build
from .patience import waiting
from .routes import LOOPS

# Types of which no step of text alone can be traced, and why.
DATA_DEPENDENT = {
    "blt": "it cuts bytes into patches by their values, and tensors without data have none",
    "git": "its loss counts from behind a picture, and a batch of text has none",
}
# What a step of text alone takes for granted, or leaves out.
_SAID = {
    "phi4_multimodal": "a step of text alone: what sees and hears is held, and not trained",
    "xmod": "every sequence is in the config's default_language",
}
# Written as a loop over tokens: minutes to trace at a training length.
TOKEN_LOOPS = ("falcon_mamba", "jamba", "mamba", "rwkv")
# Scans and linear attention, for which people train with kernels that transformers has not.
SCANS = (
    "bamba",
    "falcon_h1",
    "granitemoehybrid",
    "kimi_linear",
    "lfm2",
    "lfm2_moe",
    "mamba2",
    "nemotron_h",
    "olmo_hybrid",
    "qwen3_5_text",
    "qwen3_5_moe_text",
    "qwen3_next",
    "recurrent_gemma",
    "xlstm",
    "zamba",
    "zamba2",
    *TOKEN_LOOPS,
)
_CHOSEN = ("num_experts_per_tok", "moe_k", "moe_topk", "num_experts_per_token", "top_k_experts")
_NAMES = {
    "vocab": ("vocab_size",),
    "hidden": ("hidden_size", "n_embd", "d_model", "dim"),
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "heads": ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    "kv_heads": ("num_key_value_heads",),
    "head_dim": ("head_dim",),
    "ffn": ("intermediate_size", "ffn_dim", "n_inner"),
}
_DONE: dict[str, TracedModel] = {}


class TracedModel(Model):
    """A model whose numbers come from building and tracing it, not from a formula.

    It has `name`, `family`, `config`, `vocab`, `hidden`, `layers`, `parameters` and `weights` as a
    `Model` has them; sizes that its config does not name are None. `limits` says what its numbers
    do not tell. `blocks` and `outer`, which the formulas read, raise ValueError.
    """

    traced = True

    def __init__(self, text: Text, name: str | None = None):
        self.config, self.family = text.config, text.config["model_type"]
        self.name = name or text.name or self.family
        self.notes, self.assumed, self.head = text.notes, {}, "language model"
        self.traits, self.max_positions, self._text = Traits(), None, text
        self._key = json.dumps(self.config, sort_keys=True, default=str)
        self._hash = hash(self._key)
        full = build.config_of(self)
        for attribute, names in _NAMES.items():
            values = (_stated(full, field) for field in names)
            setattr(self, attribute, next((v for v in values if v is not None), None))
        self._chosen = next((_stated(full, f) for f in _CHOSEN if _stated(full, f)), None)
        network = _on_meta(self, full)
        self.parameters, self.weights, self.tied = self._count(network)
        if self.vocab is None:
            self.vocab = network.get_output_embeddings().weight.shape[0]

    def _no_formula(self):
        raise ValueError(
            f"model: {self.name!r} is traced, there is no formula for {self.family!r}; allowed: "
            "sizing.trace.memory(run) and sizing.trace.flops(run) of a run on one GPU"
        )

    blocks = property(_no_formula)
    outer = property(_no_formula)

    def __repr__(self):
        return f"TracedModel({self.name!r}, {self.parameters.total:,} parameters, no formula)"

    @property
    def limits(self) -> tuple[str, ...]:
        """What to know about traced numbers of this model, one sentence each."""
        said = ["traced, no formula: one GPU, seconds a point; no sharding, time or sweeps"]
        if self.family in DATA_DEPENDENT:
            said.append(f"parameters only: {DATA_DEPENDENT[self.family]}")
        if self.family in _SAID:
            said.append(_SAID[self.family])
        if self.family in SCANS:
            said.append(
                "transformers' PyTorch code is traced; fused kernels of state-space models and "
                "linear attention need less memory and fewer FLOPs"
            )
        if self.family in TOKEN_LOOPS:
            said.append("a loop over tokens: keep the sequence below some hundred tokens")
        if self.family in LOOPS:
            said.append("its loop over experts is traced as if each were sent as many tokens")
        said.append("a sequence beyond a learned table of positions is not noticed")
        return tuple(said)

    def replace(self, **changes) -> TracedModel:
        return model({**self.config, **changes}, name=f"{self.name}*")

    # -- counting

    def _count(self, network: nn.Module) -> tuple[Parameters, tuple, bool]:
        head = network.get_output_embeddings()
        tables = {
            id(p) for m in network.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
        }
        tied = head is not None and id(head.weight) in tables
        norms = {
            id(p)
            for m in network.modules()
            if "norm" in type(m).__name__.lower()
            for p in m.parameters(recurse=False)
        }
        heads = {id(p) for p in head.parameters()} - tables if head is not None else set()
        parts = dict.fromkeys(("embedding", "attention", "mlp", "norm", "head", "router"), 0)
        idle, weights = 0, []
        for name, parameter in network.named_parameters():
            known = {"embedding": tables, "head": heads, "norm": norms}
            part = next((p for p, ids in known.items() if id(parameter) in ids), _part(name))
            parts[part] += parameter.numel()
            chosen = self._chosen if _is_stack(name, parameter) else None
            kind = "matrix" if parameter.ndim > 1 else "vector"
            weight = Weight(name, tuple(parameter.shape), part, kind, chosen=chosen)
            idle += weight.elements - weight.active
            weights.append((weight, 1))
        return Parameters(**parts, active=sum(parts.values()) - idle), tuple(weights), tied


def _stated(config, field: str):
    """A field of transformers' config; None where it has none or one for each layer."""
    try:
        return getattr(config, field, None)
    except Exception:
        return None


def _part(name: str) -> str:
    """By the words in a tensor's name; whatever mixes tokens counts as attention."""
    words = name.lower()
    if ".router." in words or words.endswith((".gate.weight", ".gate.bias", ".wg.weight")):
        return "router"
    if "project_in" in words or "project_out" in words:  # OPT's, around a narrow table
        return "embedding" if "project_in" in words else "head"
    if any(w in words for w in ("norm", "ln_")):
        return "norm"
    mixers = ("attn", "attention", "mixer", "mamba", "ssm", "conv", "rglru", "temporal", "mlstm")
    mlp = ("mlp", "ffn", "feed_forward", "expert", "moe", "fc1", "fc2", "channel")
    if any(w in words for w in mlp):
        return "mlp"
    return "attention" if any(w in words for w in mixers) else "mlp"


def _is_stack(name: str, parameter) -> bool:
    """Whether a tensor stacks one matrix for each routed expert."""
    return parameter.ndim == 3 and "expert" in name and "shared" not in name


def model(config, name: str | None = None) -> TracedModel:
    """Any causal language model of transformers, from its config alone.

    Parameters (by part) are those of the real model built on the meta device: a second or two.
    `sizing.trace.flops(Run(model, ...))` and `sizing.trace.memory(Run(model, ...))` then trace a
    step: seconds for a small model, a minute for a mixture of 350 B. The same config is built
    once. A bar is shown when it takes longer than two seconds.

    Args:
        config: whatever `sizing.Model` takes.
        name: what to call it.

    Raises:
        ValueError: no config, or one that transformers cannot build; says why.
    """
    text = read(config, any_family=True)
    digest = hashlib.sha256(json.dumps(text.config, sort_keys=True, default=str).encode())
    key = f"{digest.hexdigest()} {name or text.name}"
    if key not in _DONE:
        with waiting(f"building {text.config['model_type']}"):
            _DONE[key] = TracedModel(text, name)
    return _DONE[key]


def may_run(run) -> None:
    """A ValueError where a step of the model cannot be traced."""
    if run.model.family in DATA_DEPENDENT:
        raise ValueError(
            f"model: a step of {run.model.family!r} cannot be traced: "
            f"{DATA_DEPENDENT[run.model.family]}; allowed: its parameters"
        )


def _on_meta(model: Model, config) -> nn.Module:
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise ValueError(
            f"model_type: transformers has no causal language model for {model.family!r}; "
            "allowed: the types of AutoModelForCausalLM"
        )
    with warnings.catch_warnings(), torch.device("meta"):
        warnings.simplefilter("ignore")
        return build._built(model, config)
