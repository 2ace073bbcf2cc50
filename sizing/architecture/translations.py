"""Old and foreign spellings of a config in transformers' words, where that can be done exactly.

Meta's and Mistral's params.json, MLC's chat config, GPT-2's config of 2019, MiniMax's numbered
layers, Falcon's and StableLM's first names.
"""

from __future__ import annotations

from collections.abc import Mapping


def translated(config: dict) -> dict:
    """The config in transformers' words, where it is written in others that are known."""
    if "model_type" in config and isinstance(config.get("model_config"), Mapping):  # MLC
        return {**config["model_config"], "model_type": config["model_type"]}
    inner = config.get("model")
    if not config.get("model_type") and isinstance(inner, Mapping) and inner.get("model_type"):
        return dict(inner)
    if config.get("model_type") in _NUMBERED and "attn_type_list" in config:
        return _by_number(config)
    if config.get("model_type"):
        first = isinstance(config["model_type"], str) and config["model_type"] in _FIRST_NAMES
        return _renamed(config) if first else config
    architectures = config.get("architectures")
    if isinstance(architectures, list) and "GPT2LMHeadModel" in architectures:
        return {**config, "model_type": "gpt2"}
    if "dim" in config and "n_layers" in config:
        return _from_params(config)
    return config


# Types of the first releases, before transformers had their code: {type: (its type, {field: its
# field}, what the first code took for granted)}.
_FIRST_NAMES = {
    "RefinedWebModel": ("falcon", {"n_head_kv": "num_kv_heads"}, {}),
    "RefinedWeb": ("falcon", {"n_head_kv": "num_kv_heads"}, {"new_decoder_architecture": True}),
    "stablelm_epoch": ("stablelm", {"rope_pct": "partial_rotary_factor"}, {}),
}


def _renamed(config: dict) -> dict:
    family, names, granted = _FIRST_NAMES[config["model_type"]]
    renamed = {names.get(key, key): value for key, value in config.items()}
    return {**granted, **renamed, "model_type": family}


_NUMBERED = ("minimax_text_01", "minimax_m1", "minimax")


def _by_number(config: dict) -> dict:
    """MiniMax's own code numbers its layers: 0 for lightning attention, 1 for softmax."""
    if config.get("shared_intermediate_size") not in (None, 0, [0]):
        raise ValueError(
            f"shared_intermediate_size: {config['shared_intermediate_size']!r} given; allowed: 0 "
            "(transformers' MiniMax has no shared expert)"
        )
    numbers = config["attn_type_list"]
    if not isinstance(numbers, list) or not set(map(str, numbers)) <= {"0", "1"}:
        raise ValueError("attn_type_list: allowed: a list of 0 (lightning) and 1 (softmax)")
    types = ["full_attention" if number else "linear_attention" for number in numbers]
    return {"layer_types": types, **config}


def _from_params(params: dict) -> dict:
    """Meta's params.json (llama/model.py: the MLP is 2/3 of 4 x dim, times a multiplier, rounded
    up) or Mistral's, which names its hidden_dim."""
    dim, heads = params.get("dim"), params.get("n_heads")
    numbers = {"dim": dim, "n_heads": heads, "n_layers": params.get("n_layers")}
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name}: {value!r} given; allowed: a whole number >= 1")
    vocab = params.get("vocab_size")
    if not isinstance(vocab, int) or vocab < 1:
        raise ValueError(
            f"vocab_size: {vocab!r} in a params.json; allowed: a whole number >= 1 (Llama 1 and 2 "
            "wrote -1, and have 32000)"
        )
    _same_build(params)
    moe = params.get("moe")
    family = ("mixtral" if moe else "mistral") if _mistrals(params) else "llama"
    ffn = params.get("hidden_dim") or _meta_width(dim, params)
    config = {
        "model_type": family,
        "vocab_size": vocab,
        "hidden_size": dim,
        "intermediate_size": ffn,
        "num_hidden_layers": params["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": params.get("n_kv_heads") or heads,
        "tie_word_embeddings": bool(params.get("tied_embeddings", False)),
    }
    if params.get("head_dim"):
        config["head_dim"] = params["head_dim"]
    if family != "llama":
        config["sliding_window"] = params.get("sliding_window")
    if isinstance(moe, Mapping):
        config["num_local_experts"] = moe.get("num_experts")
        config["num_experts_per_tok"] = moe.get("num_experts_per_tok")
    return config


def _mistrals(params: dict) -> bool:
    return "hidden_dim" in params and ("head_dim" in params or "moe" in params)


# What a params.json may hold beside a plain decoder's sizes.
_ELSEWHERE = ("vision_encoder", "vision_args", "multimodal", "audio_encoder")
_OTHER_BUILD = ("moe_args", "vision_num_cross_attention_layers", "kv_lora_rank", "q_lora_rank")
_OTHER_BUILD += ("hidden_act", "intermediate_size", "layer_norm_eps", "hidden_size")
_EXPERTS = {"num_experts", "num_experts_per_tok"}


def _same_build(params: dict) -> None:
    """A ValueError where a params.json tells of layers that its sizes alone do not give."""
    moe = params.get("moe")
    further = sorted(set(moe) - _EXPERTS) if isinstance(moe, Mapping) else []
    found = [name for name in _OTHER_BUILD if params.get(name)] or [f"moe.{n}" for n in further]
    if found:
        raise ValueError(
            f"{found[0]}: in a params.json; allowed: those of plain decoders and of Mixtral; paste "
            "the config.json of the model's transformers version"
        )


def _meta_width(dim: int, params: dict) -> int:
    multiple = params.get("multiple_of", 256)
    factor = params.get("ffn_dim_multiplier") or 1.0
    for name, value in (("multiple_of", multiple), ("ffn_dim_multiplier", factor)):
        if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
            raise ValueError(f"{name}: {value!r} given; allowed: a number above 0")
    width = int(factor * int(2 * 4 * dim / 3))
    return int(multiple) * -(-width // int(multiple))


def notes_on(config: dict) -> list[str]:
    """What `translated` did, in a sentence."""
    kind = config.get("model_type")
    if kind:
        if isinstance(kind, str) and kind in _FIRST_NAMES:
            return [f"{kind} is the first name of {_FIRST_NAMES[kind][0]}."]
        return ["Sizes taken from `model_config`."] if "model_config" in config else []
    if "dim" in config and "n_layers" in config:
        note = f"Translated from {'Mistral' if _mistrals(config) else 'Meta'}'s params.json."
        found = [name for name in _ELSEWHERE if config.get(name)]
        return [note] + [f"{name}: not counted." for name in found]
    if isinstance(config.get("architectures"), list):
        return ["model_type is missing: read from `architectures`."]
    return []
