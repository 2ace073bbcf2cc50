"""A layer of Gemma 4 and what it takes from the model around it, on a tape.

Lay modeling_gemma4.py of transformers 5.23 beside it: `Gemma4TextDecoderLayer`,
`Gemma4TextAttention`, `Gemma4TextRouter`, and `project_per_layer_inputs` of the model.
"""

from __future__ import annotations

from ..architecture.gemma4 import kv_heads_of
from . import norms, rotary
from .decoder import gated_mlp
from .experts import dispatch
from .layers import attend
from .tape import NEW, Tensor


def per_layer_inputs(f, x: Tensor) -> Tensor | None:
    """(b, s, layers * extra): each layer's numbers for each token, from a second table and from the
    embedding; None where the model has no such table."""
    extra = f.config.get("hidden_size_per_layer_input")
    if not extra:
        return None
    t, layers = f.tape, f.model.layers
    rows = t.scale(f._lookup("embed_tokens_per_layer", ("b", "s")), "scaled rows")
    y = t.scale(f.outer_linear(x, "per_layer_model_projection", layers * extra))
    y = t.view(y, ("b", "s", layers, extra))
    y = f._outer_norm(y, "per_layer_projection_norm")
    rows = t.view(rows, y.shape)
    out = t.scale(t.add(y, rows), "numbers for each layer")
    out.shared = True  # one tensor for all layers
    return out


def gemma4(f, x: Tensor) -> Tensor:
    t = f.tape
    y = f.norm(attention(f, f.norm(x, "input_layernorm")), "post_attention_layernorm")
    x = t.add(x, y, "residual")
    y = gated_mlp(f, f.norm(x, "pre_feedforward_layernorm"), "mlp")
    if "router.proj.weight" in f.named:
        y = t.add(f.norm(y, "post_feedforward_layernorm_1"), _experts(f, x))
    x = t.add(x, f.norm(y, "post_feedforward_layernorm"), "residual")
    if f.layer_input is not None:
        y = f.activation(f.linear(x, "per_layer_input_gate"))
        y = t.mul(y, f.layer_input, "weighted input of the layer", "numbers of the layer")
        y = f.norm(f.linear(y, "per_layer_projection"), "post_per_layer_input_norm")
        x = t.add(x, y, "residual")
    return t.emit("mul_", Tensor(x.shape, x.dtype, "residual", storage=x), [(x, NEW)])


def attention(f, x: Tensor) -> Tensor:
    t, heads, width = f.tape, f.block.heads, f.block.query_dim
    turns = f.rotary()
    q = t.view(f.linear(x, "self_attn.q_proj"), ("b", "s", heads, width))
    q = _by_head(t, rotary.rotate(f, f.norm(q, "self_attn.q_norm"), turns))
    if f.block.shares_keys:
        k, v = f.shared_keys[f.block.window]
    else:
        k, v = _keys_and_values(f, x, turns)
        f.shared_keys[f.block.window] = (k, v)
    return f.linear(attend(f, q, k, v), "self_attn.o_proj")


def _keys_and_values(f, x: Tensor, turns) -> tuple[Tensor, Tensor]:
    t, width = f.tape, f.block.query_dim
    shape = ("b", "s", kv_heads_of(f, f.block.window is None), width)
    k = t.view(f.linear(x, "self_attn.k_proj"), shape)
    v = k
    if "self_attn.v_proj.weight" in f.named:
        v = t.view(f.linear(x, "self_attn.v_proj"), shape)
    k = _by_head(t, rotary.rotate(f, f.norm(k, "self_attn.k_norm"), turns))
    v = _by_head(t, norms.rms_all_in_fp32(t, v, None, None, "v_norm"))
    if f.kept_for_others:
        k.storage.shared = v.storage.shared = True
        if t.region is not None:
            t.region.lent = (k, v)
    return k, v


def _by_head(t, x: Tensor) -> Tensor:
    """(b, s, heads, width) seen as (b, heads, s, width)."""
    batch, span, heads, width = x.shape
    return t.view(x, (batch, heads, span, width), "transpose")


def _experts(f, x: Tensor) -> Tensor:
    """Routed experts, beside the MLP: both read what came before the MLP's norm."""
    e = f.traits.experts
    chosen = f.named[f"{e.stack}.down_proj"].chosen
    weights = _router(f, x, chosen)
    y = dispatch(f, f.norm(x, "pre_feedforward_layernorm_2"), weights)
    return f.norm(y, "post_feedforward_layernorm_2")


def _router(f, x: Tensor, chosen: int) -> Tensor:
    """Shares of the chosen, normalised and scaled by expert."""
    t, e = f.tape, f.traits.experts
    y = norms.rms_all_in_fp32(t, x, None, None, "router.norm")
    y = t.scale(t.mul(y, f.weight("router.scale"), "scaled tokens", "scale of the router"))
    scores = t.cast(f.linear(y, e.gate), "fp32")
    shares = t.softmax(scores)
    span = ("b", "s", chosen)
    index = Tensor(span, "int64", "chosen experts", grad=False)
    top = Tensor(span, "fp32", "shares of chosen experts")
    top = t.emit("topk", top, [(shares, False)], [(index, "which were chosen")])
    total = t.emit("sum", Tensor(("b", "s", 1), "fp32", "their sum"), [(top, True)])
    top = t.mul(top, total, "routing weights", "division by the sum")
    scale = f.weight("router.per_expert_scale")
    by_row = Tensor(span, scale.dtype, "scale of the chosen")
    by_row = t.emit("index", by_row, [(scale, NEW)], [(index, "which were chosen")])
    return t.mul(top, by_row, "scaled routing weights", "scale of the expert")
