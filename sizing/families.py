"""The weight tensors of each architecture family, as transformers 5.23 builds them.

One function a family turns config fields into an `Architecture`. Tensor names are transformers'
own (the layer's number left out), so that each can be compared with the real model. A new family
is one more function and its line in `FAMILIES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod


@dataclass(frozen=True)
class Weight:
    """One weight tensor: its name and shape in transformers, the part of the model it counts in.

    `kind` says how a token meets it: "matrix" (multiplied with each token), "lookup" (one row is
    read), "vector" (norm or bias, elementwise). Routed experts are stacked in one tensor of shape
    (experts, out, in); `chosen` of them see a given token.
    """

    name: str
    shape: tuple[int, ...]
    part: str
    kind: str = "matrix"
    chosen: int | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def active(self) -> int:
        """Elements that one token meets."""
        if self.chosen is None:
            return self.elements
        return self.elements // self.shape[0] * self.chosen


@dataclass(frozen=True)
class Block:
    """A kind of layer: `count` layers that have these weights and this attention.

    `query_dim` and `value_dim` are the widths of a head in the two attention matmuls; `window` is
    the sliding window in tokens (None: all). `last_matmul` names the weight that PyTorch's
    checkpointing does not multiply again (no tensor is saved after it), None if it must.
    """

    count: int
    weights: tuple[Weight, ...]
    heads: int
    query_dim: int
    value_dim: int
    window: int | None = None
    last_matmul: str | None = None


@dataclass(frozen=True)
class Architecture:
    vocab: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool
    outer: tuple[Weight, ...]
    blocks: tuple[Block, ...]
    max_positions: int | None = None


class Fields:
    """Config fields, checked as they are taken. `config` has the family's defaults filled in."""

    def __init__(self, family: str, config: dict):
        self.family = family
        aliases = _ALIASES.get(family, {})
        renamed = {aliases.get(key, key): value for key, value in config.items()}
        self.config = {**_DEFAULTS[family], **renamed, "model_type": family}

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = 10**9) -> int:
        """A whole number; a missing or null field takes the default, or is an error without one."""
        value = self.config.get(name)
        if value is None:
            value = default
        if value is None:
            raise ValueError(
                f"{name}: missing from the {self.family!r} config; needed: a whole number "
                f">= {least}"
            )
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name}: {value!r} given; allowed: a whole number >= {least} and <= {most:,}"
            )
        return value

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers; as each may be of its own kind, there is a limit."""
        return self.size(name, most=100_000)

    def items(self, name: str) -> list:
        """A list; a missing or null one is empty."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {value!r} given; allowed: a list")
        return list(value or [])

    def flag(self, name: str) -> bool:
        value = self.config.get(name)
        if value is None:
            value = _DEFAULTS[self.family].get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {value!r} given; allowed: true or false")
        return value

    def rate(self, name: str) -> float:
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name}: {value!r} given; allowed: a number from 0 to 1")
        return value

    def divides(self, part: str, whole: str, part_value: int, whole_value: int) -> int:
        """whole / part, an error if it leaves a remainder."""
        if whole_value % part_value:
            raise ValueError(
                f"{part}: {part_value} given; allowed: a divisor of {whole} = {whole_value}"
            )
        return whole_value // part_value


def _linear(name, out, into, part, bias=False) -> tuple[Weight, ...]:
    weight = Weight(f"{name}.weight", (out, into), part)
    return (weight, Weight(f"{name}.bias", (out,), part, "vector")) if bias else (weight,)


def _conv1d(name, out, into, part) -> tuple[Weight, ...]:
    # GPT-2 keeps its matrices transposed, shape (in, out)
    return Weight(f"{name}.weight", (into, out), part), Weight(
        f"{name}.bias", (out,), part, "vector"
    )


def _rms_norm(name, width) -> tuple[Weight, ...]:
    return (Weight(f"{name}.weight", (width,), "norm", "vector"),)


def _layer_norm(name, width, affine=True) -> tuple[Weight, ...]:
    if not affine:
        return ()
    return (*_rms_norm(name, width), Weight(f"{name}.bias", (width,), "norm", "vector"))


def _head(vocab, width, tied) -> tuple[Weight, ...]:
    return () if tied else (Weight("lm_head.weight", (vocab, width), "head"),)


def _gpt2(f: Fields) -> Architecture:
    vocab, hidden, layers = f.size("vocab_size"), f.size("n_embd"), f.layers("n_layer")
    heads, positions = f.size("n_head"), f.size("n_positions")
    head_dim = f.divides("n_head", "n_embd", heads, hidden)
    ffn = f.size("n_inner", 4 * hidden)
    tied = f.flag("tie_word_embeddings")
    weights = (
        *_layer_norm("h.*.ln_1", hidden),
        *_conv1d("h.*.attn.c_attn", 3 * hidden, hidden, "attention"),
        *_conv1d("h.*.attn.c_proj", hidden, hidden, "attention"),
        *_layer_norm("h.*.ln_2", hidden),
        *_conv1d("h.*.mlp.c_fc", ffn, hidden, "mlp"),
        *_conv1d("h.*.mlp.c_proj", hidden, ffn, "mlp"),
    )
    # Dropout after the block's last matmul saves a mask, so the matmul is recomputed to reach it.
    last = None if f.rate("resid_pdrop") else "h.*.mlp.c_proj.weight"
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        Weight("wpe.weight", (positions, hidden), "embedding", "lookup"),
        *_layer_norm("ln_f", hidden),
        *_head(vocab, hidden, tied),
    )
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(
        vocab, hidden, heads, heads, head_dim, ffn, tied, outer, (block,), max_positions=positions
    )


def _gpt_neox(f: Fields) -> Architecture:
    vocab, hidden, ffn = f.size("vocab_size"), f.size("hidden_size"), f.size("intermediate_size")
    layers, heads = f.layers(), f.size("num_attention_heads")
    head_dim = f.divides("num_attention_heads", "hidden_size", heads, hidden)
    tied, bias = f.flag("tie_word_embeddings"), f.flag("attention_bias")
    weights = (
        *_layer_norm("layers.*.input_layernorm", hidden),
        *_layer_norm("layers.*.post_attention_layernorm", hidden),
        *_linear("layers.*.attention.query_key_value", 3 * hidden, hidden, "attention", bias),
        *_linear("layers.*.attention.dense", hidden, hidden, "attention", bias),
        *_linear("layers.*.mlp.dense_h_to_4h", ffn, hidden, "mlp", True),
        *_linear("layers.*.mlp.dense_4h_to_h", hidden, ffn, "mlp", True),
    )
    last = None if f.rate("hidden_dropout") else "layers.*.mlp.dense_4h_to_h.weight"
    outer = (
        Weight("embed_in.weight", (vocab, hidden), "embedding", "lookup"),
        *_layer_norm("final_layer_norm", hidden),
        *_head(vocab, hidden, tied),
    )
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(vocab, hidden, heads, heads, head_dim, ffn, tied, outer, (block,))


def _opt(f: Fields) -> Architecture:
    vocab, hidden, ffn = f.size("vocab_size"), f.size("hidden_size"), f.size("ffn_dim")
    layers, heads = f.layers(), f.size("num_attention_heads")
    positions = f.size("max_position_embeddings")
    head_dim = f.divides("num_attention_heads", "hidden_size", heads, hidden)
    width = f.size("word_embed_proj_dim", hidden)
    tied, bias = f.flag("tie_word_embeddings"), f.flag("enable_bias")
    affine, norm_first = f.flag("layer_norm_elementwise_affine"), f.flag("do_layer_norm_before")
    weights = (
        *(
            weight
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
            for weight in _linear(f"layers.*.self_attn.{name}", hidden, hidden, "attention", bias)
        ),
        *_layer_norm("layers.*.self_attn_layer_norm", hidden, affine),
        *_linear("layers.*.fc1", ffn, hidden, "mlp", bias),
        *_linear("layers.*.fc2", hidden, ffn, "mlp", bias),
        *_layer_norm("layers.*.final_layer_norm", hidden, affine),
    )
    final_norm = norm_first and not f.config.get("_remove_final_layer_norm", False)
    projected = width != hidden
    outer = (
        Weight("embed_tokens.weight", (vocab, width), "embedding", "lookup"),
        # transformers keeps two rows more than positions (an offset from padding in fairseq)
        Weight("embed_positions.weight", (positions + 2, hidden), "embedding", "lookup"),
        *(_linear("project_in", hidden, width, "embedding") if projected else ()),
        *(_linear("project_out", width, hidden, "head") if projected else ()),
        *(_layer_norm("final_layer_norm", hidden, affine) if final_norm else ()),
        *_head(vocab, width, tied),
    )
    # A norm or a dropout after fc2 saves fc2's output: it is recomputed then.
    last = None if f.rate("dropout") or not norm_first else "layers.*.fc2.weight"
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(
        vocab, hidden, heads, heads, head_dim, ffn, tied, outer, (block,), max_positions=positions
    )


# The others (Mistral, Mixtral) have no biases whatever their config says.
_BIAS_BY_CONFIG = ("llama", "qwen3", "gemma2", "gemma3_text", "olmo2", "qwen3_moe")


def _attention(f: Fields, hidden, heads, kv_heads, head_dim) -> tuple[Weight, ...]:
    """Query, key, value and output projections with the norms on queries and keys, if any."""
    out_biased = f.family in _BIAS_BY_CONFIG and f.flag("attention_bias")
    biased = out_biased or f.family == "qwen2"  # Qwen2 always has biases, but none at the output
    prefix = "layers.*.self_attn"
    weights = (
        *_linear(f"{prefix}.q_proj", heads * head_dim, hidden, "attention", biased),
        *_linear(f"{prefix}.k_proj", kv_heads * head_dim, hidden, "attention", biased),
        *_linear(f"{prefix}.v_proj", kv_heads * head_dim, hidden, "attention", biased),
        *_linear(f"{prefix}.o_proj", hidden, heads * head_dim, "attention", out_biased),
    )
    if f.family == "olmo2":  # normalises all heads together
        widths = (heads * head_dim, kv_heads * head_dim)
    elif f.family in ("qwen3", "qwen3_moe", "gemma3_text"):  # normalises each head
        widths = (head_dim, head_dim)
    else:
        return weights
    return (
        *weights,
        *_rms_norm(f"{prefix}.q_norm", widths[0]),
        *_rms_norm(f"{prefix}.k_norm", widths[1]),
    )


def _gated_mlp(prefix, hidden, ffn, bias=False) -> tuple[Weight, ...]:
    return (
        *_linear(f"{prefix}.gate_proj", ffn, hidden, "mlp", bias),
        *_linear(f"{prefix}.up_proj", ffn, hidden, "mlp", bias),
        *_linear(f"{prefix}.down_proj", hidden, ffn, "mlp", bias),
    )


def _experts(f: Fields, hidden, ffn, experts, chosen) -> tuple[Weight, ...]:
    """Router and the stacked routed experts, each a gated MLP (gate and up in one tensor)."""
    if chosen > experts:
        raise ValueError(f"num_experts_per_tok: {chosen} given; allowed: 1 to {experts} experts")
    return (
        Weight("layers.*.mlp.gate.weight", (experts, hidden), "router"),
        Weight(
            "layers.*.mlp.experts.gate_up_proj", (experts, 2 * ffn, hidden), "mlp", chosen=chosen
        ),
        Weight("layers.*.mlp.experts.down_proj", (experts, hidden, ffn), "mlp", chosen=chosen),
    )


_NORMS = {
    "gemma2": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    "gemma3_text": ("input", "post_attention", "pre_feedforward", "post_feedforward"),
    "olmo2": ("post_attention", "post_feedforward"),
}

# Here transformers insists that heads divide the width even where head_dim is given.
_STRICT_HEADS = ("llama", "gemma2", "gemma3_text")


def _llama_like(f: Fields) -> Architecture:
    """Llama and the families that differ from it in norms, biases, windows and experts."""
    vocab, hidden, ffn = f.size("vocab_size"), f.size("hidden_size"), f.size("intermediate_size")
    layers, heads = f.layers(), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", heads)
    f.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    if f.config.get("head_dim") is None or f.family in _STRICT_HEADS:
        f.divides("num_attention_heads", "hidden_size", heads, hidden)
    head_dim = f.size("head_dim", hidden // heads)
    tied = f.flag("tie_word_embeddings")
    attention = _attention(f, hidden, heads, kv_heads, head_dim)
    norms = tuple(
        weight
        for name in _NORMS.get(f.family, ("input", "post_attention"))
        for weight in _rms_norm(f"layers.*.{name}_layernorm", hidden)
    )
    dense = _gated_mlp("layers.*.mlp", hidden, ffn, f.family == "llama" and f.flag("mlp_bias"))
    dense_last = None if f.family in _NORMS else "layers.*.mlp.down_proj.weight"
    sparse = _sparse_layers(f, layers)
    experts = _routed(f, hidden, ffn) if any(sparse) else ()
    kinds = list(zip(sparse, _windows(f, layers), strict=True))
    blocks = tuple(
        Block(
            kinds.count(kind),
            attention + norms + (experts if kind[0] else dense),
            heads,
            head_dim,
            head_dim,
            window=kind[1],
            last_matmul=None if kind[0] else dense_last,
        )
        for kind in dict.fromkeys(kinds)
    )
    outer = (
        Weight("embed_tokens.weight", (vocab, hidden), "embedding", "lookup"),
        *_rms_norm("norm", hidden),
        *_head(vocab, hidden, tied),
    )
    return Architecture(vocab, hidden, heads, kv_heads, head_dim, ffn, tied, outer, blocks)


def _routed(f: Fields, hidden, ffn) -> tuple[Weight, ...]:
    width = ffn if f.family == "mixtral" else f.size("moe_intermediate_size")
    experts = f.size("num_local_experts")
    return _experts(f, hidden, width, experts, f.size("num_experts_per_tok"))


def _sparse_layers(f: Fields, layers) -> list[bool]:
    """Which layers have experts instead of a dense MLP."""
    if f.family == "mixtral":
        return [True] * layers
    if f.family != "qwen3_moe":
        return [False] * layers
    dense = f.items("mlp_only_layers")
    step = f.size("decoder_sparse_step")
    return [i not in dense and (i + 1) % step == 0 for i in range(layers)]


def _windows(f: Fields, layers) -> list[int | None]:
    """The sliding window of each layer in tokens, None where it sees everything."""
    if f.family in ("llama", "olmo2"):
        return [None] * layers
    if f.config.get("use_sliding_window") is False:
        return [None] * layers
    window = f.config.get("sliding_window")
    if window is None:
        return [None] * layers
    window = f.size("sliding_window")
    kinds = f.items("layer_types") or _default_layer_types(f, layers)
    if len(kinds) != layers:
        raise ValueError(
            f"layer_types: {len(kinds)} entries given; allowed: one for each of the {layers} layers"
        )
    return [window if kind == "sliding_attention" else None for kind in kinds]


def _default_layer_types(f: Fields, layers) -> list[str]:
    if f.family in ("gemma2", "gemma3_text"):
        every = 2 if f.family == "gemma2" else f.size("sliding_window_pattern", 6)
        full = [(i + 1) % every == 0 for i in range(layers)]
    elif f.family in ("qwen2", "qwen3"):
        full = [i < f.size("max_window_layers", least=0) for i in range(layers)]
    else:  # mistral, mixtral, qwen3_moe: every layer slides
        full = [False] * layers
    return ["full_attention" if is_full else "sliding_attention" for is_full in full]


def _deepseek_v3(f: Fields) -> Architecture:
    """Latent attention, shared and routed experts, dense first layers (arXiv:2412.19437)."""
    vocab, hidden, ffn = f.size("vocab_size"), f.size("hidden_size"), f.size("intermediate_size")
    layers, heads = f.layers(), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", heads)
    f.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    rope, nope = f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim")
    value, kv_rank = f.size("v_head_dim"), f.size("kv_lora_rank")
    query = nope + rope
    tied, bias = f.flag("tie_word_embeddings"), f.flag("attention_bias")
    prefix = "layers.*.self_attn"
    if f.config.get("q_lora_rank") is None:
        queries = _linear(f"{prefix}.q_proj", heads * query, hidden, "attention")
    else:
        rank = f.size("q_lora_rank")
        queries = (
            *_linear(f"{prefix}.q_a_proj", rank, hidden, "attention", bias),
            *_rms_norm(f"{prefix}.q_a_layernorm", rank),
            *_linear(f"{prefix}.q_b_proj", heads * query, rank, "attention"),
        )
    common = (
        *queries,
        *_linear(f"{prefix}.kv_a_proj_with_mqa", kv_rank + rope, hidden, "attention", bias),
        *_rms_norm(f"{prefix}.kv_a_layernorm", kv_rank),
        *_linear(f"{prefix}.kv_b_proj", heads * (nope + value), kv_rank, "attention"),
        *_linear(f"{prefix}.o_proj", hidden, heads * value, "attention", bias),
        *_rms_norm("layers.*.input_layernorm", hidden),
        *_rms_norm("layers.*.post_attention_layernorm", hidden),
    )
    expert_width = f.size("moe_intermediate_size")
    sparse = (
        *_experts(
            f, hidden, expert_width, f.size("n_routed_experts"), f.size("num_experts_per_tok")
        ),
        *_gated_mlp(
            "layers.*.mlp.shared_experts", hidden, expert_width * f.size("n_shared_experts")
        ),
    )
    dense_layers = min(f.size("first_k_dense_replace", 0, least=0), layers)
    kinds = (
        (dense_layers, _gated_mlp("layers.*.mlp", hidden, ffn), "layers.*.mlp.down_proj.weight"),
        (layers - dense_layers, sparse, "layers.*.mlp.shared_experts.down_proj.weight"),
    )
    blocks = tuple(
        Block(count, common + mlp, heads, query, value, last_matmul=last)
        for count, mlp, last in kinds
        if count
    )
    outer = (
        Weight("embed_tokens.weight", (vocab, hidden), "embedding", "lookup"),
        *_rms_norm("norm", hidden),
        *_head(vocab, hidden, tied),
    )
    return Architecture(vocab, hidden, heads, kv_heads, query, ffn, tied, outer, blocks)


FAMILIES: dict[str, Callable[[Fields], Architecture]] = {
    "gpt2": _gpt2,
    "gpt_neox": _gpt_neox,
    "opt": _opt,
    "deepseek_v3": _deepseek_v3,
    **dict.fromkeys(
        (
            "llama",
            "mistral",
            "qwen2",
            "qwen3",
            "gemma2",
            "gemma3_text",
            "olmo2",
            "mixtral",
            "qwen3_moe",
        ),
        _llama_like,
    ),
}

# GPT-2's config answers to the common names too.
_ALIASES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    "qwen3_moe": {"num_experts": "num_local_experts"},
    "mixtral": {"num_experts": "num_local_experts"},
    "deepseek_v3": {"num_local_experts": "n_routed_experts"},
}

# transformers 5.23's defaults of the optional fields that size a model. The sizes that make a model
# what it is (width, layers, heads, vocabulary, MLP) have no default here: a config must state them.
_DEFAULTS: dict[str, dict] = {
    "gpt2": {
        "n_positions": 1024,
        "n_inner": None,
        "tie_word_embeddings": True,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
    },
    "gpt_neox": {
        "tie_word_embeddings": False,
        "attention_bias": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_parallel_residual": True,
    },
    "opt": {
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "do_layer_norm_before": True,
        "word_embed_proj_dim": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
    },
    "llama": {
        "num_key_value_heads": None,
        "head_dim": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": {
        "num_key_value_heads": 8,
        "head_dim": None,
        "tie_word_embeddings": False,
        "sliding_window": 4096,
    },
    "qwen2": {
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "gemma2": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "sliding_window": 4096,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    "olmo2": {"num_key_value_heads": None, "tie_word_embeddings": False, "attention_bias": False},
    "mixtral": {
        "num_key_value_heads": 8,
        "head_dim": None,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "deepseek_v3": {
        "num_key_value_heads": 128,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "first_k_dense_replace": 3,
    },
}
