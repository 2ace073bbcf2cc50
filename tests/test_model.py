"""Every weight tensor against the real transformers model."""

import json
import random
from pathlib import Path

import pytest
from reference import build, random_config

from sizing import Model, presets
from sizing.architecture.families import FAMILIES


def shapes_of(model: Model) -> list[tuple[int, ...]]:
    return sorted(weight.shape for weight, copies in model.weights for _ in range(copies))


def compare(model: Model, config: dict) -> None:
    real = build(config)
    parameters = list(real.parameters())  # a tied tensor appears once
    assert model.parameters.total == sum(p.numel() for p in parameters)
    assert shapes_of(model) == sorted(tuple(p.shape) for p in parameters)


@pytest.mark.parametrize("name", presets())
def test_preset_equals_transformers(name):
    path = Path(__file__).parents[1] / "data" / "models" / f"{name}.json"
    published = json.loads(path.read_text())
    config = {key: value for key, value in published.items() if not key.startswith("_")}
    compare(Model(name), config)


@pytest.mark.parametrize("name", presets())
def test_filled_in_config_is_the_same_model(name):
    """What experiments build from, `Model.config`, has the same tensors as the published config."""
    model = Model(name)
    compare(model, model.config)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("seed", range(6))
def test_any_config_of_the_family(family, seed):
    config = random_config(family, random.Random(f"{family}{seed}"))
    compare(Model(config), config)


def test_presets_are_of_known_families():
    assert {Model(name).family for name in presets()} <= set(FAMILIES)
    assert len(presets()) >= 110


@pytest.mark.parametrize("name", presets())
def test_parts_sum_to_the_total(name):
    p = Model(name).parameters
    assert p.embedding + p.attention + p.mlp + p.norm + p.head + p.router == p.total
    assert p.total == sum(w.elements * copies for w, copies in Model(name).weights)
    assert min(p.embedding, p.attention, p.mlp) > 0
    assert p.norm > 0 or Model(name).family == "olmo"  # whose norms have no weights
    projected = name in ("opt-350m", "gemma-3n-e2b", "gemma-3n-e4b")  # before the tied head
    assert (p.head == 0) == (Model(name).tied and not projected)


def test_weight_names_are_those_of_transformers():
    for family in FAMILIES:
        config = random_config(family, random.Random(f"names{family}"))
        real = {
            ".".join("*" if part.isdigit() else part for part in name.split("."))
            for name, _ in build(config).named_parameters()
        }
        for weight, _ in Model(config).weights:
            ours = ".".join("*" if part.isdigit() else part for part in weight.name.split("."))
            assert any(name.endswith(ours) for name in real), (family, weight.name)


@pytest.mark.parametrize(
    ("name", "total", "source"),
    [
        ("gpt2", 124_439_808, "nanoGPT transformer_sizing.ipynb"),
        ("opt-175b", 174_604_468_224, "12 h^2 L + 13 h L + (V + 2050) h + 2h with h=12288, L=96"),
    ],
)
def test_published_totals(name, total, source):
    if name in presets():
        assert Model(name).parameters.total == total, source


@pytest.mark.parametrize(
    ("name", "active", "source"),
    [
        ("mixtral-8x7b", 12.9e9, "arXiv:2401.04088: 12.9 B of 46.7 B"),
        ("deepseek-v3", 37e9, "arXiv:2412.19437: 37 B of 671 B"),
        ("qwen3-30b-a3b", 3.3e9, "model card: 3.3 B of 30.5 B"),
    ],
)
def test_published_active(name, active, source):
    assert Model(name).parameters.active == pytest.approx(active, rel=0.02), source


def llama(**changes):
    config = {
        "model_type": "llama",
        "vocab_size": 100,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config.update(changes)
    return {key: value for key, value in config.items() if value != "absent"}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("gpt22", ["gpt22", "gpt2"]),
        ("no/such/config.json", ["no/such/config.json"]),
        ({"model_type": "bert"}, ["model_type", "'bert'", "llama"]),
        ({}, ["model_type", "None", "llama"]),
        (17, ["source", "int"]),
        (llama(hidden_size="absent"), ["hidden_size", "missing"]),
        (llama(vocab_size=None), ["vocab_size", "missing"]),
        (llama(num_hidden_layers=0), ["num_hidden_layers", "0", ">= 1"]),
        (llama(num_hidden_layers=2.5), ["num_hidden_layers", "2.5"]),
        (llama(num_hidden_layers=True), ["num_hidden_layers", "True"]),
        (llama(num_attention_heads=5), ["num_attention_heads", "5", "64"]),
        (llama(num_key_value_heads=3), ["num_key_value_heads", "3", "4"]),
        (llama(tie_word_embeddings="yes"), ["tie_word_embeddings", "yes"]),
        (
            llama(
                model_type="mixtral",
                num_key_value_heads=2,
                num_local_experts=2,
                num_experts_per_tok=3,
            ),
            ["num_experts_per_tok", "3", "2"],
        ),
        (
            llama(model_type="gemma2", num_key_value_heads=2, layer_types=["full_attention"]),
            ["layer_types", "1", "2"],
        ),
    ],
)
def test_bad_input_says_what_and_what_is_allowed(source, words):
    with pytest.raises(ValueError) as error:
        Model(source)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [None, 0, -1, 1.5, "x", [], {}, True, 1e30, 10**12])
def test_a_strange_value_is_a_value_error_or_a_model(family, value):
    """Whatever a pasted config holds, there is no other exception and no endless loop."""
    config = random_config(family, random.Random(family))
    for field in config:
        try:
            assert Model({**config, field: value}).parameters.total > 0
        except ValueError as error:
            assert ":" in str(error)


def test_sources(tmp_path):
    config = llama()
    expected = Model(config)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert Model(path) == expected
    assert Model(str(path)) == expected
    assert Model(expected) == expected
    assert hash(Model(path)) == hash(expected)
    assert build(config).config.to_dict()["model_type"] == "llama"
    from_object = Model(build(config).config)
    assert from_object.parameters == expected.parameters
    wrapped = Model({"model_type": "gemma3", "text_config": config})
    assert wrapped == expected


def test_not_json(tmp_path):
    path = tmp_path / "config.json"
    path.write_text("{oops")
    with pytest.raises(ValueError, match=r"config\.json is not JSON"):
        Model(path)


def test_replace():
    model = Model(llama())
    assert model.replace(num_hidden_layers=4).layers == 4
    assert model.layers == 2
    with pytest.raises(ValueError, match="n_layer"):
        model.replace(n_layer=4)
