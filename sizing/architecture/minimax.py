"""MiniMax-Text-01's weights: lightning attention, with softmax attention in some layers.

Lightning attention (arXiv:2401.04658; MiniMax-01, arXiv:2501.08313, section 2.2) has no softmax: it
multiplies queries with keys inside blocks of `block_size` tokens, and carries a sum of keys x
values from block to block. Every layer has a mixture of experts. In transformers 5.23 that is
modeling_minimax.py.
"""

from __future__ import annotations

from dataclasses import replace

from .decoder import assemble
from .fields import Fields
from .weights import Architecture, Weight, linear, places, rms_norm

_PREFIX = "layers.*.self_attn"


def minimax(f: Fields) -> Architecture:
    hidden, heads, layers = f.size("hidden_size"), f.size("num_attention_heads"), f.layers()
    groups = f.size("num_key_value_heads", heads)
    f.divides("num_key_value_heads", "num_attention_heads", groups, heads)
    if f.get("head_dim") is None:
        f.divides("num_attention_heads", "hidden_size", heads, hidden)
    width = f.size("head_dim", hidden // heads)
    kinds = layer_kinds(f, layers)
    window = f.size("sliding_window") if f.get("sliding_window") is not None else None
    softmax = assemble(f, _softmax(hidden, heads, groups, width), heads, groups, width, width)
    lightning = assemble(f, _lightning(hidden, heads, width), heads, groups, width, width)
    blocks = {
        False: replace(softmax.blocks[0], window=window),
        True: replace(lightning.blocks[0], window=None, rotated=False, linear=f.size("block_size")),
    }
    counted = (
        replace(blocks[kind], count=kinds.count(kind), places=places(kinds, kind))
        for kind in dict.fromkeys(kinds)
    )
    return replace(softmax, blocks=tuple(counted))


def layer_kinds(f: Fields, layers: int) -> list[bool]:
    """Which layers have lightning attention: as layer_types says, or every second one."""
    types = f.items("layer_types") or [
        "linear_attention" if i % 2 else "full_attention" for i in range(layers)
    ]
    if len(types) != layers or not set(types) <= {"full_attention", "linear_attention"}:
        raise ValueError(
            f"layer_types: {len(types)} entries given; allowed: 'full_attention' or "
            f"'linear_attention' for each of the {layers} layers"
        )
    return [kind == "linear_attention" for kind in types]


def _softmax(hidden: int, heads: int, groups: int, width: int) -> tuple[Weight, ...]:
    sizes = {"q_proj": heads, "k_proj": groups, "v_proj": groups}
    return (
        *(
            weight
            for name, count in sizes.items()
            for weight in linear(f"{_PREFIX}.{name}", count * width, hidden, "attention")
        ),
        *linear(f"{_PREFIX}.o_proj", hidden, heads * width, "attention"),
    )


def _lightning(hidden: int, heads: int, width: int) -> tuple[Weight, ...]:
    """Queries, keys and values in one matrix, a norm, and a gate on the output."""
    inner = heads * width
    return (
        *rms_norm(f"{_PREFIX}.norm", inner),
        *linear(f"{_PREFIX}.qkv_proj", 3 * inner, hidden, "attention"),
        *linear(f"{_PREFIX}.output_gate", inner, hidden, "attention"),
        *linear(f"{_PREFIX}.out_proj", hidden, inner, "attention"),
    )


def buffers(model) -> int:
    """Elements that are kept beside the weights: by how much each block's tokens decay, in each
    head and from token to token."""
    return sum(
        block.count * block.heads * (1 + 2 * block.linear + block.linear**2)
        for block in model.blocks
        if block.linear
    )
