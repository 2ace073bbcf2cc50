"""A layer of Gemma 3n and what stands around its layers, on a tape.

Lay modeling_gemma3n.py of transformers 5.23 beside it: `Gemma3nTextDecoderLayer`,
`Gemma3nTextAltUp`, `Gemma3nTextLaurelBlock`, `Gemma3nTextMLP`, and the forward pass of
`Gemma3nTextModel`. A token's hidden states are one tensor of shape (streams, b, s, hidden).
"""

from __future__ import annotations

from .gemma4 import attention
from .tape import NEW, SAME, Tape, Tensor, plus, times


def gemma3n(f, x: Tensor) -> Tensor:
    t = f.tape
    predicted = _predict(f, x)
    active = _first(t, predicted)
    normed = f.norm(active, "input_layernorm")
    low = f.linear(f.linear(normed, "laurel.linear_left"), "laurel.linear_right")
    laurel = t.add(normed, f.norm(low, "laurel.post_laurel_norm"), "low-rank residual")
    f.frame = ()
    _refer(f, predicted, normed, laurel)
    attended = f.norm(attention(f, normed), "post_attention_layernorm")
    gated = t.add(active, attended, "residual")
    y = t.scale(t.add(gated, laurel, "residual"), "residual / sqrt(2)")
    before = f.norm(y, "pre_feedforward_layernorm")
    _refer(f, attended, gated, y, before)
    z = _mlp(f, before)
    after = f.norm(z, "post_feedforward_layernorm")
    activated = t.add(y, after, "activated")
    _refer(f, z, after, activated)
    return _with_layer_input(f, _correct(f, predicted, activated))


def _refer(f, *tensors: Tensor) -> None:
    """What the code refers to until the layer returns, kept or not."""
    f.frame += tensors
    f.tape.nodes[-1].again += tuple(x.storage for x in tensors)


# -- AltUp


def _predict(f, x: Tensor) -> Tensor:
    """All hidden states, each a weighted sum of all, added to what they were."""
    t, n = f.tape, f.block.streams
    router = _modalities(f, _first(t, x))
    coefficients = f.linear(router, "altup.prediction_coefs")
    coefficients = t.view(coefficients, ("b", "s", n, n))
    last = t.view(x, ("b", "s", x.shape[-1], n), "permute")
    last = t.lower(last)
    out = t.matmul(last, t.lower(coefficients), last.shape, "predictions")
    out = t.view(out, x.shape, "permute")
    summed = Tensor(x.shape, out.dtype, "predictions", storage=out)
    grads = [(out, SAME), (x, SAME if x.dtype == out.dtype else NEW)]
    out = t.copy(t.emit("add_", summed, grads), x.shape, "contiguous")
    return t.cast(out, x.dtype)


def _modalities(f, x: Tensor) -> Tensor:
    """(b, s, streams): the router's opinion of a hidden state."""
    t = f.tape
    y = t.scale(f.norm(x, "altup.router_norm"), "input of the router")
    y = t.cast(f.linear(y, "altup.modality_router"), "fp32")
    return t.cast(t.unary("tanh", y, keeps="output"), x.dtype)


def _correct(f, predicted: Tensor, activated: Tensor) -> Tensor:
    """The predictions plus what the layer found out, weighted for each of them."""
    t, n = f.tape, f.block.streams
    router = _modalities(f, activated)
    first = _first(t, predicted)
    news = Tensor(activated.shape, activated.dtype, "innovation")
    news = t.emit("sub", news, [(activated, SAME), (first, NEW)])
    copies = Tensor(predicted.shape, news.dtype, "innovation for each state")
    copies = t.emit("repeat", copies, [(news, NEW)])
    weights = t.linear(router, _clamped(f), None, n, "altup.correction_coefs")
    weights = t.view(t.copy(weights, weights.shape, "1 + coefficients"), (n, "b", "s", 1))
    out = t.mul(copies, weights, "corrections", "coefficient")
    summed = Tensor(out.shape, out.dtype, "corrected", storage=out)
    return t.emit("add_", summed, [(out, SAME), (predicted, SAME)])


def _clamped(f) -> Tensor:
    weight = f.weight("altup.correction_coefs.weight")
    if f.config.get("altup_coef_clip") is None:
        return weight
    return f.tape.unary("clamp", weight, keeps="input", temporaries=2)


def _first(t: Tape, x: Tensor) -> Tensor:
    """The active one of a token's hidden states; its gradient comes in zeros for all of them."""
    return t.slice(x, x.shape[1:])


def _with_layer_input(f, x: Tensor) -> Tensor:
    """The layer's own numbers for the token, added to all hidden states but the first."""
    t = f.tape
    y = t.copy(_first(t, x), x.shape[1:], "clone")
    if f.config.get("altup_correct_scale"):
        y = t.mul(y, f.weight("altup.correct_output_scale"), "scaled state", "scale")
    y = f.activation(f.linear(y, "per_layer_input_gate"))
    y = t.mul(y, f.layer_input, "weighted input of the layer", "numbers of the layer")
    y = f.linear(y, "per_layer_projection")
    _refer(f, x, y)
    y = f.norm(y, "post_per_layer_input_norm")
    # x[1:] += y: an addition in place to a slice, then the slice copied onto itself
    rest = (x.shape[0] - 1, *x.shape[1:])
    some = Tensor(rest, x.dtype, "other states").size
    out = Tensor(x.shape, x.dtype, "hidden states", storage=x)
    return t.emit("copy slices", out, [(x, NEW), (y, NEW)], extra=plus(plus(x.size, y.size), some))


# -- MLP


def _mlp(f, x: Tensor) -> Tensor:
    t = f.tape
    gate = f.linear(x, "mlp.gate_proj")
    if f.block.cut_gates:
        gate = _largest(t, gate)
    gate = f.activation(gate)
    up = f.linear(x, "mlp.up_proj")
    return f.linear(t.mul(gate, up, "gated", "factor of the gate"), "mlp.down_proj")


def _largest(t: Tape, x: Tensor) -> Tensor:
    """What is above mean + factor x deviation of the token's gates, less that; else 0."""
    row = (*x.shape[:-1], 1)
    mean = t.emit("mean", Tensor(row, x.dtype, "mean of gates"), [(x, NEW)])
    deviation = Tensor(row, x.dtype, "deviation of gates")
    saved = [(x, "input of std"), (deviation, "output of std")]
    deviation = t.emit("std", deviation, [(x, NEW)], saved, extra=times(2, x.size))
    cutoff = t.add(mean, t.scale(deviation), "cutoff")
    above = Tensor(x.shape, x.dtype, "gates less the cutoff")
    above = t.emit("sub", above, [(x, SAME), (cutoff, NEW)])
    return t.unary("relu", above, keeps="output")


# -- around the layers


def enter(f, x: Tensor) -> Tensor:
    """The embedding and projections of it, each as long as the embedding."""
    t, n = f.tape, f.model.blocks[0].streams
    length = _length(t, x, square_root=False)
    states = [x]
    for i in range(n - 1):
        y = t.cast(f.outer_linear(x, f"altup_projections.{i}", x.shape[-1]), x.dtype)
        states.append(_as_long(t, y, length))
    return t.cat(states, (n, *x.shape), "stack")


def leave(f, x: Tensor) -> Tensor:
    """The mean of the first hidden state and projections of the others."""
    t = f.tape
    length = _length(t, _first(t, x), square_root=False)
    states = [_first(t, x)]
    for i in range(x.shape[0] - 1):
        y = f.outer_linear(_first(t, x), f"altup_unembed_projections.{i}", x.shape[-1])
        states.append(_as_long(t, t.cast(y, f.dtype), length))  # as the embedding
    x = t.cat(states, x.shape, "stack")
    return t.emit("mean", Tensor(x.shape[1:], x.dtype, "mean of states"), [(x, NEW)])


def _length(t: Tape, x: Tensor, square_root: bool) -> Tensor:
    """sqrt(mean(x²)) of each token: as a power, or as a root of what is not too small."""
    squares = t.power(x)
    row = (*x.shape[:-1], 1)
    mean = t.emit("mean", Tensor(row, squares.dtype, "mean square"), [(squares, NEW)])
    if not square_root:
        return t.power(mean)
    return t.unary("sqrt", t.unary("clamp", mean, keeps="input", temporaries=2), keeps="output")


def _as_long(t: Tape, x: Tensor, length: Tensor) -> Tensor:
    own = _length(t, x, square_root=True)
    x = t.mul(x, length, "times the wanted length", "length")
    out = Tensor(x.shape, x.dtype, "divided by its own length")
    saved = [(x, "numerator"), (own, "length")]
    return t.emit("div", out, [(x, NEW), (own, NEW)], saved, extra=times(3, x.size))
