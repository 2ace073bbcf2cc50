"""Normalisations as transformers writes them, operation by operation, on a tape."""

from __future__ import annotations

from .tape import NEW, SAME, Tape, Tensor

# Each takes (tape, input, weight, bias, name); the families' names for them are in
# `sizing.architecture.family_rows`.


def rms(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """Llama's: normalised in fp32, scaled in the input's dtype."""
    given = x.dtype
    normal = _normal(t, x, name)
    return t.mul(weight, t.cast(normal, given), *_scaled(name))


def rms_in_fp32(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """OLMo 2's: scaled before it returns to the input's dtype."""
    return t.cast(t.mul(weight, _normal(t, x, name), *_scaled(name)), x.dtype)


def rms_plus_one(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """Gemma's: scaled in fp32 with 1 + weight."""
    normal = _normal(t, x, name)
    weight = t.copy(t.cast(weight, "fp32"), weight.shape, f"1 + weight of {name}")
    weight.part = "activations"
    return t.cast(t.mul(normal, weight, *_scaled(name)), x.dtype)


def rms_all_in_fp32(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """Gemma 4's: scaled in fp32 with the weight, if it has one; a power in the place of rsqrt."""
    given, x = x.dtype, t.cast(x, "fp32")
    squares = t.unary("pow", x, temporaries=3)
    mean = t.emit("mean", Tensor((*x.shape[:-1], 1), "fp32", "mean"), [(squares, NEW)])
    normal = t.mul(x, t.unary("pow", mean), f"normalised input of {name}", f"factor in {name}")
    if weight is not None:
        wide = t.cast(weight, "fp32")
        wide.part = "activations" if wide is not weight else wide.part
        normal = t.mul(normal, wide, *_scaled(name))
    return t.cast(normal, given)


def rms_alone(t: Tape, x: Tensor, name) -> Tensor:
    """Llama 4's norm of queries and keys: no weights."""
    return t.cast(_normal(t, x, name), x.dtype)


def layer(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    return t.layer_norm(x, weight, bias, name)


def layer_alone(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """OLMo's: in fp32, no weights."""
    return t.cast(t.layer_norm(t.cast(x, "fp32"), None, None, name), x.dtype)


def layer_plus_one(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """Nemotron's: scaled with 1 + weight; on CUDA it casts to bf16 itself, autocast or not."""
    more = t.emit("1 + weight", Tensor(weight.shape, weight.dtype, name), [(weight, SAME)])
    mixed, t.autocast = t.autocast, False
    if mixed and t.device == "cuda":
        x, more, bias = t.cast(x, "bf16"), t.cast(more, "bf16"), t.cast(bias, "bf16")
    out = t.layer_norm(x, more, bias, name)
    t.autocast = mixed
    return out


def layer_in_fp32(t: Tape, x: Tensor, weight, bias, name) -> Tensor:
    """Cohere's: written out in fp32; the input less its mean is computed twice."""
    given = x.dtype
    x = t.cast(x, "fp32")
    mean = _mean(t, x)
    first = _less(t, x, mean, name)
    squares = t.unary("pow", first, temporaries=3)
    deviation = t.unary("rsqrt", _mean(t, squares), keeps="output", temporaries=3)
    normal = t.mul(_less(t, x, mean, name), deviation, f"normalised input of {name}")
    wide = t.cast(weight, "fp32")
    wide.part = "activations" if wide is not weight else wide.part
    return t.cast(t.mul(wide, normal, *_scaled(name)), given)


def _normal(t: Tape, x: Tensor, name) -> Tensor:
    x = t.cast(x, "fp32")
    return t.mul(x, t.inverse_rms(x), f"normalised input of {name}", f"factor in {name}")


def _scaled(name) -> tuple[str, str]:
    return f"output of {name}", f"scaling in {name}"


def _mean(t: Tape, x: Tensor) -> Tensor:
    return t.emit("mean", Tensor((*x.shape[:-1], 1), x.dtype, "mean"), [(x, NEW)])


def _less(t: Tape, x: Tensor, mean: Tensor, name) -> Tensor:
    out = Tensor(x.shape, x.dtype, f"input of {name} less its mean")
    return t.emit("sub", out, [(x, SAME), (mean, NEW)])


NORMS = {
    "rms": rms,
    "rms, scaled in fp32": rms_in_fp32,
    "rms, 1 + weight": rms_plus_one,
    "rms, all in fp32": rms_all_in_fp32,
    "layer": layer,
    "layer, no weights": layer_alone,
    "layer, 1 + weight": layer_plus_one,
    "layer, in fp32": layer_in_fp32,
}
