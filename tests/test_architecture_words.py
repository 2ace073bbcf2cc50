"""Files that are no config of a known family, or only in other words: their smallest examples."""

import pytest
import torch
from transformers import (
    CONFIG_MAPPING,
    AutoModelForQuestionAnswering,
    AutoModelForTokenClassification,
)

from sizing import Model, trace

L = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
MISTRALS = {"dim": 64, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16}
MISTRALS |= {"hidden_dim": 128, "vocab_size": 1000}
METAS = {"dim": 64, "n_layers": 2, "n_heads": 4, "vocab_size": 1000, "multiple_of": 32}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ({**L, "model_type": "bert"}, ["encoder", "decoder-only"]),
        ({**L, "model_type": "deberta-v2"}, ["an encoder"]),
        ({**L, "model_type": "mt5"}, ["encoder-decoder"]),
        ({**L, "model_type": "vit"}, ["does not know as a causal language model"]),
        ({**L, "model_type": "internlm2"}, ["those of 'llama'", "code comes with the model"]),
        ({**L, "model_type": "deepseek_v5"}, ["deepseek_v4 (traced)", "deepseek_v3"]),
        (
            {"model_type": "of_tomorrow", "text_config": {**L, "model_type": "kimi_linear"}},
            ["sizing.trace.model", "'of_tomorrow' around it"],
        ),
        ({"model_type": "gptj", "vocab_size": 9, "hidden_dim": 64}, ["n_embd", "hidden_dim 64"]),
        ({"model_type": "gemma2", "hidden_size": 64}, ["num_attention_heads", "fill in 8"]),
        ({**METAS, "vision_num_cross_attention_layers": 8}, ["vision_num_cross", "config.json"]),
        ({**METAS, "hidden_act": "gelu_new", "intermediate_size": 256}, ["hidden_act"]),
        ({**METAS, "moe_args": {"num_experts": 16}}, ["moe_args"]),
        ({**MISTRALS, "kv_lora_rank": 512}, ["kv_lora_rank"]),
        (
            {**MISTRALS, "moe": {"num_experts": 4, "num_experts_per_tok": 1, "num_shared": 1}},
            ["moe.num_shared"],
        ),
        ("base_emb_dim: 64\nbase_num_decoder_layers: 2\nvocab_size: 9\n", ["MaxText"]),
        ("lr: 0.1\nsteps: 2\ndata: c4\n", ["YAML", "paste the config.json"]),
    ],
)
def test_a_file_is_told_what_it_is_and_what_would_do(source, words):
    with pytest.raises(ValueError) as error:
        Model(source)
    for word in words:
        assert word in str(error.value)


def test_a_type_that_transformers_does_not_know_is_not_traced():
    with pytest.raises(ValueError, match="near it: deepseek_v4"):
        trace.model({**L, "model_type": "deepseek_v5"})


def test_a_model_that_scores_is_not_traced_as_a_language_model():
    config = {**L, "model_type": "helium", "architectures": ["HeliumForSequenceClassification"]}
    with pytest.raises(ValueError, match="architectures: 'HeliumForSequenceClassification'"):
        trace.model(config)


@pytest.mark.parametrize(
    ("ending", "kind"),
    [
        ("ForTokenClassification", AutoModelForTokenClassification),
        ("ForQuestionAnswering", AutoModelForQuestionAnswering),
    ],
)
def test_heads_that_score_have_biases(ending, kind):
    with torch.device("meta"):
        real = kind.from_config(CONFIG_MAPPING["llama"](**L, num_labels=5))
    model = Model({**L, "architectures": [f"Llama{ending}"], "num_labels": 5})
    assert model.parameters.total == sum(p.numel() for p in real.parameters())
    assert any("no language model" in note for note in model.notes)


def test_a_multimodal_model_that_scores():
    wrapped = {"model_type": "llava", "text_config": L, "num_labels": 1}
    model = Model({**wrapped, "architectures": ["LlavaForSequenceClassification"]})
    assert model.parameters.head == 64


def test_a_text_model_under_its_first_name():
    text = {**L, "layer_types": ["sliding_attention", "full_attention"], "sliding_window": 8}
    text |= {"sliding_window_pattern": "LG", "model_type": "exaone4_5_text"}
    model = Model({"model_type": "exaone4_5", "text_config": text})
    assert model.family == "exaone4" and model.blocks[0].window == 8
    assert model.parameters == Model({**text, "model_type": "exaone4"}).parameters


def test_layers_that_predict_further_tokens_are_not_counted_and_it_is_said():
    model = Model({**L, "num_nextn_predict_layers": 1})
    assert model.parameters == Model(L).parameters
    assert any("num_nextn_predict_layers 1" in note for note in model.notes)


def test_first_names_of_falcon_and_stablelm():
    # tiiuae/falcon-7b as it was first published
    first = {"model_type": "RefinedWebModel", "hidden_size": 4544, "n_layer": 32, "n_head": 71}
    first |= {"vocab_size": 65024, "multi_query": True, "parallel_attn": True, "bias": False}
    assert Model({**first, "alibi": False}).parameters == Model("falcon-7b").parameters
    config = {**L, "use_qkv_bias": False, "rope_pct": 0.25}
    first = Model({**config, "model_type": "stablelm_epoch"})
    assert first.parameters == Model({**config, "model_type": "stablelm"}).parameters
    assert first.config["partial_rotary_factor"] == 0.25


@pytest.mark.parametrize(
    ("like", "config", "billions"),
    [
        # what the Hub prints for internlm2-7b, Qwen-7B and MiniCPM-2B, whose code is remote
        ("llama", (92544, 4096, 14336, 32, 32, 8, False), "7.74"),
        ("qwen2", (151936, 4096, 11008, 32, 32, 32, False), "7.72"),
        ("llama", (122753, 2304, 5760, 40, 36, 36, True), "2.72"),
    ],
)
def test_the_family_to_write_for_a_remote_one_has_its_size(like, config, billions):
    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")
    names += ("num_attention_heads", "num_key_value_heads", "tie_word_embeddings")
    model = Model({"model_type": like, **dict(zip(names, config, strict=True))})
    assert f"{model.parameters.total / 1e9:.2f}" == billions


def test_metas_params_are_tied_as_the_preset_of_their_sizes():
    params = {"dim": 2048, "n_layers": 16, "n_heads": 32, "n_kv_heads": 8, "vocab_size": 128256}
    model = Model({**params, "ffn_dim_multiplier": 1.5, "multiple_of": 256})
    assert model.parameters == Model("llama-3.2-1b").parameters
    assert any("tied, as in llama-3.2-1b" in note for note in model.notes)


def test_what_stands_beside_a_params_json_is_said():
    model = Model({**MISTRALS, "vision_encoder": {"hidden_size": 8}})
    assert model.parameters == Model(MISTRALS).parameters
    assert "vision_encoder: not counted." in model.notes
