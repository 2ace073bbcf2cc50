"""Names that text models have inside multimodal configs, and old ones: the weights of a family."""

import dataclasses
import importlib
import inspect

import pytest
import torch
from transformers import CONFIG_MAPPING

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
    raise LookupError(room)


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
