"""What a file is that is no config of a known family, and the words that say what would do."""

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


# -- words


# Types whose code comes with the model: (the family whose sizes theirs are, what to write for it).
_REMOTE = {
    "aquila": ("llama", ""),
    "baichuan": ("llama", ""),
    "internlm": ("llama", "attention_bias true"),
    "internlm2": ("llama", ""),
    "mimo": ("qwen2", ""),
    "minicpm": ("llama", "tie_word_embeddings true"),
    "orion": ("llama", "its norms have biases too"),
    "phi-msft": ("phi", "hidden_size for n_embd, num_hidden_layers for n_layer"),
    "qwen": ("qwen2", "half its intermediate_size"),
    "skywork": ("llama", ""),
    "xverse": ("llama", ""),
    "yi": ("llama", ""),
}


def unknown(family, config: Mapping, outer: Mapping) -> str:
    """Why a config cannot be sized by a formula, and what to do."""
    if family is None or family == "":
        return f"model_type: None given; {_what_it_is(outer)}"
    if not isinstance(family, str):
        return f"model_type: {shown(family)} given; allowed: text, such as 'llama'"
    words = _no_decoder(family)
    if words is None and family in known()["causal"]:
        words = (
            f"model_type: {family!r} given, which has no formula here; allowed: "
            "sizing.trace.model(config), which builds and traces the real model (seconds, with "
            f"torch and transformers){_foreign(family, outer)}, or a type with a formula"
        )
    if words is None:
        words = f"model_type: unknown architecture {shown(family)}{_near(family, outer)}; allowed"
    return f"{words}: {', '.join(sorted(FAMILIES))}"


def _foreign(family: str, outer: Mapping) -> str:
    """A warning where the model around a text model is none of transformers' own."""
    around = outer.get("model_type")
    if around == family or around in known()["wrappers"] or around in known()["causal"]:
        return ""
    return f"; transformers does not know {around!r} around it, whose layers may differ"


def _no_decoder(family: str) -> str | None:
    """Of a type that transformers knows as something else than a decoder."""
    causal, decoders = known()["causal"], "allowed: a decoder-only language model"
    if family in known()["encoders"]:
        also = "; sizing.trace.model counts it as a causal model" if family in causal else ""
        return f"model_type: {family!r} given, an encoder (it fills in words){also}; {decoders}"
    if family in known()["encoder_decoders"]:
        return f"model_type: {family!r} given, an encoder-decoder; {decoders}"
    if family in known()["others"]:
        return (
            f"model_type: {family!r} given, which transformers does not know as a causal language "
            f"model; {decoders}"
        )
    return None


def _near(family: str, outer: Mapping) -> str:
    words = ""
    if family in _REMOTE:
        like, change = _REMOTE[family]
        change = f" ({change})" if change else ""
        words += f"; its sizes are those of {like!r}: write that as model_type{change}"
    else:
        near = difflib.get_close_matches(
            family[:100], {*FAMILIES, *known()["causal"]}, n=3, cutoff=0.6
        )
        near = [name if name in FAMILIES else f"{name} (traced)" for name in near]
        words += f"; near it: {', '.join(near)}" if near else ""
    if "auto_map" in outer or family in _REMOTE:
        words += "; its code comes with the model, not with transformers"
    return words


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


_ANOTHER = "paste the config.json of the model on the Hugging Face Hub"
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
    pairs = [line.partition(":") for line in text.splitlines() if not line.startswith("#")]
    fields = {name.strip(): value.split("#")[0].strip() for name, colon, value in pairs if colon}
    for field in ("model_name_or_path", "base_model", "pretrained_model_name_or_path"):
        if field in fields:
            return _settings(field, fields[field].strip("'\""))
    if "base_emb_dim" in fields:
        return f"these are MaxText's settings; {_ANOTHER}"
    if len(fields) > 2 and not text.lstrip().startswith(("{", "[", "<")):
        return f"this looks like YAML, another program's settings; {_ANOTHER}"
    return None
