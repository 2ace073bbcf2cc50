"""Linear layers that bitsandbytes quantised: their bytes, and what their products allocate.

Read in bitsandbytes 0.50 and held against its own layers in data/finetuning_error.csv.
"""

from __future__ import annotations

from math import prod

from ..units import BYTES

BLOCK = 64  # weights that share one scale (arXiv:2305.14314, section 3)
SCALES = 256  # scales that share one fp32 scale of their own under double quantisation
CODES = 16 * 4  # the sixteen fp32 values of NF4, which each layer keeps


def weight_bytes(kind: str, shape: tuple[int, ...]) -> int:
    """Bytes of a quantised weight of shape (out, in), its scales included.

    "int8": a byte a weight and an fp32 scale a row (arXiv:2208.07339). "nf4": half a byte, an fp32
    scale for each 64. "nf4-double": those scales are bytes, with an fp32 scale for each 256 and an
    fp32 offset (arXiv:2305.14314, section 3).
    """
    elements = prod(shape)
    if kind == "int8":
        return elements + 4 * shape[0]
    packed, blocks = -(-elements // 2), -(-elements // BLOCK)
    if kind == "nf4":
        return packed + 4 * blocks + CODES
    return packed + blocks + 4 * -(-blocks // SCALES) + 4 + CODES


def dequantized_bytes(kind: str, shape: tuple[int, ...], stored: str, wanted: str) -> int:
    """Bytes that the backward pass allocates to have the weight as numbers, freed after it.

    Args:
        stored: dtype in which the weight was before it was quantised, and comes back.
        wanted: dtype of the gradient that meets it: another copy where it differs.
    """
    elements = prod(shape)
    if kind == "int8":
        return elements * BYTES[wanted]
    scales = 4 * -(-elements // BLOCK) if kind == "nf4-double" else 0
    back = elements * BYTES[stored]
    return back + max(scales, elements * BYTES[wanted] if wanted != stored else 0)
