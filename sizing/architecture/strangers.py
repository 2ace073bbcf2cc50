"""What a file is that is no config of a known family, and the words that say what would do.

Also old and foreign spellings that can be translated: Meta's and Mistral's params.json, MLC's chat
config, GPT-2's config of 2019.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

from .families import FAMILIES
from .fields import known, shown

_BINARY = {
    ".gguf": "a GGUF file of weights",
    ".safetensors": "a file of weights",
    ".bin": "a file of weights",
    ".pt": "a file of weights",
    ".pth": "a file of weights",
    ".ckpt": "a file of weights",
    ".npz": "a file of arrays",
    ".onnx": "an ONNX graph",
}


def refuse_file(path: Path) -> None:
    """A ValueError for a file whose name says that it holds weights."""
    kind = _BINARY.get(path.suffix.lower())
    if kind:
        raise ValueError(
            f"source: {path.name} is {kind}; allowed: the config.json that is published beside it"
        )


def refuse_text(text: str, name: str) -> None:
    """A ValueError for text that is known to be something else."""
    if text.startswith("version https://git-lfs"):
        raise ValueError(
            f"source: {name} is not JSON: a Git LFS pointer; fetch the file that it points to"
        )


# -- translation


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
        return config
    architectures = config.get("architectures")
    if isinstance(architectures, list) and "GPT2LMHeadModel" in architectures:
        return {**config, "model_type": "gpt2"}
    if "dim" in config and "n_layers" in config:
        return _from_params(config)
    return config


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
    moe = params.get("moe")
    if "hidden_dim" in params:
        family, ffn = ("mixtral" if moe else "mistral"), params["hidden_dim"]
    else:
        family, ffn = "llama", _meta_width(dim, params)
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
    if config.get("model_type"):
        return ["Sizes taken from `model_config`."] if "model_config" in config else []
    if "dim" in config and "n_layers" in config:
        kind = "Mistral's" if "hidden_dim" in config else "Meta's"
        note = f"Translated from {kind} params.json."
        if kind == "Meta's":
            note += " Whether the head is tied is not written there: taken as untied."
        return [note]
    if isinstance(config.get("architectures"), list):
        return ["model_type is missing: read from `architectures`."]
    return []


# -- words


_ENCODER_DECODERS = (
    "t5",
    "mt5",
    "umt5",
    "longt5",
    "t5gemma",
    "bart",
    "mbart",
    "pegasus",
    "m2m_100",
)


def unknown(family, config: Mapping, outer: Mapping) -> str:
    """Why a config cannot be sized by a formula, and what to do."""
    if family is None or family == "":
        return f"model_type: None given; {_what_it_is(outer)}"
    if not isinstance(family, str):
        return f"model_type: {shown(family)} given; allowed: text, such as 'llama'"
    formulas = ", ".join(sorted(FAMILIES))
    if family in known()["causal"]:
        return (
            f"model_type: {family!r} given, which has no formula here; allowed: "
            "sizing.trace.model(config), which builds and traces the real model (seconds, with "
            f"torch and transformers), or a type with a formula: {formulas}"
        )
    near = difflib.get_close_matches(family[:100], FAMILIES, n=3, cutoff=0.6)
    words = f"model_type: unknown architecture {shown(family)}"
    if near:
        words += f"; near it: {', '.join(near)}"
    if "auto_map" in outer:
        words += "; its code comes with the model, not with transformers"
    if family in _ENCODER_DECODERS:
        words += ", an encoder-decoder, which the course does not size"
    return f"{words}; allowed: {formulas}"


def _what_it_is(config: Mapping) -> str:
    """What a file without model_type is, and which one to paste."""
    if "peft_type" in config or "lora_alpha" in config:
        base = config.get("base_model_name_or_path")
        return f"this is an adapter's config; paste the config.json of its base model, {base!r}"
    for field in ("model_name_or_path", "base_model", "model"):
        if isinstance(config.get(field), str):
            return _settings(field, config[field])
    if isinstance(config.get("hf_config"), Mapping):
        owner, name = (config["hf_config"].get(part) for part in ("org", "name"))
        return f"this is LitGPT's config; give the Hub id that it names, '{owner}/{name}'"
    if _is_gguf(config) or _is_gguf(config.get("metadata")):
        return f"these are names of GGUF metadata; {_BESIDE}"
    for fields, words in _FILES:
        if set(fields) <= set(config):
            return words
    nested = [key for key, value in config.items() if isinstance(value, Mapping) and value]
    sized = [key for key in nested if {"hidden_size", "vocab_size", "dim"} & set(config[key])]
    if sized:
        return f"sizes stand one level down, in {sized[0]!r}: paste that part, with its model_type"
    architectures = config.get("architectures")
    if isinstance(architectures, list) and architectures:
        return f"add the model_type that belongs to {architectures[0]!r}"
    if {"hidden_size", "n_embd", "d_model", "vocab_size"} & set(config):
        return f"add it; allowed: {', '.join(sorted(FAMILIES))}"
    return (
        "this is no model's config (a config.json of the Hugging Face Hub has model_type, "
        f"hidden_size, ...); known types: {', '.join(sorted(FAMILIES))}"
    )


_BESIDE = "paste the config.json that is published beside it"
# (fields that give a file away, what it is and what would do), the first that fits.
_FILES = (
    (("tokenizer_class",), f"this is a tokenizer's config; {_BESIDE}"),
    (("added_tokens_decoder",), f"this is a tokenizer's config; {_BESIDE}"),
    (("truncation", "model"), f"this is a tokenizer; {_BESIDE}"),
    (("bos_token",), f"these are a tokenizer's special tokens; {_BESIDE}"),
    (("image_processor_type",), f"this is a preprocessor's config; {_BESIDE}"),
    (("feature_extractor_type",), f"this is a preprocessor's config; {_BESIDE}"),
    (("quantization", "producer"), f"this is a quantization's record; {_BESIDE}"),
    (("optimization", "quantization"), f"this is an ONNX export's record; {_BESIDE}"),
    (("weight_map",), f"this is an index of weight files; {_BESIDE}"),
    (("word_embedding_dimension",), f"this is a pooling layer's config; {_BESIDE}"),
    (("max_seq_length", "do_lower_case"), f"this is sentence-transformers' config; {_BESIDE}"),
    (("_class_name",), "this is a part of a diffusion model; allowed: a language model's config"),
    (("log_history",), f"this is a trainer's state; {_BESIDE}"),
    (("zero_optimization",), "these are DeepSpeed's settings; paste the model's config.json"),
    (("distributed_type",), "these are accelerate's settings; paste the model's config.json"),
    (("per_device_train_batch_size",), "these are a trainer's settings; paste the config.json"),
    (
        ("n_layer", "n_embd", "block_size"),
        "this is nanoGPT's config; with bias true these are GPT-2's sizes: write model_type "
        "'gpt2', and n_positions for block_size",
    ),
    (
        ("ssm_cfg",),
        "this is the original Mamba's config; paste that of the model's transformers version "
        "('-hf'), which sizing.trace.model takes",
    ),
    (
        ("num_layers", "ffn_hidden_size"),
        "these are Megatron's names; write those of transformers: model_type, vocab_size, "
        "hidden_size, intermediate_size (ffn_hidden_size), num_hidden_layers (num_layers), "
        "num_attention_heads, num_key_value_heads (num_query_groups)",
    ),
    (("metadata",), f"this is an index of weight files; {_BESIDE}"),
    *(
        ((field,), f"these are generation settings; {_BESIDE}")
        for field in ("temperature", "top_p", "max_new_tokens", "do_sample", "top_k")
    ),
)


def _settings(field: str, model: str) -> str:
    return (
        f"these are a training script's settings; {field} names the model, {model[:80]!r}: give "
        "that name if it is a preset's, or paste its config.json"
    )


def _is_gguf(config) -> bool:
    starts = ("general.", "llama.", "gguf")
    return isinstance(config, Mapping) and any(str(key).startswith(starts) for key in config)


def named_in(text: str) -> str | None:
    """Of text that is no JSON, such as a training script's YAML: what it is, if that is known."""
    for line in text.splitlines():
        field, _, value = line.partition(":")
        if field.strip() in ("model_name_or_path", "base_model", "pretrained_model_name_or_path"):
            return _settings(field.strip(), value.split("#")[0].strip().strip("'\""))
    return None


# -- what the model is built for

_SCORED = ("ForSequenceClassification", "RewardModel", "ForReward")


def head_of(architectures, config: Mapping, wrapped: bool) -> tuple[str, int]:
    """("language model" | "scores" | "none", labels) by the class that the config names."""
    named = architectures[0] if isinstance(architectures, list | tuple) and architectures else None
    if not isinstance(named, str) or wrapped:
        return "language model", 0
    if named.endswith(_SCORED):
        return "scores", _labels(config)
    if "Eagle" in named or "Medusa" in named or named.endswith(("MTP", "MTPModel")):
        raise ValueError(
            f"architectures: {named!r} is a draft head for speculative decoding, not the model; "
            "allowed: the config.json of the model that it drafts for"
        )
    if named.endswith("Model") and not named.endswith(("LMHeadModel", "DoubleHeadsModel")):
        return "none", 0
    return "language model", 0


def _labels(config: Mapping) -> int:
    labels = config.get("num_labels")
    if labels is None and isinstance(config.get("id2label"), Mapping):
        labels = len(config["id2label"])
    labels = 2 if labels is None else labels  # transformers' default
    if isinstance(labels, bool) or not isinstance(labels, int) or labels < 1:
        raise ValueError(f"num_labels: {labels!r} given; allowed: a whole number >= 1")
    return labels
