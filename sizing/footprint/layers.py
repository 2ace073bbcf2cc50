"""The layers of each architecture on a tape, as transformers 5.23 writes them.

One function a family, a line an operation: to check a formula against the model, lay
modeling_<family>.py beside it. What each operation keeps is in tape.py; `f` is the `Forward` that
is being recorded.
"""

from __future__ import annotations

from . import kernels
from .tape import NONE, Tensor, plus, times

# -- attention


def _rotate(f, x: Tensor) -> Tensor:
    """x cos + rotate_half(x) sin."""
    t = f.tape
    cos, sin = f.rotary()
    width, half = cos.shape[-1], cos.shape[-1] // 2
    heads = x.shape[:-1]
    turned = t.slice(x, (*heads, width)) if width < x.shape[-1] else x
    product = t.mul(turned, cos, "x cos", "rotary position")
    first, second = t.slice(turned, (*heads, half)), t.slice(turned, (*heads, half))
    swapped = t.cat([t.scale(second), first], (*heads, width))
    out = t.add(product, t.mul(swapped, sin, "x' sin", "rotary position"), "rotated")
    if width < x.shape[-1]:
        rest = t.slice(x, (*heads, x.shape[-1] - width))
        out = t.cat([out, rest], x.shape, "rotated")
    return t.cast(out, x.dtype) if f.family == "olmo2" else out


def _attend(f, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """(b, heads, s, width) queries, keys and values to (b, s, heads * width)."""
    core = _flash if f.run.attention == "flash" else _eager
    t = f.tape
    mask = f.masks[f.block.window]
    if f.run.recompute == "selective" and f.run.attention == "eager":
        t.begin_recompute([q, k, v, mask])
        out = core(f, q, k, v, mask)
        t.end_recompute()
        return out
    return core(f, q, k, v, mask)


def _flash(f, q, k, v, mask) -> Tensor:
    t = f.tape
    heads, family = f.block.heads, f.family
    on_cuda = t.device == "cuda"
    dtype = "bf16" if t.autocast else q.dtype
    # On CUDA FlashAttention-2 takes bf16 without a mask, memory-efficient attention the rest.
    efficient = on_cuda and (mask is not None or dtype == "fp32")
    if k.shape[1] != heads and (mask is not None or efficient):
        copied = k.shape[1] > 1  # a single head is seen from every query head without a copy
        k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1]), copied) for x in (k, v))
    q, k, v = t.lower(q), t.lower(k), t.lower(v)
    width = v.shape[-1]
    padded = width < q.shape[-1]
    if padded:  # fused kernels take heads of one width
        v = t.emit("pad", Tensor(q.shape, v.dtype, "padded values"), [(v, False)])
    saved = [(q, "queries"), (k, "keys"), (v, "values")]
    if mask is not None:
        span = "b" if t.batched else 1
        bias = Tensor((span, 1, "s", "s"), q.dtype, "mask as numbers", grad=False)
        saved.append((bias, "mask"))
    out = Tensor(("b", heads, "s", v.shape[-1]), q.dtype, "attention output")
    sums = Tensor(("b", heads, "s"), "fp32", "log-sum-exp of scores", grad=False)
    saved += [(out, "output"), (sums, "normalisation of each row")]
    # Two kernels lay their output out as the queries, which concatenation left head by head.
    by_head = family in ("gpt_neox", "deepseek_v3") and not efficient
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


def _eager(f, q, k, v, mask) -> Tensor:
    t = f.tape
    heads, dtype = f.block.heads, q.dtype
    grouped = k.shape[1] != heads
    if grouped:
        # one key/value head of one sequence is seen from every query head without a copy
        copied = k.shape[1] > 1 or t.batched
        k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1]), copied) for x in (k, v))
    scores = ("b", heads, "s", "s")
    q, k = t.lower(q), t.lower(k)
    if t.batched:
        q = t.copy(q, q.shape)
        k = k if grouped else t.copy(k, k.shape)
    weights = t.scale(t.matmul(q, k, scores, "scores"), "scaled scores")
    cap = f.config.get("attn_logit_softcapping")
    if f.family == "gemma2" and cap is not None:
        weights = t.scale(t.unary("tanh", t.scale(weights), keeps="output"), "capped scores")
    weights = t.add(weights, mask, "masked scores")
    if f.family != "gpt2" or (t.autocast and t.device == "cuda"):
        weights = t.cast(weights, "fp32")
    weights = t.softmax(weights)
    weights = t.cast(weights, v.dtype if f.family == "gpt2" else dtype)
    weights = t.dropout(weights, _attention_dropout(f))
    weights, v = t.lower(weights), t.lower(v)
    if t.batched and not grouped:
        v = t.copy(v, v.shape)
    out = t.matmul(weights, v, ("b", heads, "s", v.shape[-1]), "attention output")
    return t.copy(out, ("b", "s", heads * v.shape[-1]), "attention output")


def _attention_dropout(f) -> float:
    key = "attn_pdrop" if f.family == "gpt2" else "attention_dropout"
    return f.config.get(key, 0.0)


def _projected(f, x: Tensor, name: str, heads: int, copied: bool) -> Tensor:
    return _heads(f, f.linear(x, name), heads, copied)


def _heads(f, x: Tensor, heads: int, copied: bool) -> Tensor:
    return f.tape.to_heads(x, ("b", heads, "s", x.shape[-1] // heads), copied)


# -- the layers


def gpt2(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["resid_pdrop"]
    heads, width = f.block.heads, f.model.hidden
    qkv = f.linear(f.layer_norm(x, "ln_1"), "attn.c_attn")
    parts = t.split(qkv, [("b", "s", width)] * 3)
    eager = f.run.attention == "eager"
    q, k, v = (_heads(f, part, heads, eager) for part in parts)
    out = t.dropout(f.linear(_attend(f, q, k, v), "attn.c_proj"), rate)
    x = t.add(out, x, "residual")
    y = f.linear(f.layer_norm(x, "ln_2"), "mlp.c_fc")
    y = f.linear(f.activation(y), "mlp.c_proj")
    return t.add(x, t.dropout(y, rate), "residual")


def gpt_neox(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["hidden_dropout"]
    heads, width = f.block.heads, f.model.head_dim
    qkv = f.linear(f.layer_norm(x, "input_layernorm"), "attention.query_key_value")
    qkv = _heads(f, qkv, heads, True)
    q, k, v = t.split(qkv, [("b", heads, "s", width)] * 3)
    out = _attend(f, _rotate(f, q), _rotate(f, k), v)
    out = t.dropout(f.linear(out, "attention.dense"), rate)
    parallel = f.config["use_parallel_residual"]
    if not parallel:
        x = t.add(out, x, "residual")
    y = f.linear(f.layer_norm(x, "post_attention_layernorm"), "mlp.dense_h_to_4h")
    y = t.dropout(f.linear(f.activation(y), "mlp.dense_4h_to_h"), rate)
    return t.add(t.add(y, out), x, "residual") if parallel else t.add(y, x, "residual")


def opt(f, x: Tensor) -> Tensor:
    t, rate = f.tape, f.config["dropout"]
    first = f.config["do_layer_norm_before"]
    heads = f.block.heads
    y = f.layer_norm(x, "self_attn_layer_norm") if first else x
    eager = f.run.attention == "eager"
    q = _heads(f, t.scale(f.linear(y, "self_attn.q_proj")), heads, eager)
    k = _projected(f, y, "self_attn.k_proj", heads, eager)
    v = _projected(f, y, "self_attn.v_proj", heads, eager)
    out = t.dropout(f.linear(_attend(f, q, k, v), "self_attn.out_proj"), rate)
    x = t.add(x, out, "residual")
    if not first:
        x = f.layer_norm(x, "self_attn_layer_norm")
    y = f.layer_norm(x, "final_layer_norm") if first else x
    y = f.linear(f.activation(f.linear(y, "fc1")), "fc2")
    x = t.add(x, t.dropout(y, rate), "residual")
    return x if first else f.layer_norm(x, "final_layer_norm")


def llama_like(f, x: Tensor) -> Tensor:
    """Llama and its relatives: they differ in where norms stand."""
    t = f.tape
    both = f.family in ("gemma2", "gemma3_text")
    after = both or f.family == "olmo2"
    y = x if f.family == "olmo2" else f.norm(x, "input_layernorm")
    y = _latent_attention(f, y) if f.family == "deepseek_v3" else _attention(f, y)
    if after:
        y = f.norm(y, "post_attention_layernorm")
    x = t.add(x, y, "residual")
    y = x
    if both:
        y = f.norm(x, "pre_feedforward_layernorm")
    elif not after:
        y = f.norm(x, "post_attention_layernorm")
    if "mlp.gate.weight" not in f.named:
        y = _gated_mlp(f, y, "mlp")
    elif f.family == "deepseek_v3":
        y = t.add(_experts(f, y), _gated_mlp(f, y, "mlp.shared_experts"))
    else:
        y = _experts(f, y)
    if after:
        y = f.norm(y, "post_feedforward_layernorm")
    return t.add(x, y, "residual")


def _attention(f, x: Tensor) -> Tensor:
    heads, groups = f.block.heads, f.model.kv_heads
    q, k = f.linear(x, "self_attn.q_proj"), f.linear(x, "self_attn.k_proj")
    v = _projected(f, x, "self_attn.v_proj", groups, f.run.attention == "eager")
    if f.family == "olmo2":
        q, k = f.norm(q, "self_attn.q_norm"), f.norm(k, "self_attn.k_norm")
    q, k = _heads(f, q, heads, True), _heads(f, k, groups, True)
    if f.family in ("qwen3", "qwen3_moe", "gemma3_text"):
        q, k = f.norm(q, "self_attn.q_norm"), f.norm(k, "self_attn.k_norm")
    out = _attend(f, _rotate(f, q), _rotate(f, k), v)
    return f.linear(out, "self_attn.o_proj")


def _latent_attention(f, x: Tensor) -> Tensor:
    """Multi-head latent attention (arXiv:2412.19437, section 2.1.1): q and k are built from a
    part without positions and a rotated part, which all heads' keys share."""
    t, heads, prefix = f.tape, f.block.heads, "self_attn."
    nope, rope = f.config["qk_nope_head_dim"], f.config["qk_rope_head_dim"]
    rank, width = f.config["kv_lora_rank"], f.config["v_head_dim"]
    if prefix + "q_proj.weight" in f.named:
        q = f.linear(x, prefix + "q_proj")
    else:
        q = f.norm(f.linear(x, prefix + "q_a_proj"), prefix + "q_a_layernorm")
        q = f.linear(q, prefix + "q_b_proj")
    q_plain, q_turned = t.split(
        _heads(f, q, heads, True), [("b", heads, "s", nope), ("b", heads, "s", rope)]
    )
    latent, k_turned = t.split(
        f.linear(x, prefix + "kv_a_proj_with_mqa"), [("b", "s", rank), ("b", "s", rope)]
    )
    latent = f.norm(latent, prefix + "kv_a_layernorm")
    q_turned = _rotate_pairs(f, q_turned)
    k_turned = _rotate_pairs(f, t.view(k_turned, ("b", 1, "s", rope)))
    q = t.cat([q_plain, q_turned], ("b", heads, "s", nope + rope), "queries")
    both = _heads(f, f.linear(latent, prefix + "kv_b_proj"), heads, True)
    k_plain, v = t.split(both, [("b", heads, "s", nope), ("b", heads, "s", width)])
    k = Tensor(q.shape, k_plain.dtype, "keys")
    t.emit("fill", k, [(k_plain, False), (k_turned, False)])
    return f.linear(_attend(f, q, k, v), prefix + "o_proj")


def _rotate_pairs(f, x: Tensor) -> Tensor:
    """Rotary positions on even and odd elements."""
    t = f.tape
    cos, sin = f.rotary()
    half = (*x.shape[:-1], x.shape[-1] // 2)
    even, odd = t.slice(x, half), t.slice(x, half)
    first = t.add(t.mul(even, cos, why="rotary"), t.scale(t.mul(odd, sin, why="rotary")))
    second = t.add(t.mul(odd, cos, why="rotary"), t.mul(even, sin, why="rotary"))
    return t.cat([first, second], x.shape, "rotated")


def _gated_mlp(f, x: Tensor, name: str) -> Tensor:
    gate = f.activation(f.linear(x, f"{name}.gate_proj"))
    up = f.linear(x, f"{name}.up_proj")
    product = f.tape.mul(gate, up, "gated", "factor of the gate")
    return f.linear(product, f"{name}.down_proj")


def _experts(f, x: Tensor) -> Tensor:
    """Routed experts, tokens sorted by expert (transformers' grouped_mm_experts_forward).

    Every token goes to `chosen` experts, so the sizes do not depend on the routing.
    """
    t, hidden = f.tape, f.model.hidden
    up = f.weight("mlp.experts.gate_up_proj")
    down = f.weight("mlp.experts.down_proj")
    chosen, width = f.named["mlp.experts.down_proj"].chosen, down.shape[-1]
    pairs = ("b", "s", chosen)  # (token, expert)
    weights = _route(f, x, up.shape[0], chosen)
    rows = t.gather(x, (*pairs, hidden), "tokens by expert", pairs)
    weights = t.gather(weights, (*pairs, 1), "routing weights by expert", pairs)
    both = t.grouped_linear(rows, up, (*pairs, 2 * width), "mlp.experts.gate_up_proj")
    gate, value = t.split(both, [(*pairs, width)] * 2)
    product = t.mul(f.activation(gate), value, "gated", "factor of the gate")
    out = t.grouped_linear(product, down, (*pairs, hidden), "mlp.experts.down_proj")
    out = t.mul(out, weights, "weighted output of experts", "routing weight")
    out = t.gather(out, (*pairs, hidden), "output by token", pairs)
    summed = Tensor(("b", "s", hidden), out.dtype, "sum over experts")
    return t.cast(t.emit("sum", summed, [(out, True)]), x.dtype)


def _route(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """The router's weights of the chosen experts, normalised to sum to one."""
    t = f.tape
    if f.family == "deepseek_v3":
        return _route_by_sigmoid(f, x, experts, chosen)
    scores = f.linear(x, "mlp.gate")
    shares = t.softmax(t.cast(scores, "fp32"))
    index = Tensor(("b", "s", chosen), "int64", "chosen experts", grad=False)
    top = Tensor(("b", "s", chosen), "fp32", "shares of chosen experts")
    t.emit("topk", top, [(shares, False)], [(index, "which were chosen")])
    if f.family != "qwen3_moe" or f.config.get("norm_topk_prob"):
        total = t.emit("sum", Tensor(("b", "s", 1), "fp32", "their sum"), [(top, True)])
        top = t.mul(top, total, "routing weights", "division by the sum")
    return t.cast(top, scores.dtype) if f.family == "qwen3_moe" else top


def _route_by_sigmoid(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """DeepSeek's router: an fp32 product, sigmoid scores, those of the chosen normalised."""
    t = f.tape
    weight = t.cast(f.weight("mlp.gate.weight"), "fp32")
    scores = t.linear(t.cast(x, "fp32"), weight, None, experts, "mlp.gate")
    shares = t.unary("sigmoid", scores, keeps="output")
    index = Tensor(("b", "s", chosen), "int64", "chosen experts", grad=False)
    top = Tensor(("b", "s", chosen), shares.dtype, "scores of chosen experts")
    t.emit("gather", top, [(shares, False)], [(index, "which were chosen")])
    if f.config.get("norm_topk_prob", True):
        total = t.emit("sum", Tensor(("b", "s", 1), top.dtype, "their sum"), [(top, True)])
        top = t.mul(top, total, "routing weights", "division by the sum")
    return t.scale(top)


LAYERS = {"gpt2": gpt2, "gpt_neox": gpt_neox, "opt": opt}  # all others: llama_like
