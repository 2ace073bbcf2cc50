"""Which runs the CUDA table takes: a run as cells of a row and back, and runs drawn at random.

A model's cell is a preset, or a family as transformers fills it in, and after it the fields that
were changed: "qwen3-30b-a3b num_hidden_layers=4" is that preset with its first four layers.
"""

from __future__ import annotations

import json
import random
from dataclasses import fields
from functools import cache

from ..architecture.families import FAMILIES
from ..architecture.fields import known
from ..architecture.model import Model, presets
from ..footprint.step import memory
from ..run import Lora, Run
from .traces import SETTINGS

# What else a run may have, in one cell: "optimizer_in_backward=true quantization=nf4".
MORE = ("optimizer_in_backward", "quantization", "objective")
FIELDS = (*SETTINGS, "lora", "more")
OPTIMIZERS = ("sgd", "momentum", "adamw", "adamw-fused", "adamw-8bit", "adafactor", "muon", "lion")
LARGEST = 80e9  # bytes: rows are what one H100 of 80 GB holds
SMALL = 2.6e10  # parameters: of larger models some layers are taken


# -- cells


@cache
def model_of(cell: str) -> Model:
    """The model that a cell describes; its name is the cell."""
    name, *changed = cell.split()
    if not changed and name in presets():
        return Model(name)
    given = {key: json.loads(value) for key, value in (pair.split("=", 1) for pair in changed)}
    config = Model(name).config if name in presets() else _defaults(name)
    if layers := given.get("num_hidden_layers"):  # lists by layer are cut with them
        lists = {key: value for key, value in config.items() if isinstance(value, list)}
        given |= {key: value[:layers] for key, value in lists.items() if len(value) > layers}
    if name in presets():
        return Model(Model(name).replace(**given).config, name=cell)
    return Model(config | given, name=cell)


def _defaults(family: str) -> dict:
    """As transformers fills a family in; two need the width of a head said."""
    fields = known()["families"][family]["fields"]
    width = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    return {"model_type": family, **fields, **({"head_dim": width} if "head_dim" in fields else {})}


def _pairs(given: dict) -> str:
    return " ".join(f"{key}={json.dumps(value)}" for key, value in given.items())


def settings(run: Run) -> dict:
    """A run as cells; `run_of` reads them."""
    shape = {name: getattr(run, name) for name in SETTINGS}
    more = {f.name: getattr(run, f.name) for f in fields(Run) if f.name in MORE}
    more = {name: value for name, value in more.items() if value != getattr(Run, name)}
    cells = {"lora": _described(run.lora), "more": _pairs(more)}
    return {"model": run.model.name, **shape, **cells}


def run_of(row: dict) -> Run:
    """The run that a row describes."""
    shape = {name: row[name] for name in SETTINGS}
    more = dict(pair.split("=", 1) for pair in row.get("more", "").split())
    more = {name: json.loads(value) for name, value in more.items()}
    return Run(model_of(row["model"]), lora=_lora(row["lora"]), **shape, **more)


def _described(lora: Lora | None) -> str:
    """Adapters as a cell: "16 base=fp32 targets=q_proj+v_proj", what is default left out."""
    if lora is None:
        return ""
    changed = [
        f"{field.name}={'+'.join(value) if isinstance(value, tuple) else value}"
        for field in fields(Lora)
        if field.name != "rank" and (value := getattr(lora, field.name)) != field.default
    ]
    return " ".join([str(lora.rank), *changed])


def _lora(cell: str) -> Lora | None:
    if not cell:
        return None
    rank, *changed = cell.split()
    given = dict(pair.split("=") for pair in changed)
    for name in ("targets", "embeddings"):
        if name in given:
            given[name] = tuple(given[name].split("+"))
    if "dropout" in given:
        given["dropout"] = float(given["dropout"])
    return Lora(int(rank), **given)


# -- runs at random


def draw(count: int, seed: int) -> list[Run]:
    """Runs at random that one GPU holds: every family in turn, and every setting that a run has.

    Large models are cut to a few layers, some models untie their head or tie it. Lengths are not
    multiples of 64, except some. The same seed gives the same runs as long as there are no new
    presets.
    """
    chance, runs, tried = random.Random(seed), [], 0
    by_family: dict[str, list[str]] = {family: [] for family in sorted(FAMILIES)}
    for name in presets():
        by_family[Model(name).family].append(name)
    families = sorted(by_family)
    chance.shuffle(families)
    by_family["dots1"] = ["dots1 n_routed_experts=128 num_experts_per_tok=6 n_shared_experts=2"]
    while len(runs) < count:
        family, tried = families[tried % len(families)], tried + 1
        try:
            run = _random_run(chance, _random_model(chance, by_family[family] or [family]))
            fits = memory(run).total < LARGEST
        except ValueError:  # what a family has not, as Falcon no fused kernel for one key head
            continue
        if fits:
            runs.append(run)
    return runs


def _random_model(chance: random.Random, names: list[str]) -> Model:
    name, changed = chance.choice(names), {}
    model = model_of(name)
    if model.parameters.total > SMALL or chance.random() < 0.1:
        changed["num_hidden_layers"] = min(chance.choice((2, 3, 4, 6, 8)), model.layers)
    if chance.random() < 0.15:
        changed["tie_word_embeddings"] = not model.tied
    return model_of(f"{name} {_pairs(changed)}".strip())


def _random_run(chance: random.Random, model: Model) -> Run:
    longest = min(model.max_positions or 8192, 8192)
    lengths = (77, 200, 500, 777, 1000, 1023, 1025, 1536, 2047, 2048, 3001, 4096, 6000, 8192)
    adapters = (
        Lora(8),
        Lora(16, base="fp32"),
        Lora(32, targets=("q_proj", "v_proj")),
        Lora(16, dropout=0.1),
        Lora(8, dtype="bf16"),
        Lora(4, embeddings=("embed_tokens", "lm_head")),
    )
    chosen = {
        "micro_batch": (1, 1, 2, 3, 5, 8, 16),
        "accumulation": (1, 1, 2, 3),
        "precision": ("fp32", *["bf16-mixed"] * 2, "bf16-master", "bf16", "fp16-mixed", "fp16"),
        "gradients": ("same", "same", "fp32"),
        "optimizer": OPTIMIZERS,
        "recompute": ("none", "none", "selective", "full", "full", "every-2"),
        "attention": ("flash", "flash", "eager"),
        "lora": (*[None] * 2 * len(adapters), *adapters),
    }
    return Run(
        model,
        sequence=chance.choice([n for n in lengths if n <= longest]),
        **{name: chance.choice(values) for name, values in chosen.items()},
    )
