"""Controls for the fields of a `Run`: what each offers, which of them apply, and the run they make.

Calculators that speak of a whole run take them from here, so that a field looks and behaves the
same in each. A control that does not apply beside the others is hidden, and its field keeps the
usual value.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import ipywidgets as widgets

from ..architecture.model import Model, presets
from ..choices import CHOICES, RECIPES
from ..lora import LORA_CHOICES, TABLES, Lora
from ..run import Run
from ..settings import Dpo
from .base import dropdown, powers_of_two, scale

GROUPS = {
    "Model": ("model", "objective"),
    "Batch": ("sequence", "micro_batch", "accumulation"),
    "Precision": ("precision", "gradients", "reduce", "optimizer"),
    "Memory savers": (
        *("recompute", "attention", "kernels", "loss", "outputs"),
        *("optimizer_in_backward", "offload"),
    ),
    "Adapters": ("lora", "targets", "quantization"),
    "Adapters in detail": ("dtype", "dropout", "embeddings", "base"),
    "GPUs": ("gpu", "data", "zero", "network"),
    "Split the model": (
        *("tensor", "sequence_parallel", "pipeline", "interleave", "context", "expert"),
    ),
}
FOLDED = ("Adapters in detail", "Split the model")
BATCHES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128)
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
_ADAPTERS = ("targets", "dtype", "dropout", "embeddings", "base")
_USUAL = {field.name: field.default for field in fields(Run)} | {
    field.name: field.default for field in fields(Lora) if field.name in _ADAPTERS
}

OBJECTIVES = {
    "text": "lm",
    "DPO": "dpo",
    "DPO, reference precomputed": Dpo("precomputed"),
    "distillation": "distillation",
}
RECOMPUTE = {
    "none": "none",
    "selective": "selective",
    "every second layer": "every-2",
    "the MLP alone": ("mlp",),
    "full": "full",
}
TARGETS = {
    "all linear layers": "all-linear",
    "query and value": ("q_proj", "v_proj"),
    "attention": ("k_proj", "o_proj", "q_proj", "v_proj"),
    "MLP": ("down_proj", "gate_proj", "up_proj"),
}
AWAY = {
    "nothing": (),
    "optimizer": ("optimizer",),
    "activations": ("activations",),
    "optimizer and activations": ("optimizer", "activations"),
    "parameters": ("parameters",),
    "parameters and optimizer": ("optimizer", "parameters"),
    "everything": ("optimizer", "parameters", "activations"),
}
LOSSES = {"as the kernels have it": "", **{name: name for name in CHOICES["loss"] if name}}
OUTPUTS = {"released": "released", "kept": "kept", "cast to fp32": "fp32"}
QUANTIZATION = {"none": "", **{name: name for name in CHOICES["quantization"] if name}}
LABELS = {
    "micro_batch": "micro-batch",
    "reduce": "reduced in",
    "optimizer_in_backward": "update",
    "offload": "on the host",
    "lora": "LoRA rank",
    "targets": "adapted",
    "quantization": "frozen layers",
    "dtype": "adapters in",
    "dropout": "their dropout",
    "embeddings": "trained whole",
    "base": "frozen in",
    "data": "data parallel",
    "zero": "ZeRO stage",
    "sequence_parallel": "the rest is",
    "interleave": "stages per GPU",
}


def control(name: str, value: Any = None) -> widgets.ValueWidget:
    """The control of a field, at the value or at `Run`'s own."""
    label = LABELS.get(name, name)
    usual = _USUAL.get(name) if value is None else value
    usual = "" if usual is None else usual  # a drop-down shows None as no choice at all

    def choice(options) -> widgets.Dropdown:
        pairs = list(options.items()) if isinstance(options, dict) else options
        return dropdown(label, pairs, usual)

    def number(least: int, most: int, shown=str):
        return scale(label, powers_of_two(least, most), usual, shown)

    makers = {
        "model": lambda: dropdown(label, presets(), usual),
        "objective": lambda: choice(OBJECTIVES),
        "sequence": lambda: number(128, 131072, lambda v: f"{v:,} tokens"),
        "micro_batch": lambda: scale(label, BATCHES, usual, str),
        "accumulation": lambda: number(1, 256),
        "recompute": lambda: choice(RECOMPUTE),
        "loss": lambda: choice(LOSSES),
        "outputs": lambda: choice(OUTPUTS),
        "optimizer_in_backward": lambda: choice({"after it": False, "in the backward pass": True}),
        "offload": lambda: choice(AWAY),
        "lora": lambda: scale(label, RANKS, value or 0, lambda r: str(r) if r else "0: all"),
        "targets": lambda: choice(TARGETS),
        "quantization": lambda: choice(QUANTIZATION),
        "dtype": lambda: choice(LORA_CHOICES["dtype"]),
        "dropout": lambda: choice((0.0, 0.05, 0.1)),
        "embeddings": lambda: choice({"nothing": (), "embedding and head": TABLES}),
        "base": lambda: choice(LORA_CHOICES["base"]),
        "data": lambda: number(1, 4096, lambda v: f"{v:,}"),
        "sequence_parallel": lambda: choice({"divided by tokens": True, "whole on each": False}),
    }
    if name in CHOICES and name not in makers:
        return choice(CHOICES[name])
    return makers[name]() if name in makers else number(1, 64)


def idle(settings: dict[str, Any]) -> set[str]:
    """Names of fields that change nothing, or cannot be said, beside the others."""
    now = _USUAL | {"lora": 0} | settings
    recipe, ranks = RECIPES[now["precision"]], now["data"] * now["context"]
    found = set()
    if recipe.weight_bytes == 4 or now["lora"]:
        found.add("gradients")  # fp32 in any case
    if not (now["zero"] == 3 and recipe.autocast and ranks > 1) or now["lora"]:
        found.add("reduce")
    if not now["lora"]:
        found |= {"quantization", *_ADAPTERS}
    elif not recipe.autocast or now["quantization"]:
        found.add("base")
    kernels = {"liger": "chunked"}.get(now["kernels"])
    if (now["loss"] or kernels) in ("chunked", "fused"):
        found.add("outputs")  # there are no logits
    if ranks == 1 and "parameters" not in now["offload"]:
        found.add("zero")
    if now["tensor"] == 1:
        found.add("sequence_parallel")
    if now["pipeline"] == 1:
        found.add("interleave")
    if not Model(now["model"]).parameters.router:
        found.add("expert")
    return found & set(settings)


def run_of(settings: dict[str, Any], kept: set[str] | frozenset = frozenset()) -> Run:
    """The run that the controls' values make, fields that are idle at their usual values, except
    those in `kept`.

    Raises:
        ValueError: as `Run` and `Lora`.
    """
    left_out = idle(settings) - kept
    used = {name: value for name, value in settings.items() if name not in left_out}
    for name in ("loss", "quantization"):
        used[name] = used.get(name) or None
    adapters = {name: used.pop(name) for name in _ADAPTERS if name in used}
    rank = used.pop("lora", 0)
    lora = Lora(rank, **adapters) if rank else None
    return Run(Model(used.pop("model")), lora=lora, **used)
