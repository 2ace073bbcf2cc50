"""Each field of a family's config changed, one at a time: whatever transformers makes of it.

Parameters and FLOPs must be transformers' own, the peak that of the trace; a config that it builds
may be refused only in words. `make fuzz` changes every field of every family; `make test` one.
"""

import dataclasses
import os
import random

import pytest
from reference import build, random_config
from transformers import CONFIG_MAPPING, PreTrainedConfig

from sizing import Model, Run, flops, memory, trace
from sizing.architecture.families import FAMILIES

ALL = int(os.environ.get("SIZING_FUZZ", 0)) >= 10_000
# What the run or the tokenizer decides, or what no size follows from.
APART = {f.name for f in dataclasses.fields(PreTrainedConfig)} - {"tie_word_embeddings"}
APART |= {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache"}
APART |= {"pretraining_tp", "vocab_size", "n_positions", "max_position_embeddings"}
SEQUENCE = 48
# Their own step fails: text without the numbers of each layer, one key/value head in fused kernels.
FAILS = {
    ("gemma4_text", "num_kv_shared_layers"),
    ("gemma4_text", "hidden_size_per_layer_input"),
    ("falcon", "multi_query"),
}


def others(name: str, value) -> list:
    """Values of the same kind that a file might state."""
    if isinstance(value, bool):
        return [not value]
    if value is None:
        return [12] if "window" in name or "chunk" in name else [16]
    if isinstance(value, int):
        return [n for n in (2 * value, max(2, value // 2)) if n != value]
    if isinstance(value, float):
        return [0.25 if value == 0.5 else 0.5]
    if isinstance(value, str):
        return ["gelu", "relu"] if "act" in name else []
    if isinstance(value, list | tuple):
        return [list(reversed(value)), None]
    return []


def changes(family: str) -> list[tuple[dict, str, object]]:
    config = random_config(family, random.Random(f"fields {family}"))
    whole = CONFIG_MAPPING[family](**{k: v for k, v in config.items() if k != "model_type"})
    found = [
        (config, field.name, value)
        for field in dataclasses.fields(whole)
        if field.name not in APART and (family, field.name) not in FAILS
        for value in others(field.name, getattr(whole, field.name, None))
    ]
    return found if ALL else random.Random(family).sample(found, 1)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_a_field_changes_what_it_changes_in_transformers(family):
    wrong = []
    for config, name, value in changes(family):
        said = wrongly({**config, name: value})
        wrong += [f"{name} = {value!r}: {said}"] if said else []
    assert not wrong, "\n".join(wrong)


def wrongly(config: dict) -> str | None:
    """What is wrong with our numbers of a config; None where transformers takes none from it."""
    try:
        real = sum(p.numel() for p in build(config).parameters())
    except Exception:  # each config class and each model has its own
        return None
    try:
        model = Model(config)
    except ValueError:
        return None
    except Exception as error:  # what the test is there to find
        return f"{type(error).__name__}: {error}"
    if model.parameters.total != real:
        return f"{model.parameters.total:,} parameters counted, {real:,} in transformers"
    run = Run(model, sequence=SEQUENCE, micro_batch=2, optimizer="sgd")
    try:
        counted, peak = trace.flops(run), trace.memory(run).total
    except Exception:  # the real model does not run
        return None
    if flops(run) != counted:
        return f"{flops(run)} counted, {counted} traced"
    if memory(run).total != pytest.approx(peak, rel=0.03):
        return f"peak {memory(run).total:,}, {peak:,} traced"
    return None
