"""Activation functions as transformers writes them: torch's own keep one tensor, others more."""

from __future__ import annotations

from .tape import NEW, NONE, SAME, Tape, Tensor

# What a function of torch keeps for its gradient.
KEPT = {
    "silu": "input",
    "swish": "input",
    "gelu": "input",
    "gelu_pytorch_tanh": "input",
    "mish": "input",
    "relu": "output",
    "relu6": "input",
    "tanh": "output",
    "sigmoid": "output",
    "leaky_relu": "input",
    "hardswish": "input",
}


def _cubic_gelu(t: Tape, x: Tensor) -> Tensor:
    """gelu_new: 0.5 x (1 + tanh(c (x + 0.044715 x³)))."""
    half = t.scale(x, "0.5 x")
    cubic = t.add(x, t.scale(t.power(x), "0.044715 x³"))
    tanh = t.unary("tanh", t.scale(cubic, "x + 0.044715 x³"), keeps="output")
    return t.mul(half, _plus_one(t, tanh), "output of gelu", "factor in gelu")


def _fast_gelu(t: Tape, x: Tensor) -> Tensor:
    """gelu_fast: 0.5 x (1 + tanh(c x (1 + 0.044715 x x)))."""
    half = t.scale(x, "0.5 x")
    inner = _plus_one(t, t.mul(t.scale(x, "0.044715 x"), x, "0.044715 x²"))
    tanh = t.unary("tanh", t.mul(t.scale(x, "c x"), inner), keeps="output")
    return t.mul(half, _plus_one(t, tanh), "output of gelu", "factor in gelu")


def _quick_gelu(t: Tape, x: Tensor) -> Tensor:
    sigmoid = t.unary("sigmoid", t.scale(x, "1.702 x"), keeps="output")
    return t.mul(x, sigmoid, "output of gelu", "factor in gelu")


def _python_gelu(t: Tape, x: Tensor) -> Tensor:
    half = t.scale(x, "0.5 x")
    erf = t.unary("erf", t.scale(x, "x / sqrt(2)"), keeps="input", temporaries=3)
    return t.mul(half, _plus_one(t, erf), "output of gelu", "factor in gelu")


def _squared_relu(t: Tape, x: Tensor) -> Tensor:
    relu = t.unary("relu", x, keeps="output")
    return t.power(relu)


def _plus_one(t: Tape, x: Tensor) -> Tensor:
    return t.copy(x, x.shape, f"1 + {x.name}")


def xielu(t: Tape, x: Tensor, above: Tensor, below: Tensor) -> Tensor:
    """Apertus's (arXiv:2411.13010), without its own kernel: a parabola above 0, an exponential
    below, each with a learned slope."""
    is_above = Tensor(x.shape, "bool", "which are above 0", grad=False)
    slope_p = t.unary("softplus", t.listed(above), keeps="input")
    slope_n = t.unary("softplus", t.listed(below), keeps="input")
    for slope in (slope_p, slope_n):
        slope.part = "activations"
    up = t.mul(t.mul(slope_p, x, "slope x x"), x, "slope x²")
    up = t.add(up, t.scale(x))
    least = t.unary("minimum", x, keeps="input", temporaries=2)
    power = t.unary("expm1", t.listed(least), keeps="output", temporaries=2)
    less = t.emit("sub", Tensor(x.shape, power.dtype, "exp(x) - 1 - x"), [(power, SAME), (x, NEW)])
    down = t.add(t.mul(less, slope_n, "slope of the exponential"), t.scale(x))
    out = Tensor(x.shape, x.dtype, "output of xielu")
    return t.emit("where", out, [(up, NEW), (down, NEW)], [(is_above, "which side")])


WRITTEN_OUT = {
    "gelu_new": _cubic_gelu,
    "gelu_accurate": _cubic_gelu,
    "gelu_fast": _fast_gelu,
    "quick_gelu": _quick_gelu,
    "gelu_python": _python_gelu,
    "relu2": _squared_relu,
    "linear": lambda t, x: x,
}
ALLOWED = tuple(sorted((*KEPT, *WRITTEN_OUT)))


def activation(t: Tape, x: Tensor, name: str, field: str) -> Tensor:
    """The activation that the config's `field` names."""
    if name in KEPT:
        return t.unary(name, x, keeps=KEPT[name])
    if name not in WRITTEN_OUT:
        raise ValueError(f"{field}: {name!r} given; allowed: {', '.join(ALLOWED)}")
    return WRITTEN_OUT[name](t, x)


def bloom_gelu(t: Tape, x: Tensor) -> Tensor:
    """BLOOM's own function keeps its input; its gradient is written out, six tensors at once."""
    out = Tensor(x.shape, x.dtype, "output of gelu")
    size = NONE
    for _ in range(5):
        size = tuple(a + b for a, b in zip(size, x.size, strict=True))
    return t.emit("bloom gelu", out, [(x, NEW)], [(x, "input of gelu")], size)
