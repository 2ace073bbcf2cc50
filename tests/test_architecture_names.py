"""Names that text models have inside multimodal configs, and old ones: the weights of a family."""

import dataclasses
import importlib
import inspect

import pytest
import torch
from transformers import CONFIG_MAPPING, AutoModel

from sizing import Model
from sizing.architecture.wrappers import SAME_WEIGHTS

SMALL = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "moe_intermediate_size": 32,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_group": 1,
    "topk_group": 1,
    "pad_token_id": 0,
    "layer_types": ["sliding_attention", "full_attention"],
    "num_kv_shared_layers": 0,
}
KNOWN = sorted(set(SAME_WEIGHTS) & set(CONFIG_MAPPING))


def text_model(config) -> torch.nn.Module:
    """The class of a config's text model, which AutoModel need not know, on the meta device."""
    room = type(config).__module__.replace("configuration_", "modeling_")
    for name, kind in inspect.getmembers(importlib.import_module(room), inspect.isclass):
        takes = (getattr(kind, "config_class", None), *inspect.get_annotations(kind).values())
        if name.endswith("TextModel") and type(config) in takes:
            with torch.device("meta"):
                return kind(config)
    with torch.device("meta"):
        return AutoModel.from_config(config)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", KNOWN)
def test_a_name_has_the_weights_of_its_family(name, bias):
    kind = CONFIG_MAPPING[name]
    fields = {field.name for field in dataclasses.fields(kind)} | set(kind.attribute_map)
    stated = {**SMALL, "attention_bias": bias}
    config = {key: value for key, value in stated.items() if key in fields}
    if "gemma4" not in name:
        config.pop("layer_types", None)
    real = sum(p.numel() for p in text_model(kind(**config)).parameters())
    model = Model({**config, "model_type": name})
    assert model.parameters.total - model.parameters.head == real
    assert any(name in note for note in model.notes)


def test_minimax_by_its_own_names():
    config = {"model_type": "minimax_m1", "vocab_size": 200064, "hidden_size": 6144}
    config |= {"intermediate_size": 9216, "num_hidden_layers": 80, "num_attention_heads": 64}
    config |= {"num_key_value_heads": 8, "head_dim": 128, "num_local_experts": 32}
    config |= {"num_experts_per_tok": 2, "attn_type_list": ([0] * 7 + [1]) * 10}
    model = Model({**config, "shared_intermediate_size": 0, "auto_map": {}})
    assert model.parameters == Model("minimax-text-01").parameters
    # arXiv:2501.08313, section 2: 456 B, of which 45.9 B are active (tables left out)
    assert round(model.parameters.total / 1e9) == 456
    tables = model.parameters.embedding + model.parameters.head
    assert round((model.parameters.active - tables) / 1e9, 1) == 45.9
    with pytest.raises(ValueError, match="shared_intermediate_size"):
        Model({**config, "shared_intermediate_size": 512})
    with pytest.raises(ValueError, match="attn_type_list"):
        Model({**config, "attn_type_list": "every eighth"})


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (
            "base_model: org/a-model  # or another\nload_in_8bit: false\n",
            ["base_model", "org/a-model"],
        ),
        ({"model_name_or_path": "org/m", "stage": "sft"}, ["training script", "'org/m'"]),
        ({"model": "org/m", "tensor_parallel_size": 2}, ["'org/m'"]),
        ({"zero_optimization": {"stage": 3}}, ["DeepSpeed"]),
        ({"distributed_type": "FSDP", "num_processes": 8}, ["accelerate"]),
        ({"global_step": 100, "log_history": []}, ["trainer's state"]),
        ({"per_device_train_batch_size": 4}, ["trainer's settings"]),
        ({"max_seq_length": 512, "do_lower_case": False}, ["sentence-transformers"]),
        ({"word_embedding_dimension": 384}, ["pooling"]),
        ({"version": "1.0", "truncation": None, "model": {"vocab": {}}}, ["a tokenizer"]),
        ({"bos_token": "<s>", "eos_token": "</s>"}, ["special tokens"]),
        ({"image_processor_type": "X", "crop_size": 224}, ["preprocessor"]),
        ({"_class_name": "UNet2DConditionModel", "sample_size": 64}, ["diffusion"]),
        ({"metadata": {"general.architecture": "llama"}}, ["GGUF"]),
        ({"metadata": {"total_size": 1}, "weight_map": {"a": "b"}}, ["index of weight files"]),
        ({"n_layer": 12, "n_head": 12, "n_embd": 768, "block_size": 1024}, ["nanoGPT", "gpt2"]),
        (
            {"hf_config": {"org": "o", "name": "m"}, "n_layer": 32, "n_embd": 64},
            ["LitGPT", "'o/m'"],
        ),
        (
            {"num_layers": 32, "hidden_size": 64, "ffn_hidden_size": 128},
            ["Megatron", "hidden_size"],
        ),
        ({"d_model": 2560, "n_layer": 64, "ssm_cfg": {}}, ["Mamba", "-hf"]),
        ({"model_type": "t5", "d_model": 512}, ["encoder-decoder"]),
        ({"model_type": "internlm2", "auto_map": {}}, ["code comes with the model"]),
    ],
)
def test_other_files_of_a_model_are_told_what_they_are(source, words):
    with pytest.raises(ValueError) as error:
        Model(source)
    for word in words:
        assert word in str(error.value)
