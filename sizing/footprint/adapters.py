"""Frozen linear layers, quantised or not, with adapters beside them, on a tape.

As peft 0.21 writes them (tuners/lora/layer.py and bnb.py), over torch's linear layer or those of
bitsandbytes (autograd/_functions.py).
"""

from __future__ import annotations

from ..lora import linear_layers
from ..units import BYTES
from .quantized import dequantized_bytes
from .tape import NEW, NEW_VIEW, SAME, Tensor, size_of


def linear(f, x: Tensor, name: str, weight: Tensor, bias: Tensor | None, out_dim: int) -> Tensor:
    """A linear layer of a model that is trained through adapters."""
    known = name in linear_layers(f.model)
    kind = f.run.quantization if known else None
    if kind is None:
        out = f.tape.linear(x, weight, bias, out_dim, name)
    else:
        out = _quantized(f, x, name, kind, (out_dim, x.shape[-1]))
    if not known or not f.run.lora.adapts(name):
        return out
    return _adapted(f, x, out, name, kind)


def _adapted(f, x: Tensor, out: Tensor, name: str, kind: str | None) -> Tensor:
    """The layer's output plus dropout, (rank, in), (out, rank) and a factor of the input."""
    t, lora, given = f.tape, f.run.lora, out.dtype
    down = f.adapter((lora.rank, x.shape[-1]), f"{name}.lora_A")
    up = f.adapter((out.shape[-1], lora.rank), f"{name}.lora_B")
    held = (*f.around, *f.frame, x)  # until the layer returns
    if kind is None or not t.autocast:  # over a quantised layer autocast casts alone
        x = t.cast(x, lora.dtype)
    if kind in ("nf4", "nf4-double"):
        out = t.emit("clone", Tensor(out.shape, given, f"copy of {out.name}"), [(out, SAME)])
    dropped = t.dropout(x, lora.dropout)
    low = t.linear(dropped, down, None, lora.rank, f"{name}.lora_A")
    t.during(*held, x, dropped, out)
    high = t.linear(low, up, None, out.shape[-1], f"{name}.lora_B")
    scaled = t.scale(high)
    t.during(*held, x, out, high, scaled)
    if kind is not None and not t.autocast:
        scaled = t.cast(scaled, given)
    summed = t.add(out, scaled)
    t.during(*held, x, out, scaled, summed, *_promoted(t, out, scaled))
    return t.cast(summed, given)


def _promoted(t, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
    """What a sum of two dtypes copies on a CPU; CUDA's kernel casts as it reads."""
    return (Tensor(x.shape, y.dtype),) if t.device == "cpu" and x.dtype != y.dtype else ()


def _quantized(f, x: Tensor, name: str, kind: str, shape: tuple[int, int]) -> Tensor:
    """bitsandbytes' product. The weight is not kept as numbers: it is made again for the gradient.

    LLM.int8() holds on to its input though no gradient needs it; NF4 does not.
    """
    t, given = f.tape, x.dtype
    if kind == "int8":
        out = Tensor((*x.shape[:-1], shape[0]), given, f"output of {name}")
        size = dequantized_bytes(kind, shape, given, given)
        out = t.emit(name, out, [(x, NEW_VIEW)], scratch=_once(size))
        if x.grad:
            t.hold(x)
        return out
    compute = f.run.recipe.products
    compute = "bf16" if BYTES[compute] == 2 else compute
    x = t.cast(x, compute)
    out = Tensor((*x.shape[:-1], shape[0]), compute, f"output of {name}")
    size = dequantized_bytes(kind, shape, compute, compute)
    out = t.emit(name, out, [(x, NEW)], scratch=_once(size))
    return t.cast(out, given)


def _once(size: int):
    return size_of((size,), "bool")
