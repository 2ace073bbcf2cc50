"""Mixtures of experts on a tape: routers, the grouped product of transformers, shared experts.

Every token goes to as many experts as the config says, so that the sizes do not depend on how the
router spreads them.
"""

from __future__ import annotations

from .tape import NEW, NEW_VIEW, SAME, Tensor


def mixture(f, x: Tensor, gated_mlp) -> Tensor:
    """What takes the MLP's place in a sparse layer."""
    e = f.traits.experts
    if e.every:
        return _every_expert(f, x, gated_mlp)
    if e.shared is None or f"{e.shared}.gate_proj.weight" not in f.named:
        return routed(f, x)
    if e.shared_gate is None and e.router != "fp32 softmax":
        out = routed(f, x)
        return f.tape.add(out, _beside(f, out, gated_mlp, x, e.shared))
    shared = gated_mlp(f, x, e.shared)
    out = _beside(f, shared, routed, x)
    if e.shared_gate:
        open_ = f.tape.unary("sigmoid", f.linear(x, e.shared_gate), keeps="output")
        shared = f.tape.mul(open_, shared, "shared output", "gate of the shared expert")
    return f.tape.cast(f.tape.add(out, shared), x.dtype)


def _beside(f, held: Tensor, call, *args) -> Tensor:
    """What `call` records while the code holds on to another tensor."""
    f.frame += (held,)
    out = call(f, *args)
    f.frame = f.frame[:-1]
    return out


def routed(f, x: Tensor) -> Tensor:
    """Tokens sent to the experts that their router chooses."""
    e = f.traits.experts
    if f.rate(e.jitter):
        noise = Tensor(x.shape, x.dtype, "noise on the tokens", grad=False)
        noisy = Tensor(x.shape, x.dtype, x.name, storage=x)
        x = f.tape.emit("mul_", noisy, [(x, NEW)], [(noise, "noise")])
    experts, *_ = f.named[f"{e.stack}.down_proj"].shape
    chosen = f.named[f"{e.stack}.down_proj"].chosen
    return dispatch(f, x, ROUTERS[e.router](f, x, experts, chosen))


def dispatch(f, x: Tensor, weights: Tensor) -> Tensor:
    """Tokens sorted by expert (transformers' grouped_mm_experts_forward), weighted, summed."""
    t, hidden, e = f.tape, f.model.hidden, f.traits.experts
    up, down = f.weight(f"{e.stack}.gate_up_proj"), f.weight(f"{e.stack}.down_proj")
    chosen = f.named[f"{e.stack}.down_proj"].chosen
    width = down.shape[1] if e.transposed else down.shape[2]
    pairs = ("b", "s", chosen)  # (token, expert)
    rows = t.gather(x, (*pairs, hidden), "tokens by expert", pairs)
    weights = t.gather(weights, (*pairs, 1), "routing weights by expert", pairs)
    which = Tensor(pairs, "int64", "expert of each row", grad=False) if e.bias else None
    both = t.grouped_linear(rows, up, (*pairs, 2 * width), f"{e.stack}.gate_up_proj")
    both, bias = _biased(f, both, f"{e.stack}.gate_up_proj_bias", which)
    _while_it_runs(f, x, rows, both, *bias)
    inside = _clamped_gate(f, both) if e.bias else _gate(f, both, width)
    product = inside[-1]
    _while_it_runs(f, x, rows, both, *bias, *inside)
    out = t.grouped_linear(product, down, (*pairs, hidden), f"{e.stack}.down_proj")
    out, bias = _biased(f, out, f"{e.stack}.down_proj_bias", which)
    _while_it_runs(f, x, rows, product, out, *bias)
    weighted = t.mul(out, weights, "weighted output of experts", "routing weight")
    back = t.gather(weighted, (*pairs, hidden), "output by token", pairs)
    _while_it_runs(f, x, rows, out, *bias, weighted, back)
    summed = Tensor(("b", "s", hidden), back.dtype, "sum over experts")
    return t.cast(t.emit("sum", summed, [(back, True)]), x.dtype)


def _while_it_runs(f, *tensors: Tensor) -> None:
    """What the code refers to, though nothing keeps it where experts are frozen."""
    if f.frozen:
        f.tape.during(*f.around, *f.frame, *tensors)


def _gate(f, both: Tensor, width: int) -> tuple[Tensor, ...]:
    half = (*both.shape[:-1], width)
    gate, value = f.tape.split(both, [half] * 2)
    gate = f.activation(gate)
    return gate, f.tape.mul(gate, value, "gated", "factor of the gate")


def _biased(f, x: Tensor, name: str, which: Tensor | None) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Each row's expert's bias, added in place; the sum, and the biases by row if there are any."""
    bias = f.weight(name)
    if bias is None:
        return x, ()
    t = f.tape
    rows = Tensor(x.shape, bias.dtype, f"{name} by row")
    rows = t.emit("index", rows, [(bias, NEW)], [(which, "which expert's bias")])
    out = Tensor(x.shape, x.dtype, f"{x.name} + bias", storage=x)
    return t.emit("add_", out, [(x, SAME), (rows, SAME)]), (rows,)


def _clamped_gate(f, both: Tensor) -> tuple[Tensor, ...]:
    """gpt-oss: (up + 1) x gate x sigmoid(alpha x gate), both clamped; columns alternate."""
    t = f.tape
    half = (*both.shape[:-1], both.shape[-1] // 2)
    gate, up = t.slice(both, half), t.slice(both, half)
    gate = t.unary("clamp", gate, keeps="input", temporaries=2)
    up = t.unary("clamp", up, keeps="input", temporaries=2)
    sigmoid = t.unary("sigmoid", t.scale(gate), keeps="output")
    glu = t.mul(gate, sigmoid, "gate x sigmoid", "factor of the gate")
    more = t.copy(up, up.shape, "1 + up")
    return gate, up, sigmoid, glu, more, t.mul(more, glu, "gated", "factor of the gate")


# -- routers: (batch, sequence, chosen) weights from the layer's input


def _scores(f, x: Tensor, scores: Tensor | None = None) -> Tensor:
    """The router's product. If the config asks for the loss that balances experts, it keeps the
    softmax of every layer's scores until the backward pass of that layer."""
    t = f.tape
    scores = f.linear(x, f.traits.experts.gate) if scores is None else scores
    if f.config.get("output_router_logits"):
        region, t.region = t.region, None  # a loss of the whole model: not recomputed
        on_cuda = t.autocast and t.device == "cuda"
        t.softmax(t.cast(scores, "fp32") if on_cuda else scores)
        t.region = region
    return scores


def _chosen(t, shares: Tensor, chosen: int, name="topk") -> Tensor:
    span = shares.shape[:-1]
    index = Tensor((*span, chosen), "int64", "chosen experts", grad=False)
    top = Tensor((*span, chosen), shares.dtype, "shares of chosen experts")
    return t.emit(name, top, [(shares, False)], [(index, "which were chosen")])


def _normalised(t, top: Tensor) -> Tensor:
    total = t.emit("sum", Tensor((*top.shape[:-1], 1), top.dtype, "their sum"), [(top, True)])
    return t.mul(top, total, "routing weights", "division by the sum")


def _softmax(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """Mixtral: shares of the chosen, normalised to sum to one, in fp32."""
    t = f.tape
    scores = _scores(f, x)
    return _normalised(t, _chosen(t, t.softmax(t.cast(scores, "fp32")), chosen))


def _softmax_as_configured(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """Qwen: normalised where norm_topk_prob says so, in the scores' dtype."""
    t = f.tape
    scores = _scores(f, x)
    top = _chosen(t, t.softmax(t.cast(scores, "fp32")), chosen)
    top = _normalised(t, top) if f.config.get("norm_topk_prob") else top
    return t.cast(top, scores.dtype)


def _softmax_of_chosen(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """Granite: first the choice, in fp32, then the softmax of the chosen scores."""
    t = f.tape
    scores = t.cast(_scores(f, x), "fp32")
    return t.cast(t.softmax(_chosen(t, scores, chosen)), x.dtype)


def _biased_softmax_of_chosen(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """gpt-oss: the softmax keeps the scores' dtype."""
    t = f.tape
    return t.softmax(_chosen(t, _scores(f, x), chosen))


def _sigmoid(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """DeepSeek V3: an fp32 product, sigmoid scores, those of the chosen normalised."""
    t = f.tape
    scores = _fp32_scores(f, x, experts)
    top = _chosen(t, t.unary("sigmoid", scores, keeps="output"), chosen, "gather")
    top = _normalised(t, top) if f.config.get("norm_topk_prob", True) else top
    return t.scale(top)


def _plain_sigmoid(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """MiniMax M2: the product in the weights' dtype, sigmoid in fp32, normalised."""
    t = f.tape
    scores = t.cast(_scores(f, x), "fp32")
    return _normalised(t, _chosen(t, t.unary("sigmoid", scores, keeps="output"), chosen, "gather"))


def _scaled_fp32_softmax(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """DeepSeek V2: an fp32 product, its softmax, the chosen scaled."""
    t = f.tape
    shares = t.softmax(t.cast(_fp32_scores(f, x, experts), "fp32"))
    if f.config.get("topk_method") == "group_limited_greedy":
        mask = Tensor(shares.shape, "bool", "experts of other groups", grad=False)
        kept = Tensor(shares.shape, "fp32", "shares of the groups chosen")
        shares = t.emit("masked_fill", kept, [(shares, NEW)], [(mask, "which groups")])
    return t.scale(_chosen(t, shares, chosen))


def _fp32_softmax(f, x: Tensor, experts: int, chosen: int) -> Tensor:
    """Ernie: all of it in fp32, autocast or not; a sum that is at least moe_norm_min."""
    t, mixed = f.tape, f.tape.autocast
    t.autocast = False
    shares = t.softmax(_scores(f, x, _fp32_scores(f, x, experts)))
    t.autocast = mixed
    top = _chosen(t, shares, chosen, "gather")
    total = t.emit("sum", Tensor((*top.shape[:-1], 1), "fp32", "their sum"), [(top, True)])
    total = t.unary("clamp", total, keeps="input")
    return t.cast(t.mul(top, total, "routing weights", "division by the sum"), x.dtype)


def _fp32_scores(f, x: Tensor, experts: int) -> Tensor:
    t, gate = f.tape, f.traits.experts.gate
    weight = t.cast(f.weight(f"{gate}.weight"), "fp32")
    return t.linear(t.cast(x, "fp32"), weight, None, experts, gate)


ROUTERS = {
    "softmax": _softmax,
    "softmax as configured": _softmax_as_configured,
    "softmax of the chosen": _softmax_of_chosen,
    "softmax of the chosen, biased": _biased_softmax_of_chosen,
    "sigmoid": _sigmoid,
    "plain sigmoid": _plain_sigmoid,
    "fp32 softmax, scaled": _scaled_fp32_softmax,
    "fp32 softmax": _fp32_softmax,
}


# -- Llama 4


def _every_expert(f, x: Tensor, gated_mlp) -> Tensor:
    """Every expert multiplies every token, weighted with 0 where it was not chosen."""
    t, e, hidden = f.tape, f.traits.experts, f.model.hidden
    up, down = f.weight(f"{e.stack}.gate_up_proj"), f.weight(f"{e.stack}.down_proj")
    experts, chosen, width = up.shape[0], f.named[f"{e.stack}.down_proj"].chosen, down.shape[1]
    top = _chosen(t, f.linear(x, e.gate), chosen)
    index = Tensor(top.shape, "int64", "chosen experts", grad=False)
    spread = Tensor(("b", "s", experts), top.dtype, "scores, -inf elsewhere")
    scores = t.emit("scatter", spread, [(top, NEW)], [(index, "where they go")])
    scores = t.cast(t.unary("sigmoid", t.cast(scores, "fp32"), keeps="output"), scores.dtype)
    scores = t.copy(scores, (experts, "b", "s", 1), "scores by expert")
    rows = (experts, "b", "s")
    copies = t.emit("repeat", Tensor((*rows, hidden), x.dtype, "tokens by expert"), [(x, NEW)])
    inputs = t.mul(copies, scores, "weighted tokens", "routing weight")
    both = _batched(f, inputs, up, (*rows, 2 * width), f"{e.stack}.gate_up_proj")
    gate, value = t.split(both, [(*rows, width)] * 2)
    product = t.mul(value, f.activation(gate), "gated", "factor of the gate")
    out = _batched(f, product, down, (*rows, hidden), f"{e.stack}.down_proj")
    shared = gated_mlp(f, x, e.shared)
    summed = t.emit("sum", Tensor(("b", "s", hidden), out.dtype, "sum over experts"), [(out, True)])
    return t.add(shared, summed)


def _batched(f, x: Tensor, weight: Tensor, shape: tuple, name: str) -> Tensor:
    """One product for each expert (bmm)."""
    t = f.tape
    if t.autocast:
        weight, x = t._cast_weight(weight), t.cast(x, "bf16")
    out = Tensor(shape, x.dtype, f"output of {name}")
    saved = [(x, f"input of {name}")] if weight.grad else []
    saved += [(weight, f"weight of {name}")] if x.grad else []
    return t.emit(name, out, [(x, NEW_VIEW), (weight, NEW)], saved)
