"""Bytes that an optimizer keeps between steps, and what it allocates during one."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod

BLOCK = 256  # elements of an 8-bit moment that share one fp32 scale
SMALL = 4096  # elements of a tensor from which its moments are 8-bit; smaller ones keep fp32


@dataclass(frozen=True)
class Trained:
    """A trained tensor: `count` of it in the model, `width` bytes an element; `hidden` if it is a
    matrix inside the layers."""

    shape: tuple[int, ...]
    count: int
    width: int
    hidden: bool

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def total(self) -> int:
        return self.elements * self.count


def state_bytes(name: str, tensors: list[Trained], master: bool) -> int:
    """Bytes of optimizer state; `master` adds fp32 copies of the weights and makes the rest fp32.

    AdamW keeps two moments (Loshchilov and Hutter, arXiv:1711.05101), momentum, Lion
    (arXiv:2302.06675) and Muon one; Adafactor one row and one column of a matrix
    (arXiv:1804.04235); 8-bit AdamW a byte and 4/256 of a scale per moment (arXiv:2110.02861, with
    blocks of 256 as torchao has them; the paper's are larger).
    Step counters, on the CPU, are not counted.
    """
    total = 0
    for t in tensors:
        width = 4 if master else t.width
        total += t.count * _STATE[name](t, width)
        if master:
            total += t.total * 4
    return total


def _factored(t: Trained, width: int) -> int:
    if len(t.shape) < 2:
        return t.elements * width
    return (t.elements // t.shape[-1] + t.elements // t.shape[-2]) * width


def _quantized(t: Trained, width: int) -> int:
    if t.elements < SMALL:
        return 8 * t.elements
    return 2 * (t.elements + 4 * -(-t.elements // BLOCK))


_STATE = {
    "sgd": lambda t, width: 0,
    "momentum": lambda t, width: t.elements * width,
    "adamw": lambda t, width: 2 * t.elements * width,
    "adamw-fused": lambda t, width: 2 * t.elements * width,
    "adamw-8bit": _quantized,
    "adafactor": _factored,
    "muon": lambda t, width: (1 if t.hidden else 2) * t.elements * width,
    "lion": lambda t, width: t.elements * width,
}


def temporary_bytes(name: str, tensors: list[Trained], master: bool) -> int:
    """Bytes that the update allocates beyond weights, gradients and state, at its worst.

    foreach AdamW holds the square roots of all second moments at once. Loops hold one tensor's
    update, and the one before it until the name is assigned anew. Muon holds the update, two bf16
    iterates and two Gram matrices of one weight (torch.optim.Muon), and AdamW's for the others.
    """

    def width(t):
        return 4 if master else t.width

    if name == "adamw":
        return sum(t.total * width(t) for t in tensors)
    if name in ("adafactor", "lion"):
        sizes = [t.elements * width(t) for t in tensors]
        return max(a + b for a, b in pairwise([0, *sizes]))
    if name == "muon":
        others = sum(t.total * width(t) for t in tensors if not t.hidden)
        return max([others, *(_newton_schulz(t, width(t)) for t in tensors if t.hidden)])
    return 0


def _newton_schulz(t: Trained, width: int) -> int:
    iterates = 2 * 2 * t.elements
    gram = 2 * 2 * min(t.shape) ** 2
    return width * t.elements + iterates + gram
