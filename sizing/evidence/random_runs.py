"""Runs drawn at random over all fields, each held against a step of the real model.

    python -m sizing.evidence.random_runs --seed 1 --runs 150

A run of one GPU is held against its trace (with peft's and bitsandbytes' own layers where they are
installed), one under ZeRO-3 against FSDP2 in a fake world. What no engine runs together must be
refused in words; what has no real step here (compiled and Liger's kernels, fused losses, fp8,
optimizers that torch does not have) is counted apart. The exit code says whether one missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from ..architecture.model import Model
from ..choices import CHOICES
from ..compute import flops
from ..footprint.step import memory
from ..lora import Lora
from ..run import Run
from ..settings import OFFLOADS, Dpo, layer_modules

WITHIN = 0.01  # of the peak
# FSDP2's tracker is a dispatch mode, under which autograd adds gradients out of place: a hidden
# state more, which shows in models as small as these.
WITHIN_FSDP2 = 0.02
_LLAMA = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
_TIED = {**_LLAMA, "tie_word_embeddings": True}
MODELS = {
    "llama": _LLAMA,
    "wide llama": {**_LLAMA, "vocab_size": 5000, "hidden_size": 256, "head_dim": 64},
    "deep llama": {**_LLAMA, "vocab_size": 8000, "hidden_size": 256, "num_hidden_layers": 12},
    "tied llama": {**_TIED, "vocab_size": 8000},
    "qwen2": {**_LLAMA, "model_type": "qwen2", "num_hidden_layers": 5},
    "qwen3": {**_TIED, "model_type": "qwen3"},
    "mistral": {**_LLAMA, "model_type": "mistral"},
    "phi3": {**_LLAMA, "model_type": "phi3"},
    "gemma": {**_TIED, "model_type": "gemma"},
    "gemma2": {**_TIED, "model_type": "gemma2"},
    "gemma3": {**_TIED, "model_type": "gemma3_text", "num_hidden_layers": 6},
    "olmo2": {**_LLAMA, "model_type": "olmo2"},
    "gpt2": {"model_type": "gpt2", "vocab_size": 1000, "n_embd": 128, "n_layer": 4, "n_head": 4},
    "gpt_neox": {
        "model_type": "gpt_neox",
        "vocab_size": 1000,
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
    },
    "mixtral": {**_LLAMA, "model_type": "mixtral", "num_local_experts": 4},
    "qwen3_moe": {
        **_LLAMA,
        "model_type": "qwen3_moe",
        "num_experts": 8,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 96,
    },
}
_OBJECTIVES = ("dpo", "distillation", Dpo("precomputed"), Dpo("model"))
# What is said of a refusal: the field, the value, and what is allowed or needed.
REFUSAL = re.compile(r"[\w ]+: .+ given[^;]*; (.*\b)?(allowed|needed)", re.DOTALL)


@dataclass(frozen=True)
class Outcome:
    """What became of a drawn run: `kind` is "held", "missed", "refused" or "no step here"."""

    kind: str
    words: str = ""
    error: float = 0.0


def draw(chance: random.Random) -> dict:
    """Settings of a run: some fields are left as they are, the others take any of their values."""
    name = chance.choice(sorted(MODELS)) if chance.random() < 0.7 else "llama"
    model = Model(MODELS[name], name=name)

    def some(values, most: int) -> tuple:
        return tuple(chance.sample(sorted(values), chance.randint(1, most)))

    drawn = {
        "model": model,
        "sequence": chance.choice((32, 64, 96, 128, 200, 256, 333)),
        "micro_batch": chance.choice((1, 1, 2, 3, 4)),
        "precision": chance.choice(CHOICES["precision"][: None if chance.random() < 0.2 else -1]),
        "optimizer": chance.choice(CHOICES["optimizer"][: None if chance.random() < 0.2 else 8]),
    }
    modules = [name for name in layer_modules(model) if name != "layer_scalar"]
    others = {
        "accumulation": (0.3, lambda: chance.choice((1, 2, 4))),
        "gradients": (0.3, lambda: chance.choice(CHOICES["gradients"])),
        "recompute": (
            0.7,
            lambda: chance.choice((*CHOICES["recompute"], "every-2", "every-3", some(modules, 2))),
        ),
        "attention": (0.4, lambda: chance.choice(CHOICES["attention"])),
        "lora": (0.5, lambda: _lora(chance, model, some)),
        "kernels": (0.1, lambda: chance.choice(CHOICES["kernels"])),
        "loss": (0.1, lambda: chance.choice(CHOICES["loss"])),
        "outputs": (0.25, lambda: chance.choice(CHOICES["outputs"])),
        "offload": (0.15, lambda: some(OFFLOADS, 2)),
        "optimizer_in_backward": (0.15, lambda: True),
        "objective": (0.2, lambda: chance.choice(_OBJECTIVES)),
    }
    drawn |= {field: value() for field, (share, value) in others.items() if chance.random() < share}
    if "lora" in drawn and chance.random() < 0.4:
        drawn["quantization"] = chance.choice(CHOICES["quantization"][1:])
    if chance.random() < 0.25:  # FSDP2 takes one of two optimizers here
        drawn |= {"data": chance.choice((2, 8, 64)), "zero": 3, "optimizer": "adamw-fused"}
        drawn |= {"model": Model(MODELS["deep llama"], name="deep llama"), "accumulation": 1}
        drawn["reduce"] = chance.choice(CHOICES["reduce"])
    return drawn


def _lora(chance: random.Random, model: Model, some) -> Lora:
    from ..lora import linear_layers

    ends = {name.rpartition(".")[2] for name in linear_layers(model)}
    tables = ((), ("embed_tokens",), ("lm_head",), ("embed_tokens", "lm_head"))
    return Lora(
        chance.choice((1, 4, 8, 16, 64)),
        some(ends, min(4, len(ends))) if chance.random() < 0.5 else "all-linear",
        dtype=chance.choice(("fp32", "fp32", "bf16")),
        dropout=chance.choice((0.0, 0.0, 0.1)),
        embeddings=chance.choice(tables) if chance.random() < 0.3 else (),
        base=chance.choice(("bf16", "bf16", "fp32")),
    )


def outcome(settings: dict, device: str = "cuda") -> Outcome:
    """The formula of drawn settings against a real step."""
    try:
        run = Run(**settings)
        said = memory(run, device="cpu" if run.data > 1 else device)
        flops(run)
    except ValueError as error:
        return Outcome("refused" if REFUSAL.match(str(error)) else "missed", str(error))
    try:
        real = _real(run, device)
    except ValueError as error:
        return Outcome("no step here", str(error))
    except Exception as error:  # a library's own, of settings that it does not run
        return Outcome("no step here", f"{type(error).__name__}: {error}")
    off = said.total / real - 1
    within = WITHIN_FSDP2 if run.data > 1 else WITHIN
    return Outcome("held" if abs(off) <= within else "missed", said.peak_phase, off)


def _real(run: Run, device: str) -> int:
    """Bytes at the peak of a real step.

    Raises:
        ValueError: none is taken here.
    """
    from .. import trace  # brings torch
    from ..trace.fsdp import peak

    if run.data > 1:
        return peak(run)
    # peft adapts stacked experts and routers by name as well, see `Lora.targets`
    libraries = all(map(importlib.util.find_spec, ("peft", "bitsandbytes")))
    libraries = libraries and not run.model.parameters.router
    return trace.memory(run, device=device, library=run.lora is not None and libraries).total


def outcomes(seed: int, runs: int) -> Iterator[tuple[dict, str, Outcome]]:
    """(settings, device, outcome) of so many runs; each depends on the seed and its number."""
    for number in range(runs):
        chance = random.Random(f"{seed} {number}")
        settings, device = draw(chance), chance.choice(("cuda", "cuda", "cpu"))
        yield settings, device, outcome(settings, device)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sizing.evidence.random_runs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--runs", type=int, default=150)
    parser.add_argument("--words", action="store_true", help="print what was refused, how often")
    options = parser.parse_args(arguments)
    kinds, words, errors = Counter(), Counter(), []
    for number, (settings, device, found) in enumerate(outcomes(options.seed, options.runs)):
        kinds[found.kind] += 1
        if found.kind in ("held", "missed"):
            errors.append(abs(found.error))
        if found.kind == "missed":
            shown = {**settings, "model": settings["model"].name}
            print(f"{number} {found.error:+.2%} {device} {found.words} {shown}", flush=True)
        elif found.kind != "held":
            words[re.sub(r"\d+", "N", found.words)] += 1
    if options.words:
        for line, count in words.most_common():
            print(count, line)
    worst = f"; worst {max(errors):.2%}" if errors else ""
    print(f"{options.runs} runs: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) + worst)
    return 1 if kinds["missed"] else 0


if __name__ == "__main__":
    sys.exit(main())
