"""Gemma 4's weights: two widths of attention, shared keys and values, embeddings for each layer.

Three things set its layers apart (modeling_gemma4.py of transformers 5.23):

- Layers that see everything have wider heads than those with a sliding window, may have another
  number of key/value heads, and may use the keys' projection for the values too.
- The last `num_kv_shared_layers` layers project no keys and values: they read those of the last
  layer of their kind before them.
- Beside the embedding stands a second table that gives every layer some numbers for each token
  (`hidden_size_per_layer_input`); a token meets one row of it, as of the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import gated_mlp, stacks
from .family_rows import TRAITS
from .fields import Fields
from .weights import Architecture, Block, Weight, head, linear, places, rms_norm

_PREFIX = "layers.*"


@dataclass(frozen=True)
class _Kind:
    """A kind of layer: whether it sees everything, and whether it reads another's keys."""

    full: bool
    shares: bool


def gemma4(f: Fields) -> Architecture:
    vocab, hidden, layers = f.size("vocab_size"), f.size("hidden_size"), f.layers()
    heads, kv_heads = f.size("num_attention_heads"), f.size("num_key_value_heads")
    width = f.size("head_dim")
    if f.get("use_bidirectional_attention") == "all":
        raise ValueError(
            "use_bidirectional_attention: 'all' given; allowed: null or 'vision' (a causal model)"
        )
    kinds = layer_kinds(f, layers)
    window = f.size("sliding_window")
    ffn, extra = f.size("intermediate_size"), f.size("hidden_size_per_layer_input", 0, least=0)
    blocks = []
    for kind in dict.fromkeys(kinds):
        wide = f.size("global_head_dim", 512) if kind.full else width
        groups = kv_heads_of(f, kind.full)
        f.divides("num_key_value_heads", "num_attention_heads", groups, heads)
        doubled = kind.shares and f.flag("use_double_wide_mlp")
        weights = (
            *_attention(f, kind, hidden, heads, groups, wide),
            *gated_mlp(f"{_PREFIX}.mlp", hidden, ffn * (2 if doubled else 1)),
            *_norms(hidden, NORMS),
            *(_experts(f, hidden) if f.flag("enable_moe_block") else ()),
            *(_of_layer(hidden, extra) if extra else ()),
        )
        blocks.append(
            Block(
                kinds.count(kind),
                weights,
                heads,
                wide,
                wide,
                window=None if kind.full else window,
                shares_keys=kind.shares,
                places=places(kinds, kind),
            )
        )
    tied = f.flag("tie_word_embeddings")
    outer = (
        Weight("embed_tokens.weight", (vocab, hidden), "embedding", "lookup"),
        *(_tables(f, layers, hidden, extra) if extra else ()),
        *rms_norm("norm", hidden),
        *head(vocab, hidden, tied),
    )
    return Architecture(vocab, hidden, heads, kv_heads, width, ffn, tied, outer, tuple(blocks))


NORMS = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
MOE_NORMS = (
    "post_feedforward_layernorm_1",
    "pre_feedforward_layernorm_2",
    "post_feedforward_layernorm_2",
)


def kv_heads_of(f, full: bool) -> int:
    """Key/value heads of a layer; `f` has the config."""
    other = f.config.get("num_global_key_value_heads")
    if full and other is not None and f.config.get("attention_k_eq_v"):
        return f.size("num_global_key_value_heads") if isinstance(f, Fields) else other
    return f.config["num_key_value_heads"]


def layer_kinds(f: Fields, layers: int) -> list[_Kind]:
    full = sees_all(f, layers, every=6)
    full[-1] = True  # as transformers sets it, whatever the file says
    return [_Kind(*kind) for kind in zip(full, shared(f, full), strict=True)]


def sees_all(f: Fields, layers: int, every: int) -> list[bool]:
    """Which layers see everything: as layer_types says, or each `every`-th."""
    types = f.items("layer_types") or [
        "sliding_attention" if (i + 1) % every else "full_attention" for i in range(layers)
    ]
    if len(types) != layers:
        raise ValueError(
            f"layer_types: {len(types)} entries given; allowed: one for each of the {layers} layers"
        )
    return [kind == "full_attention" for kind in types]


def shared(f: Fields, full: list[bool]) -> list[bool]:
    """Which layers read the keys and values of one before them: the last ones."""
    own = len(full) - f.size("num_kv_shared_layers", 0, least=0)
    if not set(full[max(own, 0) :]) <= set(full[: max(own, 0)]):
        raise ValueError(
            f"num_kv_shared_layers: {len(full) - own} given; allowed: so many that a layer of each "
            "kind before them has keys to share"
        )
    return [i >= own for i in range(len(full))]


def _attention(f: Fields, kind: _Kind, hidden, heads, groups, width) -> tuple[Weight, ...]:
    values = () if kind.full and f.flag("attention_k_eq_v") else ("v_proj",)
    names = () if kind.shares else ("k_proj", *values)
    return attention(f, names, hidden, heads, groups, width)


def attention(
    f: Fields, names: tuple[str, ...], hidden, heads, groups, width
) -> tuple[Weight, ...]:
    """Projections of queries, of keys and values as far as `names` says, and of the output."""
    prefix, bias = f"{_PREFIX}.self_attn", f.flag("attention_bias")

    def projection(name: str, out: int, into: int) -> tuple[Weight, ...]:
        return linear(f"{prefix}.{name}", out, into, "attention", bias)

    keys = tuple(w for name in names for w in projection(name, groups * width, hidden))
    return (
        *projection("q_proj", heads * width, hidden),
        *rms_norm(f"{prefix}.q_norm", width),
        *keys,
        *(rms_norm(f"{prefix}.k_norm", width) if names else ()),
        *projection("o_proj", hidden, heads * width),
    )


def _norms(hidden: int, names) -> tuple[Weight, ...]:
    return tuple(weight for name in names for weight in rms_norm(f"{_PREFIX}.{name}", hidden))


def _experts(f: Fields, hidden: int) -> tuple[Weight, ...]:
    """Routed experts beside the dense MLP, which every token passes through as well."""
    e = TRAITS["gemma4_text"].experts
    experts, chosen, width = f.size(e.count), f.size(e.chosen), f.size(e.width)
    if chosen > experts:
        raise ValueError(f"{e.chosen}: {chosen} given; allowed: 1 to {experts} experts")
    return (
        *linear(f"{_PREFIX}.{e.gate}", experts, hidden, "router"),
        Weight(f"{_PREFIX}.router.scale", (hidden,), "router", "vector"),
        Weight(f"{_PREFIX}.router.per_expert_scale", (experts,), "router", "vector"),
        *stacks(e, experts, hidden, width, chosen),
        *_norms(hidden, MOE_NORMS),
    )


def _of_layer(hidden: int, extra: int) -> tuple[Weight, ...]:
    """What a layer does with its own numbers for the token."""
    return (
        *linear(f"{_PREFIX}.per_layer_input_gate", extra, hidden, "mlp"),
        *linear(f"{_PREFIX}.per_layer_projection", hidden, extra, "mlp"),
        *rms_norm(f"{_PREFIX}.post_per_layer_input_norm", hidden),
    )


def _tables(f: Fields, layers: int, hidden: int, extra: int) -> tuple[Weight, ...]:
    rows = f.size("vocab_size_per_layer_input")
    return (
        Weight("embed_tokens_per_layer.weight", (rows, layers * extra), "embedding", "lookup"),
        *linear("per_layer_model_projection", layers * extra, hidden, "embedding"),
        *rms_norm("per_layer_projection_norm", extra),
    )
