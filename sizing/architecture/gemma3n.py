"""Gemma 3n's weights: several hidden states for each token, low-rank residuals, inputs by layer.

What sets its layers apart (modeling_gemma3n.py of transformers 5.23):

- AltUp (arXiv:2301.13310): a token has `altup_num_inputs` hidden states. A layer predicts all of
  them, computes with one, and corrects the others by what it learnt.
- LAuReL (arXiv:2411.07501): a low-rank matrix beside the residual connection.
- A second table gives every layer some numbers for each token, and the last layers read the keys
  and values of one before them, as in Gemma 4.
- The first layers keep only the largest gates of their MLP; the config may list a width by layer.
"""

from __future__ import annotations

from dataclasses import dataclass

from .decoder import gated_mlp
from .fields import Fields
from .gemma4 import NORMS, attention, sees_all, shared
from .weights import Architecture, Block, Weight, head, linear, places, rms_norm

_PREFIX = "layers.*"


@dataclass(frozen=True)
class _Kind:
    """A kind of layer: what it sees, whose keys it reads, the width and gates of its MLP."""

    full: bool
    shares: bool
    ffn: int
    cut_gates: bool


def gemma3n(f: Fields) -> Architecture:
    vocab, hidden, layers = f.size("vocab_size"), f.size("hidden_size"), f.layers()
    heads, kv_heads = f.size("num_attention_heads"), f.size("num_key_value_heads")
    f.divides("num_attention_heads", "hidden_size", heads, hidden)
    f.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    width, window = f.size("head_dim"), f.size("sliding_window")
    kinds, streams = layer_kinds(f, layers), f.size("altup_num_inputs")
    blocks = tuple(
        Block(
            kinds.count(kind),
            _layer(f, kind, hidden, heads, kv_heads, width, streams),
            heads,
            width,
            width,
            window=None if kind.full else window,
            shares_keys=kind.shares,
            streams=streams,
            cut_gates=kind.cut_gates,
            places=places(kinds, kind),
        )
        for kind in dict.fromkeys(kinds)
    )
    tied, most = f.flag("tie_word_embeddings"), max(kind.ffn for kind in kinds)
    outer = (*_entry(f, vocab, hidden, layers, streams), *_exit(hidden, streams))
    outer += head(vocab, hidden, tied)
    return Architecture(vocab, hidden, heads, kv_heads, width, most, tied, outer, blocks)


def layer_kinds(f: Fields, layers: int) -> list[_Kind]:
    full = sees_all(f, layers, every=5)
    shares = shared(f, full)
    kinds = zip(full, shares, _widths(f, layers), _cut(f, layers), strict=True)
    return [_Kind(*kind) for kind in kinds]


def _widths(f: Fields, layers: int) -> list[int]:
    """The MLP's width in each layer: one for all, or a list."""
    if not isinstance(f.get("intermediate_size"), list | tuple):
        return [f.size("intermediate_size")] * layers
    widths = f.items("intermediate_size")
    if len(widths) != layers or not all(type(w) is int and w > 0 for w in widths):
        raise ValueError(
            f"intermediate_size: a list of {len(widths)} given; allowed: a whole number >= 1, or "
            f"one for each of the {layers} layers"
        )
    return widths


def _cut(f: Fields, layers: int) -> list[bool]:
    """Which layers keep the largest gates alone."""
    shares = f.get("activation_sparsity_pattern")
    if shares is None:
        return [layers > 10 and i < 10 for i in range(layers)]
    shares = f.items("activation_sparsity_pattern")
    if len(shares) != layers or not all(isinstance(x, int | float) and 0 <= x < 1 for x in shares):
        raise ValueError(
            f"activation_sparsity_pattern: a list of {len(shares)} given; allowed: a share from 0 "
            f"to 1 for each of the {layers} layers"
        )
    return [share > 0 for share in shares]


def _layer(f: Fields, kind: _Kind, hidden, heads, groups, width, streams) -> tuple[Weight, ...]:
    """In the order in which a layer multiplies them."""
    rank, extra = f.size("laurel_rank"), f.size("hidden_size_per_layer_input")
    return (
        *_predicting(hidden, streams),
        *_norms(hidden),
        *linear(f"{_PREFIX}.laurel.linear_left", rank, hidden, "mlp"),
        *linear(f"{_PREFIX}.laurel.linear_right", hidden, rank, "mlp"),
        *rms_norm(f"{_PREFIX}.laurel.post_laurel_norm", hidden),
        *attention(f, () if kind.shares else ("k_proj", "v_proj"), hidden, heads, groups, width),
        *gated_mlp(f"{_PREFIX}.mlp", hidden, kind.ffn),
        *linear(f"{_PREFIX}.altup.correction_coefs", streams, streams, "mlp"),
        Weight(f"{_PREFIX}.altup.correct_output_scale", (hidden,), "mlp", "vector"),
        *linear(f"{_PREFIX}.per_layer_input_gate", extra, hidden, "mlp"),
        *linear(f"{_PREFIX}.per_layer_projection", hidden, extra, "mlp"),
        *rms_norm(f"{_PREFIX}.post_per_layer_input_norm", hidden),
    )


def _predicting(hidden: int, streams: int) -> tuple[Weight, ...]:
    """AltUp: how much of each hidden state goes into the prediction of each; its router is asked
    again for the correction."""
    router = f"{_PREFIX}.altup.modality_router.weight"
    return (
        *rms_norm(f"{_PREFIX}.altup.router_norm", hidden),
        Weight(router, (streams, hidden), "mlp", uses=2),
        *linear(f"{_PREFIX}.altup.prediction_coefs", streams**2, streams, "mlp"),
    )


def _norms(hidden: int) -> tuple[Weight, ...]:
    return tuple(weight for name in NORMS for weight in rms_norm(f"{_PREFIX}.{name}", hidden))


def _entry(f: Fields, vocab, hidden, layers, streams) -> tuple[Weight, ...]:
    """Both tables, and what makes the other hidden states of the embedding."""
    extra, rows = f.size("hidden_size_per_layer_input"), f.size("vocab_size_per_layer_input")
    return (
        Weight("embed_tokens.weight", (vocab, hidden), "embedding", "lookup"),
        Weight("embed_tokens_per_layer.weight", (rows, layers * extra), "embedding", "lookup"),
        *linear("per_layer_model_projection", layers * extra, hidden, "embedding"),
        *rms_norm("per_layer_projection_norm", extra),
        *_projections("altup_projections", hidden, streams, "embedding"),
    )


def _exit(hidden: int, streams: int) -> tuple[Weight, ...]:
    return (
        *_projections("altup_unembed_projections", hidden, streams, "head"),
        *rms_norm("norm", hidden),
    )


def _projections(name: str, hidden: int, streams: int, part: str) -> tuple[Weight, ...]:
    return tuple(
        weight for i in range(streams - 1) for weight in linear(f"{name}.{i}", hidden, hidden, part)
    )
