"""Layers of the families before Llama that were added after GPT-2, GPT-NeoX and OPT, on a tape."""

from __future__ import annotations

from ..architecture import minimax
from . import rotary
from .activations import bloom_gelu
from .layers import attend, heads_of
from .tape import NEW, Tensor


def gpt_bigcode(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["resid_pdrop"]
    heads, groups, width = f.block.heads, f.model.kv_heads, f.model.head_dim
    y = f.norm(x, "ln_1")
    f.frame = (x, y)
    qkv = f.linear(y, "attn.c_attn")
    eager = f.eager
    if groups == heads:
        qkv = heads_of(f, qkv, heads, True)
        q, k, v = t.split(qkv, [("b", heads, "s", width)] * 3)
    else:
        widths = [heads * width, width, width]
        q, k, v = t.split(qkv, [("b", "s", w) for w in widths])
        q = heads_of(f, q, heads, eager)
        k, v = (t.view(y, ("b", 1, "s", width)) for y in (k, v))
    out = t.dropout(f.linear(attend(f, q, k, v), "attn.c_proj"), rate)
    x = t.add(out, x, "residual")
    y = f.norm(x, "ln_2")
    f.frame = (out, x, y)
    y = f.linear(f.activation(f.linear(y, "mlp.c_fc")), "mlp.c_proj")
    return t.add(x, t.dropout(y, rate), "residual")


def gptj(f, x: Tensor) -> Tensor:
    t, rate, heads = f.tape, f.config["resid_pdrop"], f.block.heads
    y = f.norm(x, "ln_1")
    f.frame = (x, y)
    q, k, v = (
        heads_of(f, f.linear(y, f"attn.{name}"), heads, True)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    q, k = _turn_pairs(f, q, k)
    out = t.dropout(f.linear(_written_out(f, q, k, v), "attn.out_proj"), rate)
    f.frame = (out, x, y)
    z = f.linear(f.activation(f.linear(y, "mlp.fc_in")), "mlp.fc_out")
    return t.add(t.add(out, t.dropout(z, rate)), x, "residual")


def _turn_pairs(f, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """GPT-J looks its sines and cosines up and repeats them in each layer, for each of the two."""
    t, width = f.tape, f.config.get("rotary_dim") or f.model.head_dim
    part = width < f.model.head_dim or f.config.get("rotary_dim") is not None

    def turn(x: Tensor) -> Tensor:
        heads = x.shape[:-1]
        sin, cos = (
            Tensor((1, 1, "s", width), x.dtype, f"{name} repeated", grad=False)
            for name in ("sin", "cos")
        )
        turned = t.slice(x, (*heads, width)) if part else x
        product = t.mul(turned, cos, "x cos", "rotary position")
        half = (*heads, width // 2)
        odd, even = t.slice(turned, half), t.slice(turned, half)
        swapped = t.cat([t.scale(odd), even], (*heads, width))
        out = t.add(product, t.mul(swapped, sin, "x' sin", "rotary position"), "rotated")
        if not part:
            return out
        rest = t.slice(x, (*heads, x.shape[-1] - width))
        return t.cat([out, rest], x.shape, "rotated")

    k = turn(k)
    return turn(q), k


def gpt_neo(f, x: Tensor) -> Tensor:
    t, rate, heads = f.tape, f.config["resid_dropout"], f.block.heads
    y = f.norm(x, "ln_1")
    f.frame = (x, y)
    q, k, v = (
        heads_of(f, f.linear(y, f"attn.attention.{name}"), heads, True)
        for name in ("q_proj", "k_proj", "v_proj")
    )
    out = t.dropout(f.linear(_written_out(f, q, k, v), "attn.attention.out_proj"), rate)
    x = t.add(out, x, "residual")
    y = f.norm(x, "ln_2")
    f.frame = (out, x, y)
    y = f.linear(f.activation(f.linear(y, "mlp.c_fc")), "mlp.c_proj")
    return t.add(x, t.dropout(y, rate), "residual")


def _written_out(f, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Attention in fp32 with the whole table of scores, whatever `run.attention` says."""
    t, heads = f.tape, f.block.heads
    given, scores = v.dtype, ("b", heads, "s", "s")
    q, k = t.cast(q, "fp32"), t.cast(k, "fp32")
    q, k = t.lower(q), t.lower(k)
    if t.batched:
        q, k = t.copy(q, q.shape), t.copy(k, k.shape)
    weights = t.matmul(q, k, scores, "scores")
    if f.family == "gptj":
        weights = t.scale(weights, "scaled scores")
    else:  # a table of which pairs count
        table = Tensor((1, 1, "s", "s"), "bool", "causal table", "parameters", grad=False)
        masked = Tensor(scores, weights.dtype, "masked scores")
        weights = t.emit("where", masked, [(weights, NEW)], [(table, "which pairs")])
    weights = t.add(weights, f.masks[f.block.window], "masked scores")
    if t.autocast and t.device == "cuda":
        weights = t.cast(weights, "fp32")
    weights = t.cast(t.softmax(weights), given)
    rate = f.config.get(f.traits.attention_dropout or "", 0.0) or 0.0
    weights = t.lower(t.dropout(weights, rate))
    v = t.lower(v)
    v = t.copy(v, v.shape) if t.batched else v
    out = t.matmul(weights, v, ("b", heads, "s", v.shape[-1]), "attention output")
    return t.copy(out, ("b", "s", heads * v.shape[-1]), "attention output")


def bloom(f, x: Tensor) -> Tensor:
    t, rate, heads, width = f.tape, f.config["hidden_dropout"], f.block.heads, f.model.head_dim
    normed = f.norm(x, "input_layernorm")
    f.frame = (x, normed)
    after = f.config.get("apply_residual_connection_post_layernorm")
    qkv = f.linear(normed, "self_attention.query_key_value")
    q, k, v = (
        t.copy(part, part.shape)
        for part in t.split(heads_of(f, qkv, heads, True), [("b", heads, "s", width)] * 3)
    )
    out = f.linear(_biased_attention(f, q, k, v), "self_attention.dense")
    x = t.add(normed if after else x, t.dropout(out, rate), "residual")
    normed = f.norm(x, "post_attention_layernorm")
    f.frame = (x, normed)
    y = f.linear(bloom_gelu(t, f.linear(normed, "mlp.dense_h_to_4h")), "mlp.dense_4h_to_h")
    return t.add(normed if after else x, t.dropout(y, rate), "residual")


def _biased_attention(f, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scores with a bias by distance (alibi); the whole table, whatever `run.attention` says."""
    t, heads, dtype = f.tape, f.block.heads, q.dtype
    q, k = t.lower(q), t.lower(k)
    scores = t.matmul(q, k, ("b", heads, "s", "s"), "scores")
    scores = t.add(scores, f.masks[f.block.window], "masked scores")
    weights = t.cast(t.softmax(t.cast(scores, "fp32")), dtype)
    weights = t.lower(t.dropout(weights, f.config["attention_dropout"]))
    out = t.matmul(weights, t.lower(v), ("b", heads, "s", v.shape[-1]), "attention output")
    return t.copy(out, ("b", "s", heads * v.shape[-1]), "attention output")


def mpt(f, x: Tensor) -> Tensor:
    t, heads, width = f.tape, f.block.heads, f.model.hidden
    nested = f.config.get("attn_config") or {}
    rate = nested.get("attn_pdrop", 0.0)
    normed = f.norm(x, "norm_1")
    f.frame = (x, normed)
    qkv = f.linear(normed, "attn.Wqkv")
    if nested.get("clip_qkv"):
        qkv = t.unary("clamp", qkv, keeps="input", temporaries=2)
    q, k, v = (heads_of(f, part, heads, True) for part in t.split(qkv, [("b", "s", width)] * 3))
    scores = ("b", heads, "s", "s")
    dtype = v.dtype
    q, k = t.lower(q), t.lower(k)
    if t.batched:
        q, k = t.copy(q, q.shape), t.copy(k, k.shape)
    weights = t.scale(t.matmul(q, k, scores, "scores"), "scaled scores")
    bias = Tensor((heads, "s", "s"), "fp32", "alibi", grad=False)
    weights = t.add(weights, bias, "biased scores")
    mask = f.masks[f.block.window]
    weights = t.emit(
        "masked_fill", Tensor(scores, weights.dtype, "masked scores"), [(weights, NEW)],
        [(mask, "which pairs")],
    )  # fmt: skip
    weights = t.cast(t.softmax(t.cast(weights, "fp32")), dtype)
    weights, v = t.lower(t.dropout(weights, rate)), t.lower(v)
    v = t.copy(v, v.shape) if t.batched else v
    out = t.matmul(weights, v, ("b", heads, "s", v.shape[-1]), "attention output")
    out = f.linear(t.copy(out, ("b", "s", width), "attention output"), "attn.out_proj")
    x = t.add(t.dropout(out, rate), x, "residual")
    normed = f.norm(x, "norm_2")
    f.frame = (out, x, normed)
    y = t.unary("gelu", f.linear(normed, "ffn.up_proj"), keeps="input")
    return t.add(t.dropout(f.linear(y, "ffn.down_proj"), rate), x, "residual")


def falcon(f, x: Tensor) -> Tensor:
    t, c = f.tape, f.config
    new, parallel = c["new_decoder_architecture"], c["parallel_attn"]
    two = "ln_attn.weight" in f.named
    normed = f.norm(x, "ln_attn" if two else "input_layernorm")
    for_mlp = f.norm(x, "ln_mlp") if two else normed
    f.frame = (x, normed, for_mlp)
    out = _linear(f, _falcon_attention(f, normed), "self_attention.dense")
    f.frame += (out,)
    if not new and not parallel:
        x = t.add(t.dropout(out, c.get("attention_dropout", 0.0)), x, "residual")
        for_mlp = f.norm(x, "post_attention_layernorm")
    up = t.unary("gelu", _linear(f, for_mlp, "mlp.dense_h_to_4h"), keeps="input")
    y = _linear(f, up, "mlp.dense_4h_to_h")
    if new or parallel:
        y = t.add(y, out)
    return t.add(x, t.dropout(y, c["hidden_dropout"]), "residual")


def _linear(f, x: Tensor, name: str) -> Tensor:
    """Falcon's own: x @ weight.T, then a sum with the bias."""
    bias = f.weight(f"{name}.bias")
    out = f.linear(x, name, biased=False)
    return f.tape.add(out, bias, "with bias") if bias is not None else out


def _falcon_attention(f, x: Tensor) -> Tensor:
    """Queries are seen where the fused product left them, unless groups lie between them."""
    t, heads, groups, width = f.tape, f.block.heads, f.model.kv_heads, f.model.head_dim
    qkv = _linear(f, x, "self_attention.query_key_value")
    new = f.config["new_decoder_architecture"]
    qkv = t.view(qkv, ("b", "s", heads + 2 * groups, width))
    q = t.slice(qkv, ("b", heads, "s", width))
    k, v = (t.slice(qkv, ("b", groups, "s", width)) for _ in range(2))
    if new or groups != heads:  # chosen by a list of one place, which copies
        k, v = (t.copy(y, y.shape, "copy") for y in (k, v))
    if new and groups < heads:
        q = t.copy(q, q.shape) if groups > 1 else q
        k, v = (t.expand_heads(y, q.shape, copied=groups > 1) for y in (k, v))
    if f.block.rotated and not f.config.get("alibi"):
        turns = rotary.of_layer(f)
        q, k = rotary.rotate(f, q, turns), rotary.rotate(f, k, turns)
    if k.shape[1] != heads and not f.eager:
        raise ValueError(
            "attention: 'flash' given; allowed: 'eager', which is what runs here: torch has no "
            "fused kernel for Falcon's one key/value head"
        )
    return attend(f, q, k, v)


CLASSIC = {
    "gpt_bigcode": gpt_bigcode,
    "gptj": gptj,
    "gpt_neo": gpt_neo,
    "bloom": bloom,
    "mpt": mpt,
    "falcon": falcon,
}


def buffers(model, width: int = 4) -> int:
    """Bytes of tables that are no weights: causal tables of bytes, sines and cosines in fp32, and
    MiniMax's factors of decay in the weights' dtype, of `width` bytes."""
    positions, config = model.max_positions or 0, model.config
    if model.family == "gpt_bigcode":
        return positions * positions
    if model.family == "gpt_neo":  # each layer has one
        return model.layers * positions * positions
    if model.family == "gptj":
        return model.layers * positions * (config.get("rotary_dim") or model.hidden) * 4
    if model.family == "minimax":
        return width * minimax.buffers(model)
    return 0
