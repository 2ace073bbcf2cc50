"""The weights of Llama and of every family that differs from it by a row of `family_rows`."""

from __future__ import annotations

from collections.abc import Iterable

from .family_rows import TRAITS
from .fields import Fields
from .traits import Experts, Traits
from .weights import Architecture, Block, Weight, head, layer_norm, linear, places, rms_norm

Kind = tuple[bool, int | None, bool]  # of a layer: sparse, window, rotated


def decoder(f: Fields) -> Architecture:
    """Any family of `TRAITS` with the usual attention."""
    t = TRAITS[f.family]
    heads = f.size("num_attention_heads")
    hidden = f.size("hidden_size")
    kv_heads = f.size("num_key_value_heads", heads)
    f.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    if not t.head_dim or t.whole_heads or f.get("head_dim") is None:
        f.divides("num_attention_heads", "hidden_size", heads, hidden)
    head_dim = f.size("head_dim", hidden // heads) if t.head_dim else hidden // heads
    attention = _attention(f, t, hidden, heads, kv_heads, head_dim)
    return assemble(f, attention, heads, kv_heads, head_dim, head_dim)


def assemble(
    f: Fields, attention: tuple[Weight, ...], heads: int, kv_heads: int, query: int, value: int
) -> Architecture:
    """The model around the weights of one attention."""
    t = TRAITS[f.family]
    vocab, hidden, layers = f.size("vocab_size"), f.size("hidden_size"), f.layers()
    parallel = switched(f, t.parallel)
    attention += tuple(w for name in layer_norms(f, t) for w in norm(f, t, name, hidden))
    kinds = layer_kinds(f, layers)
    any_dense = any(not sparse for sparse, _, _ in kinds)
    ffn = f.size(t.mlp_width if any_dense else "intermediate_size")
    dense = _mlp(f, t, hidden, ffn) if any_dense else ()
    experts = _mixture(f, t, hidden) if any(sparse for sparse, _, _ in kinds) else ()
    blocks = tuple(
        Block(
            kinds.count(kind),
            attention + (experts if kind[0] else dense),
            heads,
            query,
            value,
            window=kind[1],
            last_matmul=last_matmul(f, t, kind[0], parallel),
            rotated=kind[2],
            places=places(kinds, kind),
        )
        for kind in dict.fromkeys(kinds)
    )
    tied, biased_head = f.flag("tie_word_embeddings"), switched(f, t.head_bias)
    outer = (
        Weight("embed_tokens.weight", (vocab, hidden), "embedding", "lookup"),
        *norm(f, t, t.final_norm, hidden, prefix=""),
        *head(vocab, hidden, tied, biased_head),
    )
    return Architecture(vocab, hidden, heads, kv_heads, query, ffn, tied, outer, blocks)


def switched(f: Fields, rule: bool | str) -> bool:
    """A rule of the traits: fixed, or the name of a flag in the config."""
    return f.flag(rule) if isinstance(rule, str) else rule


def layer_norms(f: Fields, t: Traits) -> tuple[str, ...]:
    """Names of the norms that stand around attention and MLP."""
    before, after, before_mlp, after_mlp = t.norms
    if t.norm_flag and not f.flag(t.norm_flag):
        after = after_mlp = None
    if switched(f, t.parallel):
        before_mlp = None
    return tuple(name for name in (before, after, before_mlp, after_mlp) if name)


def norm(f: Fields, t: Traits, name: str, width: int, prefix="layers.*.") -> Iterable[Weight]:
    if t.norm == "layer, no weights":
        return ()
    if t.norm.startswith("rms") or t.norm == "layer, in fp32":
        return rms_norm(f"{prefix}{name}", width)
    return layer_norm(f"{prefix}{name}", width)


def last_matmul(f: Fields, t: Traits, sparse: bool, parallel: bool) -> str | None:
    """The product that recompute does not run again: nothing after it keeps a tensor."""
    after_mlp = t.norms[3] is not None and not (t.norm_flag and not f.flag(t.norm_flag))
    dropped = t.dropouts[1] is not None and f.rate(t.dropouts[1]) > 0
    if after_mlp or dropped:
        return None
    if not sparse:
        return f"layers.*.{t.mlp_root}.{t.mlp_names[-1]}.weight"
    shared = t.experts.shared
    if shared is None or t.experts.shared_gate or t.experts.router == "fp32 softmax":
        return None  # the weighted sum over experts keeps its factors
    return f"layers.*.{shared}.down_proj.weight"


def _attention(f: Fields, t: Traits, hidden, heads, kv_heads, head_dim) -> tuple[Weight, ...]:
    """Query, key, value and output projections with the norms on queries and keys, if any."""
    biased, out_biased = switched(f, t.qkv_bias), switched(f, t.out_bias)
    prefix = "layers.*.self_attn"
    widths = [n * head_dim for n in (heads, kv_heads, kv_heads)]
    if t.fused_qkv:
        projections = linear(f"{prefix}.{t.fused_qkv}", sum(widths), hidden, "attention", biased)
    else:
        projections = tuple(
            weight
            for name, width in zip(("q_proj", "k_proj", "v_proj"), widths, strict=True)
            for weight in linear(f"{prefix}.{name}", width, hidden, "attention", biased)
        )
    sinks = (Weight(f"{prefix}.sinks", (heads,), "attention", "vector"),) if t.sinks else ()
    return (
        *projections,
        *linear(f"{prefix}.{t.out}", hidden, heads * head_dim, "attention", out_biased),
        *_qk_norms(f, t, prefix, heads, kv_heads, head_dim),
        *sinks,
    )


def _qk_norms(f: Fields, t: Traits, prefix, heads, kv_heads, head_dim) -> Iterable[Weight]:
    if t.qk_norm is None or (t.qk_flag and not f.flag(t.qk_flag)):
        return
    if t.qk_norm == "a norm a head":
        for name, count in zip(t.qk_names, (heads, kv_heads), strict=True):
            for head_number in range(count):
                yield from rms_norm(f"{prefix}.{name}.norms.{head_number}", head_dim)
        return
    shapes = {
        "each head": [(head_dim,), (head_dim,)],
        "all heads": [(heads * head_dim,), (kv_heads * head_dim,)],
        "heads apart": [(heads, head_dim), (kv_heads, head_dim)],
    }[t.qk_norm]
    for name, shape in zip(t.qk_names, shapes, strict=True):
        yield Weight(f"{prefix}.{name}.weight", shape, "norm", "vector")
        if t.norm == "layer":
            yield Weight(f"{prefix}.{name}.bias", shape, "norm", "vector")


def _mlp(f: Fields, t: Traits, hidden, ffn) -> tuple[Weight, ...]:
    prefix, bias = f"layers.*.{t.mlp_root}", switched(f, t.mlp_bias)
    if t.mlp == "gated":
        return gated_mlp(prefix, hidden, ffn, bias, t.mlp_names)
    up, down = t.mlp_names
    into = 2 * ffn if t.mlp == "fused" else ffn
    slopes = ()
    if f.config.get(t.activation) == "xielu":  # two learned slopes in each layer
        slopes = tuple(
            Weight(f"{prefix}.act_fn.{name}", (1,), "mlp", "vector")
            for name in ("alpha_p", "alpha_n")
        )
    return (
        *linear(f"{prefix}.{up}", into, hidden, "mlp", bias),
        *linear(f"{prefix}.{down}", hidden, ffn, "mlp", bias),
        *slopes,
    )


def gated_mlp(
    prefix, hidden, ffn, bias=False, names=("gate_proj", "up_proj", "down_proj")
) -> tuple[Weight, ...]:
    gate, up, down = names
    return (
        *linear(f"{prefix}.{gate}", ffn, hidden, "mlp", bias),
        *linear(f"{prefix}.{up}", ffn, hidden, "mlp", bias),
        *linear(f"{prefix}.{down}", hidden, ffn, "mlp", bias),
    )


# -- mixtures of experts


def _mixture(f: Fields, t: Traits, hidden) -> tuple[Weight, ...]:
    """Router, the stacked routed experts, and what every token shares."""
    e = t.experts
    width, experts, chosen = f.size(e.width), f.size(e.count), f.size(e.chosen)
    if chosen > experts:
        raise ValueError(f"{e.chosen}: {chosen} given; allowed: 1 to {experts} experts")
    weights = [
        *linear(
            f"layers.*.{e.gate}",
            experts,
            hidden,
            "router",
            e.bias,
            dtype="fp32" if e.router == "fp32 softmax" else None,
        ),
        *stacks(e, experts, hidden, width, chosen),
    ]
    if e.router == "fp32 softmax":  # a correction that is set, not trained
        weights.append(
            Weight(
                f"layers.*.{e.gate}.moe_statics.e_score_correction_bias",
                (1, experts),
                "router",
                "vector",
                trained=False,
                dtype="fp32",
            )
        )
    shared = _shared_width(f, e, width)
    if shared:
        weights += gated_mlp(f"layers.*.{e.shared}", hidden, shared, switched(f, t.mlp_bias))
    if e.shared_gate:
        weights += linear(f"layers.*.{e.shared_gate}", 1, hidden, "router")
    return tuple(weights)


def stacks(e: Experts, experts, hidden, width, chosen) -> Iterable[Weight]:
    """Each expert a gated MLP, gate and up in one tensor."""
    shapes = {
        "gate_up_proj": (experts, 2 * width, hidden),
        "down_proj": (experts, hidden, width),
    }
    for name, (count, out, into) in shapes.items():
        shape = (count, into, out) if e.transposed else (count, out, into)
        yield Weight(
            f"layers.*.{e.stack}.{name}", shape, "mlp", chosen=chosen, computed=e.every or None
        )
        if e.bias:
            bias = f"layers.*.{e.stack}.{name}_bias"
            yield Weight(bias, (count, out), "mlp", "vector", chosen=chosen)


def _shared_width(f: Fields, e: Experts, width: int) -> int:
    if e.shared is None:
        return 0
    if e.shared_width:
        return f.size(e.shared_width)
    return width * f.size(e.shared_count, least=0)


# -- which layers are of which kind


def layer_kinds(f: Fields, layers: int) -> list[Kind]:
    t = TRAITS[f.family]
    windows = _windows(f, t, layers)
    rotated = _rotated(f, t, layers)
    return list(zip(_sparse(f, t, layers), windows, rotated, strict=True))


def _sparse(f: Fields, t: Traits, layers: int) -> list[bool]:
    """Which layers have experts instead of a dense MLP."""
    if t.experts is None:
        return [False] * layers
    rule = t.experts.layers
    if rule == "step":
        dense, step = f.items("mlp_only_layers"), f.size("decoder_sparse_step")
        return [i not in dense and (i + 1) % step == 0 for i in range(layers)]
    if rule == "after the first":
        first = f.size("first_k_dense_replace", 0, least=0)
        return [i >= first for i in range(layers)]
    if rule == "interval":
        step, start = f.size("moe_layer_interval"), f.size("moe_layer_start_index", 0, least=0)
        end = f.size("moe_layer_end_index", -1, least=-1)
        end = layers - 1 if end == -1 else end
        return [(i + 1) % step == 0 and start <= i <= end for i in range(layers)]
    if rule == "listed":
        step = f.size("interleave_moe_layer_step")
        listed = f.get("moe_layers")
        chosen = range(step - 1, layers, step) if listed is None else f.items("moe_layers")
        return [i in chosen for i in range(layers)]
    return [True] * layers


def _windows(f: Fields, t: Traits, layers: int) -> list[int | None]:
    """The sliding window of each layer in tokens, None where it sees everything."""
    field = "attention_chunk_size" if "attention_chunk_size" in f.config else "sliding_window"
    if (
        t.window == "never"
        or f.config.get("use_sliding_window") is False
        or f.config.get(field) is None
    ):
        return [None] * layers
    window = f.size(field)
    types = f.items("layer_types") if t.window == "by type" or f.given.get("layer_types") else []
    if not types:
        full = _full_by_default(f, t, layers)
        return [None if sees_all else window for sees_all in full]
    if len(types) != layers:
        raise ValueError(
            f"layer_types: {len(types)} entries given; allowed: one for each of the {layers} layers"
        )
    return [
        window if kind in ("sliding_attention", "chunked_attention") else None for kind in types
    ]


def _full_by_default(f: Fields, t: Traits, layers: int) -> list[bool]:
    """Which layers see everything where layer_types does not say."""
    if t.without_positions == "listed":
        unrotated = [not rotated for rotated in _rotated(f, t, layers)]
        if "attention_chunk_size" in f.config:  # Llama 4: the layers without positions
            return unrotated
        return [not layer for layer in unrotated]  # SmolLM 3: those with
    if t.window == "always":
        return [False] * layers
    if t.full_every is None:
        if "max_window_layers" not in f.config:
            return [False] * layers
        first = f.size("max_window_layers", least=0)
        if f.family == "qwen2_moe":
            return [(i + 1) % 2 == 0 or i >= first for i in range(layers)]
        return [i < first for i in range(layers)]
    every = t.full_every
    if isinstance(every, str):
        # of the class, where the config leaves it out
        every = f.size(every, {"cohere2": 4}.get(f.family, 6))
    return [(i + 1) % every == 0 for i in range(layers)]


def _rotated(f: Fields, t: Traits, layers: int) -> list[bool]:
    """Which layers have rotary positions."""
    rule = t.without_positions
    if rule == "listed":
        listed = f.items("no_rope_layers")
        if listed:
            if len(listed) != layers:
                raise ValueError(
                    f"no_rope_layers: {len(listed)} entries given; allowed: one for each of the "
                    f"{layers} layers"
                )
            return [bool(entry) for entry in listed]
        every = f.size("no_rope_layer_interval")
        return [(i + 1) % every != 0 for i in range(layers)]
    if rule == "full" or (rule == "full if windows" and f.config.get("sliding_window") is not None):
        return [window is not None for window in _windows(f, t, layers)]
    return [True] * layers
