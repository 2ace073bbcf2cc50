"""What a model is made of: weight tensors, kinds of layer, and the modules that bring them."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..units import BYTES


@dataclass(frozen=True)
class Weight:
    """One weight tensor: its name and shape in transformers, the part of the model it counts in.

    `kind` says how a token meets it: "matrix" (multiplied with each token), "lookup" (one row is
    read), "vector" (norm or bias, elementwise). Routed experts are stacked in one tensor of shape
    (experts, out, in); `chosen` of them see a given token, though some implementations multiply it
    with all (`computed`). What is not `trained` gets no gradient: a correction set by other means.
    `dtype` is set where it does not follow the model's; `uses` is how often a layer multiplies it.
    """

    name: str
    shape: tuple[int, ...]
    part: str
    kind: str = "matrix"
    chosen: int | None = None
    computed: bool | None = None
    trained: bool = True
    dtype: str | None = None
    uses: int = 1

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def active(self) -> int:
        """Elements that one token meets."""
        if self.chosen is None:
            return self.elements
        return self.elements // self.shape[0] * self.chosen

    def bytes(self, dtype: str) -> int:
        """Bytes of the tensor in a model kept in `dtype`."""
        return self.elements * BYTES[self.dtype or dtype]

    @property
    def multiplied(self) -> int:
        """Elements that one token is multiplied with."""
        return (self.elements if self.computed else self.active) * self.uses


@dataclass(frozen=True)
class Block:
    """A kind of layer: `count` layers that have these weights and this attention.

    `query_dim` and `value_dim` are the widths of a head in the two attention matmuls; `window` is
    the sliding window in tokens (None: all). `last_matmul` names the weight that PyTorch's
    checkpointing does not multiply again (no tensor is saved after it), None if it must. `rotated`
    says whether queries and keys have rotary positions, where the family rotates at all; with
    `shares_keys` a layer projects no keys and values, but reads those of one before it. `linear` is
    the number of tokens in a block of linear attention (None: softmax over all pairs), `streams`
    how many hidden states a token has that the layer mixes with one another (AltUp), and with
    `cut_gates` the MLP sets all gates but the largest to zero. `places` are the layers' numbers
    from 0, where there are several kinds.
    """

    count: int
    weights: tuple[Weight, ...]
    heads: int
    query_dim: int
    value_dim: int
    window: int | None = None
    last_matmul: str | None = None
    rotated: bool = True
    shares_keys: bool = False
    linear: int | None = None
    streams: int = 1
    cut_gates: bool = False
    places: tuple[int, ...] = ()


def places(kinds: list, kind) -> tuple[int, ...]:
    """The numbers of the layers of a kind."""
    return tuple(number for number, one in enumerate(kinds) if one == kind)


@dataclass(frozen=True)
class Architecture:
    vocab: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    tied: bool
    outer: tuple[Weight, ...]
    blocks: tuple[Block, ...]
    max_positions: int | None = None


# -- the weights of a module, named as transformers names them


def linear(name, out, into, part, bias=False, dtype=None) -> tuple[Weight, ...]:
    weight = Weight(f"{name}.weight", (out, into), part, dtype=dtype)
    return (weight, Weight(f"{name}.bias", (out,), part, "vector")) if bias else (weight,)


def conv1d(name, out, into, part) -> tuple[Weight, ...]:
    return Weight(f"{name}.weight", (into, out), part), Weight(
        f"{name}.bias", (out,), part, "vector"
    )


def rms_norm(name, width) -> tuple[Weight, ...]:
    return (Weight(f"{name}.weight", (width,), "norm", "vector"),)


def layer_norm(name, width, affine=True) -> tuple[Weight, ...]:
    if not affine:
        return ()
    return (*rms_norm(name, width), Weight(f"{name}.bias", (width,), "norm", "vector"))


def head(vocab, width, tied, bias=False) -> tuple[Weight, ...]:
    matrix = () if tied else (Weight("lm_head.weight", (vocab, width), "head"),)
    return (*matrix, Weight("lm_head.bias", (vocab,), "head", "vector")) if bias else matrix
