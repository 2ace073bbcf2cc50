"""Configs that were refused or answered badly, each by its smallest example."""

import json

import pytest
from transformers import AutoConfig

from sizing import Model, Run
from sizing.calculators import ParameterCalculator
from sizing.footprint import activations, memory
from sizing.trace import memory as traced

L = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


@pytest.mark.parametrize("name", sorted(set(activations.ALLOWED) - {"linear", "leaky_relu"}))
def test_every_activation_costs_what_the_trace_says(name):
    config = {"model_type": "gpt_neox", "vocab_size": 300, "hidden_size": 64}
    config |= {"intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    run = Run({**config, "hidden_act": name}, sequence=64, micro_batch=2, optimizer="sgd")
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.005)


@pytest.mark.parametrize(
    "config",
    [
        {**L, "moe_intermediate_size": None},
        {**L, "num_local_experts": None},
        {**L, "n_routed_experts": None},
        {**L, "moe_intermediate_size": {}},
        {**L, "layer_types": 3},
        {**L, "model_type": "qwen3_moe", "num_experts": None, "mlp_only_layers": [0, 1]},
    ],
)
def test_the_calculator_takes_any_expert_field(config):
    calculator = ParameterCalculator()
    calculator.set(config=json.dumps(config))
    assert "parameters" in calculator._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize(("wrapper", "text"), [("blip-2", 125_239_296), ("llava", 6_738_415_616)])
def test_a_multimodal_config_says_that_its_text_model_is_counted(wrapper, text):
    model = Model(AutoConfig.for_model(wrapper))
    assert model.parameters.total == text
    assert f"text model of {wrapper}" in repr(model)
    assert any("not counted" in note for note in model.notes)


@pytest.mark.parametrize(
    "config",
    [
        {**L, "model_type": "gemma2", "sliding_window": None},
        {**L, "model_type": "gemma3_text", "sliding_window": None},
        {
            **L,
            "model_type": "qwen3",
            "layer_types": ["sliding_attention"] * 2,
            "use_sliding_window": False,
        },
    ],
)
def test_windows_that_transformers_refuses(config):
    run = Run(config, sequence=32, optimizer="sgd")
    assert memory(run).total > 0
    try:
        assert traced(run).total > 0
    except ValueError as error:
        assert "config" in str(error)
