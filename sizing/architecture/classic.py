"""The weights of the families before Llama, each in a function of its own.

Tensor names are those of transformers 5.23 (the layer's number left out).
"""

from __future__ import annotations

from dataclasses import replace

from .fields import Fields
from .weights import Architecture, Block, Weight, conv1d, head, layer_norm, linear, places


def gpt2(f: Fields) -> Architecture:
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
        *(_cross_attention(hidden) if f.flag("add_cross_attention") else ()),
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


def gpt_neox(f: Fields) -> Architecture:
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


def opt(f: Fields) -> Architecture:
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


def _cross_attention(hidden: int) -> tuple[Weight, ...]:
    """Attention to an encoder: built where the config asks, not run on text alone."""
    weights = (
        *layer_norm("h.*.ln_cross_attn", hidden),
        *conv1d("h.*.crossattention.c_attn", 2 * hidden, hidden, "attention"),
        *conv1d("h.*.crossattention.q_attn", hidden, hidden, "attention"),
        *conv1d("h.*.crossattention.c_proj", hidden, hidden, "attention"),
    )
    return tuple(replace(weight, kind="idle", trained=False) for weight in weights)


def gpt_bigcode(f: Fields) -> Architecture:
    """StarCoder 1: GPT-2 with one key/value head."""
    vocab, hidden, layers = f.size("vocab_size"), f.size("n_embd"), f.layers("n_layer")
    heads, positions = f.size("n_head"), f.size("n_positions")
    head_dim = f.divides("n_head", "n_embd", heads, hidden)
    kv_heads = 1 if f.flag("multi_query") else heads
    ffn = f.size("n_inner", 4 * hidden)
    tied = f.flag("tie_word_embeddings")
    qkv = hidden + 2 * kv_heads * head_dim
    weights = (
        *layer_norm("h.*.ln_1", hidden),
        *linear("h.*.attn.c_attn", qkv, hidden, "attention", True),
        *linear("h.*.attn.c_proj", hidden, hidden, "attention", True),
        *layer_norm("h.*.ln_2", hidden),
        *linear("h.*.mlp.c_fc", ffn, hidden, "mlp", True),
        *linear("h.*.mlp.c_proj", hidden, ffn, "mlp", True),
    )
    last = None if f.rate("resid_pdrop") else "h.*.mlp.c_proj.weight"
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        Weight("wpe.weight", (positions, hidden), "embedding", "lookup"),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied),
    )
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(
        vocab, hidden, heads, kv_heads, head_dim, ffn, tied, outer, (block,), positions
    )


def gptj(f: Fields) -> Architecture:
    """GPT-J: attention and MLP side by side, a head with biases."""
    vocab, hidden, layers = f.size("vocab_size"), f.size("n_embd"), f.layers("n_layer")
    heads = f.size("n_head")
    head_dim = f.divides("n_head", "n_embd", heads, hidden)
    ffn = f.size("n_inner", 4 * hidden)
    tied = f.flag("tie_word_embeddings")
    weights = (
        *layer_norm("h.*.ln_1", hidden),
        *(
            weight
            for name in ("k_proj", "v_proj", "q_proj", "out_proj")
            for weight in linear(f"h.*.attn.{name}", hidden, hidden, "attention")
        ),
        *linear("h.*.mlp.fc_in", ffn, hidden, "mlp", True),
        *linear("h.*.mlp.fc_out", hidden, ffn, "mlp", True),
    )
    last = None if f.rate("resid_pdrop") else "h.*.mlp.fc_out.weight"
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied, bias=True),
    )
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    # positions are rotary, but their table is made for so many
    positions = f.size("n_positions")
    return Architecture(
        vocab, hidden, heads, heads, head_dim, ffn, tied, outer, (block,), positions
    )


def gpt_neo(f: Fields) -> Architecture:
    """GPT-Neo: GPT-2 whose layers look far and near in turn."""
    vocab, hidden, layers = f.size("vocab_size"), f.size("hidden_size"), f.layers("num_layers")
    heads, positions = f.size("num_heads"), f.size("max_position_embeddings")
    head_dim = f.divides("num_heads", "hidden_size", heads, hidden)
    ffn = f.size("intermediate_size", 4 * hidden)
    tied = f.flag("tie_word_embeddings")
    prefix = "h.*.attn.attention"
    weights = (
        *layer_norm("h.*.ln_1", hidden),
        *(
            weight
            for name in ("k_proj", "v_proj", "q_proj")
            for weight in linear(f"{prefix}.{name}", hidden, hidden, "attention")
        ),
        *linear(f"{prefix}.out_proj", hidden, hidden, "attention", True),
        *layer_norm("h.*.ln_2", hidden),
        *linear("h.*.mlp.c_fc", ffn, hidden, "mlp", True),
        *linear("h.*.mlp.c_proj", hidden, ffn, "mlp", True),
    )
    last = None if f.rate("resid_dropout") else "h.*.mlp.c_proj.weight"
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        Weight("wpe.weight", (positions, hidden), "embedding", "lookup"),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied),
    )
    windows = local_layers(f, layers)
    blocks = tuple(
        Block(
            windows.count(w),
            weights,
            heads,
            head_dim,
            head_dim,
            window=w,
            last_matmul=last,
            places=places(windows, w),
        )
        for w in dict.fromkeys(windows)
    )
    return Architecture(vocab, hidden, heads, heads, head_dim, ffn, tied, outer, blocks, positions)


def local_layers(f: Fields, layers: int) -> list[int | None]:
    """The window of each layer: attention_types is [[pattern, times], ...]."""
    window = f.size("window_size")
    types = f.items("attention_types") or [[["global", "local"], 12]]
    try:
        kinds = [kind for pattern, times in types for _ in range(times) for kind in pattern]
    except (TypeError, ValueError):
        kinds = None
    if kinds is None or len(kinds) != layers or not set(kinds) <= {"global", "local"}:
        raise ValueError(
            f"attention_types: {types!r} given; allowed: [[pattern, times], ...] of 'global' and "
            f"'local' for {layers} layers"
        )
    return [window if kind == "local" else None for kind in kinds]


def bloom(f: Fields) -> Architecture:
    """BLOOM: positions as a bias on the scores, a norm after the embedding."""
    vocab, hidden, layers = f.size("vocab_size"), f.size("hidden_size"), f.layers("n_layer")
    heads = f.size("n_head")
    head_dim = f.divides("n_head", "hidden_size", heads, hidden)
    tied = f.flag("tie_word_embeddings")
    weights = (
        *layer_norm("h.*.input_layernorm", hidden),
        *linear("h.*.self_attention.query_key_value", 3 * hidden, hidden, "attention", True),
        *linear("h.*.self_attention.dense", hidden, hidden, "attention", True),
        *layer_norm("h.*.post_attention_layernorm", hidden),
        *linear("h.*.mlp.dense_h_to_4h", 4 * hidden, hidden, "mlp", True),
        *linear("h.*.mlp.dense_4h_to_h", hidden, 4 * hidden, "mlp", True),
    )
    last = None if f.rate("hidden_dropout") else "h.*.mlp.dense_4h_to_h.weight"
    outer = (
        Weight("word_embeddings.weight", (vocab, hidden), "embedding", "lookup"),
        *layer_norm("word_embeddings_layernorm", hidden),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied),
    )
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(vocab, hidden, heads, heads, head_dim, 4 * hidden, tied, outer, (block,))


def mpt(f: Fields) -> Architecture:
    """MPT: no biases at all, positions as a bias on the scores."""
    vocab, hidden, layers = f.size("vocab_size"), f.size("d_model"), f.layers("n_layers")
    heads = f.size("n_heads")
    head_dim = f.divides("n_heads", "d_model", heads, hidden)
    tied = f.flag("tie_word_embeddings")
    weights = (
        *layer_norm("blocks.*.norm_1", hidden)[:1],
        *linear("blocks.*.attn.Wqkv", 3 * hidden, hidden, "attention"),
        *linear("blocks.*.attn.out_proj", hidden, hidden, "attention"),
        *layer_norm("blocks.*.norm_2", hidden)[:1],
        *linear("blocks.*.ffn.up_proj", 4 * hidden, hidden, "mlp"),
        *linear("blocks.*.ffn.down_proj", hidden, 4 * hidden, "mlp"),
    )
    outer = (
        Weight("wte.weight", (vocab, hidden), "embedding", "lookup"),
        *layer_norm("norm_f", hidden)[:1],
        *head(vocab, hidden, tied),
    )
    last = None if mpt_dropout(f.config) else "blocks.*.ffn.down_proj.weight"
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    longest = f.size("max_seq_len")  # the bias is made for so many
    return Architecture(
        vocab, hidden, heads, heads, head_dim, 4 * hidden, tied, outer, (block,),
        max_positions=longest,
    )  # fmt: skip


def mpt_dropout(config: dict) -> float:
    """MPT's one rate, of attention and of what it adds, stands in its attn_config."""
    nested = config.get("attn_config")
    return nested.get("attn_pdrop", 0.0) if isinstance(nested, dict) else 0.0


def falcon(f: Fields) -> Architecture:
    """Falcon, in its three forms: 7B (one key/value head), 40B and 180B (groups), RW (alibi)."""
    vocab, hidden = f.size("vocab_size"), f.size("hidden_size")
    layers, heads = f.layers(), f.size("num_attention_heads")
    head_dim = f.divides("num_attention_heads", "hidden_size", heads, hidden)
    ffn = f.size("ffn_hidden_size", 4 * hidden)
    tied, bias, groups = f.flag("tie_word_embeddings"), f.flag("bias"), falcon_groups(f)
    weights = (
        *(w for name in falcon_norms(f) for w in layer_norm(f"h.*.{name}", hidden)),
        *linear(
            "h.*.self_attention.query_key_value",
            hidden + 2 * groups * head_dim,
            hidden,
            "attention",
            bias,
        ),
        *linear("h.*.self_attention.dense", hidden, hidden, "attention", bias),
        *linear("h.*.mlp.dense_h_to_4h", ffn, hidden, "mlp", bias),
        *linear("h.*.mlp.dense_4h_to_h", hidden, ffn, "mlp", bias),
    )
    outer = (
        Weight("word_embeddings.weight", (vocab, hidden), "embedding", "lookup"),
        *layer_norm("ln_f", hidden),
        *head(vocab, hidden, tied),
    )
    # its own product of matrices: x @ W.T, with a bias added after it
    last = None if f.rate("hidden_dropout") else "h.*.mlp.dense_4h_to_h.weight"
    block = Block(layers, weights, heads, head_dim, head_dim, last_matmul=last)
    return Architecture(vocab, hidden, heads, groups, head_dim, ffn, tied, outer, (block,))


def falcon_groups(f: Fields) -> int:
    heads = f.size("num_attention_heads")
    if f.flag("new_decoder_architecture"):
        groups = f.size("num_kv_heads", heads)
        f.divides("num_kv_heads", "num_attention_heads", groups, heads)
        return groups
    return 1 if f.flag("multi_query") else heads


def falcon_norms(f: Fields) -> tuple[str, ...]:
    if not f.flag("parallel_attn"):
        return ("input_layernorm", "post_attention_layernorm")
    new = f.flag("new_decoder_architecture")
    two = f.size("num_ln_in_parallel_attn", 2 if new else 1) == 2
    return ("ln_attn", "ln_mlp") if two else ("input_layernorm",)
