"""The weight tensors of each architecture family, as transformers 5.23 builds them.

One function a family turns config fields into an `Architecture`. Tensor names are transformers'
own (the layer's number left out), so that each can be compared with the real model. A new family
is one more function, its line in `FAMILIES`, and its defaults in `fields.py`.
"""

from __future__ import annotations

from collections.abc import Callable

from .fields import Fields
from .weights import Architecture, Block, Weight, conv1d, head, layer_norm, linear, rms_norm


def _gpt2(f: Fields) -> Architecture:
    vocab, hidden, layers = f.size("vocab_size"), f.size("n_embd"), f.layers("n_layer")
    heads, positions = f.size("n_head"), f.size("n_positions")
    head_dim = f.divides("n_head", "n_embd", heads, hidden)
    ffn = f.size("n_inner", 4 * hidden)
    tied = f.flag("tie_word_embeddings")
    weights = (
        *layer_norm("h.*.ln_1", hidden),
        *conv1d("h.*.attn.c_attn", 3 * hidden, hidden, "attention"),
        *conv1d("h.*.attn.c_proj", hidden, hidden, "attention"),
        *layer_norm("h.*.ln_2", hidden),
        *conv1d("h.*.mlp.c_fc", ffn, hidden, "mlp"),
        *conv1d("h.*.mlp.c_proj", hidden, ffn, "mlp"),
    )
    # Dropout after the block's last matmul saves a mask, so the matmul is recomputed to reach it.
    last = None if f.rate("resid_pdrop") else "h.*.mlp.c_proj.weight"
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        Weight("wpe.weight", (positions, hidden), "embedding", "lookup"),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied),
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
        *layer_norm("layers.*.input_layernorm", hidden),
        *layer_norm("layers.*.post_attention_layernorm", hidden),
        *linear("layers.*.attention.query_key_value", 3 * hidden, hidden, "attention", bias),
        *linear("layers.*.attention.dense", hidden, hidden, "attention", bias),
        *linear("layers.*.mlp.dense_h_to_4h", ffn, hidden, "mlp", True),
        *linear("layers.*.mlp.dense_4h_to_h", hidden, ffn, "mlp", True),
    )
    last = None if f.rate("hidden_dropout") else "layers.*.mlp.dense_4h_to_h.weight"
    outer = (
        Weight("embed_in.weight", (vocab, hidden), "embedding", "lookup"),
        *layer_norm("final_layer_norm", hidden),
        *head(vocab, hidden, tied),
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
            for weight in linear(f"layers.*.self_attn.{name}", hidden, hidden, "attention", bias)
        ),
        *layer_norm("layers.*.self_attn_layer_norm", hidden, affine),
        *linear("layers.*.fc1", ffn, hidden, "mlp", bias),
        *linear("layers.*.fc2", hidden, ffn, "mlp", bias),
        *layer_norm("layers.*.final_layer_norm", hidden, affine),
    )
    final_norm = norm_first and not f.config.get("_remove_final_layer_norm", False)
    projected = width != hidden
    outer = (
        Weight("embed_tokens.weight", (vocab, width), "embedding", "lookup"),
        # transformers keeps two rows more than positions (an offset from padding in fairseq)
        Weight("embed_positions.weight", (positions + 2, hidden), "embedding", "lookup"),
        *(linear("project_in", hidden, width, "embedding") if projected else ()),
        *(linear("project_out", width, hidden, "head") if projected else ()),
        *(layer_norm("final_layer_norm", hidden, affine) if final_norm else ()),
        *head(vocab, width, tied),
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
        *linear(f"{prefix}.q_proj", heads * head_dim, hidden, "attention", biased),
        *linear(f"{prefix}.k_proj", kv_heads * head_dim, hidden, "attention", biased),
        *linear(f"{prefix}.v_proj", kv_heads * head_dim, hidden, "attention", biased),
        *linear(f"{prefix}.o_proj", hidden, heads * head_dim, "attention", out_biased),
    )
    if f.family == "olmo2":  # normalises all heads together
        widths = (heads * head_dim, kv_heads * head_dim)
    elif f.family in ("qwen3", "qwen3_moe", "gemma3_text"):  # normalises each head
        widths = (head_dim, head_dim)
    else:
        return weights
    return (
        *weights,
        *rms_norm(f"{prefix}.q_norm", widths[0]),
        *rms_norm(f"{prefix}.k_norm", widths[1]),
    )


def _gated_mlp(prefix, hidden, ffn, bias=False) -> tuple[Weight, ...]:
    return (
        *linear(f"{prefix}.gate_proj", ffn, hidden, "mlp", bias),
        *linear(f"{prefix}.up_proj", ffn, hidden, "mlp", bias),
        *linear(f"{prefix}.down_proj", hidden, ffn, "mlp", bias),
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
        for weight in rms_norm(f"layers.*.{name}_layernorm", hidden)
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
        *rms_norm("norm", hidden),
        *head(vocab, hidden, tied),
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
        queries = linear(f"{prefix}.q_proj", heads * query, hidden, "attention")
    else:
        rank = f.size("q_lora_rank")
        queries = (
            *linear(f"{prefix}.q_a_proj", rank, hidden, "attention", bias),
            *rms_norm(f"{prefix}.q_a_layernorm", rank),
            *linear(f"{prefix}.q_b_proj", heads * query, rank, "attention"),
        )
    common = (
        *queries,
        *linear(f"{prefix}.kv_a_proj_with_mqa", kv_rank + rope, hidden, "attention", bias),
        *rms_norm(f"{prefix}.kv_a_layernorm", kv_rank),
        *linear(f"{prefix}.kv_b_proj", heads * (nope + value), kv_rank, "attention"),
        *linear(f"{prefix}.o_proj", hidden, heads * value, "attention", bias),
        *rms_norm("layers.*.input_layernorm", hidden),
        *rms_norm("layers.*.post_attention_layernorm", hidden),
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
        *rms_norm("norm", hidden),
        *head(vocab, hidden, tied),
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
