"""The core of attention, and the layers of GPT-2, GPT-NeoX and OPT, on a tape.

One function a family, a line an operation, as transformers 5.23 writes them: to check a formula
against the model, lay modeling_<family>.py beside it. What each operation keeps is in tape.py; `f`
is the `Forward` that is being recorded.
"""

from __future__ import annotations

from . import kernels, rotary
from .tape import NEW, NONE, SAME, Tensor, plus, times

# -- attention


def attend(f, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(b, heads, s, width) queries, keys and values to (b, s, heads * width)."""
    core = _eager if f.eager else _flash
    t = f.tape
    mask = f.masks[f.block.window]
    if f.run.recompute == "selective" and f.eager:
        t.begin_recompute([q, k, v, mask])
        out = core(f, q, k, v, mask)
        t.end_recompute()
        return out
    return core(f, q, k, v, mask)


def _flash(f, q, k, v, mask) -> Tensor:
    t = f.tape
    heads = f.block.heads
    on_cuda = t.device == "cuda"
    dtype = "bf16" if t.autocast else q.dtype
    # On CUDA FlashAttention-2 takes bf16 without a mask, memory-efficient attention the rest.
    wide = max(q.shape[-1], v.shape[-1]) > kernels.WIDEST
    efficient = on_cuda and (wide or mask is not None or dtype == "fp32")
    if k.shape[1] != heads and (mask is not None or efficient):
        copied = k.shape[1] > 1  # a single head is seen from every query head without a copy
        k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1]), copied) for x in (k, v))
    q, k, v = t.lower(q), t.lower(k), t.lower(v)
    width = v.shape[-1]
    padded = width < q.shape[-1]
    q, k, v = (_widened(f, x, max(width, q.shape[-1])) for x in (q, k, v))
    saved = [(q, "queries"), (k, "keys"), (v, "values")]
    if mask is not None and mask.dtype != "bool":
        own = Tensor(mask.shape, q.dtype, "mask", grad=False)  # autocast's copy of it
        saved.append((mask if mask.dtype == q.dtype else own, "mask"))
    elif mask is not None:
        span = "b" if t.batched else 1
        bias = Tensor((span, 1, "s", "s"), q.dtype, "mask as numbers", grad=False)
        saved.append((bias, "mask"))
    out = Tensor(("b", heads, "s", v.shape[-1]), q.dtype, "attention output")
    sums = Tensor(("b", heads, "s"), "fp32", "log-sum-exp of scores", grad=False)
    saved += [(out, "output"), (sums, "normalisation of each row")]
    if t.region and t.region.chooses:
        t.region.kept += [out, sums]
    # Two kernels lay their output out as the queries, which concatenation left head by head.
    by_head = f.laid_out_by_head and not efficient
    scratch = NONE
    if on_cuda:
        per_row, once = kernels.attention(out.shape[-1], dtype, efficient, k.shape[1] != heads)
        copies = int(by_head) + int(padded)  # of output and gradient, token by token
        scratch = plus(t.rows(heads * per_row, once), times(copies, out.size))
    inputs = [(q, False), (k, False), (v, False)]
    out = t.emit("flash attention", out, inputs, saved, scratch=scratch)
    if padded:
        out = t.slice(out, ("b", heads, "s", width))
    reshape = t.copy if by_head or padded else t.view
    return reshape(out, ("b", "s", heads * width), "attention output")


def _widened(f, x: Tensor, width: int) -> Tensor:
    """Heads filled up with zeros: fused kernels take heads of one width."""
    if x.shape[-1] == width:
        return x
    wide = Tensor((*x.shape[:-1], width), x.dtype, f"padded {x.name}")
    return f.tape.emit("pad", wide, [(x, False)])


def _eager(f, q, k, v, mask) -> Tensor:
    t = f.tape
    heads, dtype = f.block.heads, q.dtype
    grouped = k.shape[1] != heads
    if grouped:
        # one key/value head of one sequence is seen from every query head without a copy
        copied = k.shape[1] > 1 or t.batched
        k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1]), copied) for x in (k, v))
    weights = _scores(f, q, k, grouped)
    cap = f.config.get("attn_logit_softcapping")
    if f.traits.softcaps and cap is not None:
        weights = t.scale(t.unary("tanh", t.scale(weights), keeps="output"), "capped scores")
    masked = t.add(weights, mask, "masked scores")
    if f.traits.sinks:
        weights = _with_sinks(f, masked, v.dtype)
    else:
        weights = masked
        if f.traits.softmax_in_fp32 or (t.autocast and t.device == "cuda"):
            weights = t.cast(weights, "fp32")
        shares = t.softmax(weights)
        at_work, copies = (*f.around, *f.frame, q, k, v, masked, shares), f.copies_so_far()
        t.during(*at_work, weights, first=copies)
        weights = t.cast(shares, dtype if f.traits.softmax_in_fp32 else v.dtype)
        t.during(*at_work, weights, first=copies)
    weights = t.dropout(weights, _attention_dropout(f))
    weights, v = t.lower(weights), t.lower(v)
    if t.batched and not grouped:
        v = t.copy(v, v.shape)
    out = t.matmul(weights, v, ("b", heads, "s", v.shape[-1]), "attention output")
    return t.copy(out, ("b", "s", heads * v.shape[-1]), "attention output")


def _scores(f, q, k, grouped: bool) -> Tensor:
    t = f.tape
    upcast = f.config.get("reorder_and_upcast_attn") and f.run.recompute != "selective"
    upcast = upcast and f.traits.may_upcast_scores
    if not upcast:
        q, k = t.lower(q), t.lower(k)
    if t.batched:
        q = t.copy(q, q.shape)
        k = k if grouped else t.copy(k, k.shape)
    shape = ("b", f.block.heads, "s", "s")
    if upcast:  # GPT-2: one product that scales as well, in fp32, autocast or not
        return t.matmul(t.cast(q, "fp32"), t.cast(k, "fp32"), shape, "scores")
    return t.scale(t.matmul(q, k, shape, "scores"), "scaled scores")


def _with_sinks(f, scores: Tensor, dtype: str) -> Tensor:
    """gpt-oss: a learned score beside each row's, dropped again after the softmax. (Its column of
    s elements beside s x s is not counted.)"""
    t = f.tape
    sinks = f.weight("self_attn.sinks")
    column = Tensor(("b", f.block.heads, "s", 1), sinks.dtype, "sinks", storage=sinks)
    column = t.emit("expand", column, [(sinks, NEW)])
    wide = t.cat([scores, column], scores.shape, "scores and sinks")
    largest = Tensor(("b", f.block.heads, "s", 1), "int64", "place of the largest", grad=False)
    top = Tensor(largest.shape, wide.dtype, "largest score")
    top = t.emit("max", top, [(wide, NEW)], [(largest, "which it is")])
    less = t.emit(
        "sub", Tensor(wide.shape, wide.dtype, "less the largest"), [(wide, SAME), (top, NEW)]
    )
    if f.frozen:
        t.during(*f.around, *f.frame, scores, wide, less)
    shares = t.softmax(less)
    if f.frozen:
        t.during(*f.around, *f.frame, scores, less, shares)
    return t.cast(t.slice(shares, scores.shape), dtype)


def _attention_dropout(f) -> float:
    return f.config.get(f.traits.attention_dropout or "", 0.0) or 0.0


def _projected(f, x: Tensor, name: str, heads: int, copied: bool) -> Tensor:
    return heads_of(f, f.linear(x, name), heads, copied)


def heads_of(f, x: Tensor, heads: int, copied: bool) -> Tensor:
    return f.tape.to_heads(x, ("b", heads, "s", x.shape[-1] // heads), copied)


# -- the layers


def gpt2(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["resid_pdrop"]
    heads, width = f.block.heads, f.model.hidden
    y = f.norm(x, "ln_1")
    f.frame = (x, y)
    qkv = f.linear(y, "attn.c_attn")
    parts = t.split(qkv, [("b", "s", width)] * 3)
    eager = f.eager
    q, k, v = (heads_of(f, part, heads, eager) for part in parts)
    out = t.dropout(f.linear(attend(f, q, k, v), "attn.c_proj"), rate)
    x = t.add(out, x, "residual")
    y = f.norm(x, "ln_2")
    f.frame = (out, x, y)
    y = f.linear(f.activation(f.linear(y, "mlp.c_fc")), "mlp.c_proj")
    return t.add(x, t.dropout(y, rate), "residual")


def gpt_neox(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["hidden_dropout"]
    heads, width = f.block.heads, f.model.head_dim
    y = f.norm(x, "input_layernorm")
    f.frame = (x, y)
    qkv = f.linear(y, "attention.query_key_value")
    qkv = heads_of(f, qkv, heads, True)
    q, k, v = t.split(qkv, [("b", heads, "s", width)] * 3)
    turns = rotary.of_layer(f)
    out = attend(f, rotary.rotate(f, q, turns), rotary.rotate(f, k, turns), v)
    out = t.dropout(f.linear(out, "attention.dense"), rate)
    parallel = f.config["use_parallel_residual"]
    if not parallel:
        x = t.add(out, x, "residual")
    y = f.norm(x, "post_attention_layernorm")
    f.frame = (out, x, y)
    y = f.linear(f.activation(f.linear(y, "mlp.dense_h_to_4h")), "mlp.dense_4h_to_h")
    y = t.dropout(y, rate)
    return t.add(t.add(y, out), x, "residual") if parallel else t.add(y, x, "residual")


def opt(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["dropout"]
    first = f.config["do_layer_norm_before"]
    heads = f.block.heads
    y = f.norm(x, "self_attn_layer_norm") if first else x
    f.frame = (x, y)
    eager = f.eager
    q = heads_of(f, t.scale(f.linear(y, "self_attn.q_proj")), heads, eager)
    k = _projected(f, y, "self_attn.k_proj", heads, eager)
    v = _projected(f, y, "self_attn.v_proj", heads, eager)
    out = t.dropout(f.linear(attend(f, q, k, v), "self_attn.out_proj"), rate)
    x = t.add(x, out, "residual")
    if not first:
        x = f.norm(x, "self_attn_layer_norm")
    y = f.norm(x, "final_layer_norm") if first else x
    f.frame = (x, y)
    y = f.activation(f.linear(y, "fc1"))
    f.frame = (x,)
    y = f.linear(y, "fc2")
    x = t.add(x, t.dropout(y, rate), "residual")
    return x if first else f.norm(x, "final_layer_norm")


LAYERS = {"gpt2": gpt2, "gpt_neox": gpt_neox, "opt": opt}
