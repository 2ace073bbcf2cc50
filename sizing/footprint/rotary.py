"""Rotary positions as the families write them, on a tape."""

from __future__ import annotations

from ..architecture.model import Model
from .tape import NEW, NEW_VIEW, Tensor

# Layers without positions of this kind.
_WITHOUT = ("gpt2", "opt", "gpt_bigcode", "gpt_neo", "bloom", "mpt", "gptj")


def width(model: Model) -> int:
    """How many elements of a head are rotated; 0 where the family rotates none."""
    config, traits = model.config, model.traits
    if model.family in _WITHOUT or (model.family == "falcon" and config.get("alibi")):
        return 0
    if "qk_rope_head_dim" in config:
        return config["qk_rope_head_dim"]
    if not traits.rotated_in_part:
        return model.head_dim
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    share = rope.get("partial_rotary_factor") if isinstance(rope, dict) else None
    for field in ("partial_rotary_factor", "rotary_pct", "rope_pct", "rope_percent"):
        share = config.get(field) if share is None else share
    if share is None and config.get("rotary_dim"):
        return config["rotary_dim"]
    return int(model.head_dim * (traits.rotary_share if share is None else share))


def angles(model: Model, dtype: str, head: int | None = None) -> list[Tensor]:
    """The cosines and sines that all layers (of a kind, with heads of its own width) share."""
    traits, rotated = model.traits, head or width(model)
    if traits.rotary == "complex":  # one complex number for two elements: as large as both in fp32
        return [Tensor((1, "s", rotated), "fp32", "angles", grad=False, shared=True)]
    kept = rotated // 2 if traits.rotary == "two halves" else rotated
    dtype = "fp32" if traits.rotary_fp32 else dtype
    shape = (1, "s", kept)
    return [Tensor(shape, dtype, name, grad=False, shared=True) for name in ("cos", "sin")]


def of_layer(f) -> list[Tensor]:
    """What a layer rotates with: the shared tensors, or its own copies of them."""
    shared = f.rotary()
    if f.traits.rotary != "repeated":
        return shared
    return [Tensor(x.shape, x.dtype, f"{x.name} repeated", grad=False) for x in shared]


def rotate(f, x: Tensor, turns: list[Tensor]) -> Tensor:
    """Queries or keys (b, heads, s, width) turned by their positions."""
    if f.traits.rotary == "complex":
        return rotate_complex(f, x, turns[0])
    if f.traits.rotary == "two halves":
        return rotate_pairs(f, x, turns)
    return _rotate_halves(f, x, turns)


def _rotate_halves(f, x: Tensor, turns: list[Tensor]) -> Tensor:
    """x cos + rotate_half(x) sin, of the first `width` elements where not all are rotated."""
    t = f.tape
    cos, sin = turns
    rotated, half = cos.shape[-1], cos.shape[-1] // 2
    heads, given = x.shape[:-1], x.dtype
    if f.traits.rotated_in_fp32:
        x = t.cast(x, "fp32")
    turned = t.slice(x, (*heads, rotated)) if f.traits.rotated_in_part else x
    product = t.mul(turned, cos, "x cos", "rotary position")
    first, second = t.slice(turned, (*heads, half)), t.slice(turned, (*heads, half))
    swapped = t.cat([t.scale(second), first], (*heads, rotated))
    out = t.add(product, t.mul(swapped, sin, "x' sin", "rotary position"), "rotated")
    if f.traits.rotated_in_part:
        rest = t.slice(x, (*heads, x.shape[-1] - rotated))
        out = t.cat([out, rest], x.shape, "rotated")
    returned = f.traits.rotary_fp32 or f.traits.rotated_in_fp32
    return t.cast(out, given) if returned else out


def rotate_pairs(f, x: Tensor, turns: list[Tensor]) -> Tensor:
    """Even and odd elements (DeepSeek V3), or first and second half (gpt-oss), as pairs."""
    t = f.tape
    cos, sin = turns
    half = (*x.shape[:-1], x.shape[-1] // 2)
    even, odd = t.slice(x, half), t.slice(x, half)
    first = t.add(t.mul(even, cos, why="rotary"), t.scale(t.mul(odd, sin, why="rotary")))
    second = t.add(t.mul(odd, cos, why="rotary"), t.mul(even, sin, why="rotary"))
    return t.cat([first, second], x.shape, "rotated")


def rotate_complex(f, x: Tensor, turn: Tensor) -> Tensor:
    """Pairs of elements as complex numbers times e^(i angle), in fp32."""
    t, given = f.tape, x.dtype
    x = t.cast(x, "fp32")
    out = Tensor(x.shape, "fp32", "rotated")
    grads = [(x, NEW_VIEW if given == "fp32" else NEW)]
    return t.cast(t.emit("complex mul", out, grads, [(turn, "rotary position")]), given)
