"""Adapters and quantised weights: the formula against the real model, with peft's operations."""

from dataclasses import replace

import pytest

import sizing
from sizing import Lora, Model, Run

SMALL = {
    "model_type": "llama",
    "vocab_size": 2000,
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
RUN = Run(SMALL, sequence=256, micro_batch=2)
ADAPTERS = {
    "all": Lora(8),
    "queries and values": Lora(8, ("q_proj", "v_proj")),
    "bf16": Lora(8, dtype="bf16"),
    "dropout": Lora(8, dropout=0.1),
    "fp32 base": Lora(8, base="fp32"),
    "tables": Lora(8, embeddings=("embed_tokens", "lm_head")),
}


@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("precision", ["fp32", "bf16", "bf16-mixed"])
@pytest.mark.parametrize("name", ADAPTERS)
def test_adapters(name, precision, recompute):
    run = replace(RUN, precision=precision, recompute=recompute, lora=ADAPTERS[name])
    said, traced = sizing.memory(run), sizing.trace.memory(run)
    assert said.total == pytest.approx(traced.total, rel=0.01)
    assert said.gradients == traced.phases["optimizer"]["gradients"]


@pytest.mark.parametrize(("name", "dropout"), [("all", 0.0), ("all", 0.1), ("tables", 0.0)])
def test_peft_itself_holds_the_same(name, dropout):
    pytest.importorskip("peft")
    run = replace(RUN, lora=replace(ADAPTERS[name], dropout=dropout))
    assert sizing.trace.memory(run, library=True).total == sizing.trace.memory(run).total


def test_adapters_of_published_sizes():
    """torchao's README: 9,175,040 parameters of rank 32 on q and v of Llama-3.2-3B."""
    run = Run("llama-3.2-3b", precision="bf16", lora=Lora(32, ("q_proj", "v_proj")))
    assert sizing.memory(run).gradients == 4 * 9_175_040
    assert sizing.memory(replace(run, lora=Lora(32, run.lora.targets, "bf16"))).gradients == (
        2 * 9_175_040
    )


def test_the_base_is_in_bf16_under_autocast():
    model = Model("llama-3.1-8b")
    run = Run(model, lora=Lora(16))
    adapters = sizing.memory(run).gradients
    assert sizing.memory(run).parameters == 2 * model.parameters.total + adapters
    wide = sizing.memory(replace(run, lora=Lora(16, base="fp32"))).parameters
    assert wide == 4 * model.parameters.total + adapters
