"""Bytes that an optimizer keeps between steps, and what it allocates during one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from math import prod

from ..settings import family_of
from .kernels import norm_of_columns

BLOCK = 256  # elements of an 8-bit moment that share one fp32 scale
SMALL = 4096  # elements of a tensor from which its moments are 8-bit; smaller ones keep fp32
CHUNK = 2**20  # elements that 8-bit AdamW holds in fp32 at a time, five times
BLOCK_OF_4 = 128  # elements of a 4-bit moment that share one (torchao 0.18, optim/adam.py)
PAGED = 100_000  # elements from which bitsandbytes pages a state (optim/optimizer.py)
PAGED_STATE = ("paged-adamw-8bit",)


@dataclass(frozen=True)
class Trained:
    """A trained tensor: `count` of it in the model, `width` bytes an element; `hidden` if it is a
    matrix inside the layers; `head`, elements of a square matrix's rows for one attention head."""

    shape: tuple[int, ...]
    count: int
    width: int
    hidden: bool
    name: str = ""
    head: int = 1

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
    blocks of 256 as torchao has them; the paper's are larger), 4-bit AdamW half a byte and 4/128
    (arXiv:2309.01507); bitsandbytes pages the codes of its 8-bit moments, whose scales stay here
    (`paged_bytes`); GaLore two moments of the projected gradient and the projector
    (arXiv:2403.03507), Adam-mini one moment and a value a row, or a head of queries and keys
    (arXiv:2406.16793, adam_mini 1.1.1).
    Step counters, on the CPU, are not counted, nor bitsandbytes' two tables of 1 KiB.
    """
    total = 0
    family, rank = family_of(name)
    for t in tensors:
        width = 4 if master else t.width
        total += t.count * (_galore(t, width, rank) if rank else _kept(family, t, width))
        if master and t.width < 4:  # adapters in fp32 are their own masters
            total += t.total * 4
    return total


def paged_bytes(name: str, tensors: list[Trained]) -> int:
    """Bytes of optimizer state in managed memory, which the driver moves between host and GPU."""
    if name not in PAGED_STATE:
        return 0
    return sum(2 * t.total for t in tensors if t.elements >= PAGED)


def _galore(t: Trained, width: int, rank: int) -> int:
    """galore_torch 1.0: of an fp32 gradient the projector is a view, which keeps the whole factor
    of the decomposition; of a 16-bit one it is a copy of its rank rows."""
    if not t.hidden:
        return 2 * t.elements * width
    short, long = sorted(t.shape)
    rank = min(rank, short)
    return (2 * rank * long + (short if width == 4 else rank) * short) * width


# What an optimizer keeps of a tensor, as a state dictionary names it: (slot, shape, dtype). None is
# the dtype of the moments: that of the weight, or of its master. Single numbers with a dtype of
# their own, as step counters, are on the host.
Slots = tuple[tuple[str, tuple[int, ...], str | None], ...]
_COUNTER = ("step", (), "fp32")


def _one(slot: str) -> Callable[[Trained], Slots]:
    return lambda t: ((slot, t.shape, None),)


def _adamw(t: Trained) -> Slots:
    return (_COUNTER, ("exp_avg", t.shape, None), ("exp_avg_sq", t.shape, None))


def _adafactor(t: Trained) -> Slots:
    if len(t.shape) < 2:
        return (_COUNTER, ("variance", t.shape, None))
    row, column = (*t.shape[:-1], 1), (*t.shape[:-2], 1, t.shape[-1])
    return (_COUNTER, ("row_var", row, None), ("col_var", column, None))


def _eight_bit(t: Trained) -> Slots:
    counter = ("step", (), "int64")
    if t.elements < SMALL:
        return (counter, *((f"moments.{i}", t.shape, "fp32") for i in range(2)))
    codes, scales = (t.elements,), (-(-t.elements // BLOCK),)
    pairs = ((codes, "int8"), (scales, "fp32")) * 2
    return (counter, *((f"moments.{i}", *pair) for i, pair in enumerate(pairs)))


def _four_bit(t: Trained) -> Slots:
    if t.elements < SMALL or t.elements % BLOCK_OF_4:
        return _adamw(t)
    parts = (
        ("codes", (t.elements // 2,), "uint8"),
        ("scale", (t.elements // BLOCK_OF_4,), "fp32"),
        ("qmap", (16,), "fp32"),
    )
    moments = ("exp_avg", "exp_avg_sq")
    return (_COUNTER, *((f"{m}.{part}", *rest) for m in moments for part, *rest in parts))


def _mini(t: Trained) -> Slots:
    """Which block a weight is, Adam-mini tells by its name."""
    name, step = t.name.lower(), ("step", (), "int64")
    if "bias" in name:
        return (("m", t.shape, None), step, ("v", t.shape, None))
    if any(part in name for part in ("k_proj", "q_proj", "wq", "wk", "query", "key")):
        heads = t.elements // t.head
        shape = (heads, t.head)
        return (
            ("m", shape, None),
            ("head_per_gpu", (), "int64"),
            step,
            ("vmean", (heads, 1), None),
        )
    if len(t.shape) == 2 and any(part in name for part in _ROWS):
        rows = (t.shape[0], 1)
        return (("m", t.shape, None), step, ("neuron_per_gpu", (), "int64"), ("vmean", rows, None))
    numbers = (("reduced", (), "int64"), ("vmean", (), None), ("block_numel", (), "fp32"))
    return (("m", t.shape, None), step, *numbers)


# Parts of the names of weights with one second moment for each row (adam_mini 1.1.1).
_ROWS = (
    *("embed", "embd", "wte", "lm_head", "output", "final_layer", "v_proj", "wv", "value"),
    *("o_proj", "wo", "attn.proj", "feed_forward", "linear", "mlp"),
)


def _projected(t: Trained, rank: int) -> Slots:
    """galore_torch projects along the shorter side of a matrix inside the layers."""
    step = ("step", (), "int64")
    if not t.hidden:
        return (step, *_adamw(t)[1:])
    rows, columns = t.shape
    rank = min(rank, rows, columns)
    right = rows >= columns
    kept = (rows, rank) if right else (rank, columns)
    projector = (rank, columns) if right else (rows, rank)
    moments = (("exp_avg", kept, None), ("exp_avg_sq", kept, None))
    return (step, ("projector", projector, None), *moments)


_SLOTS: dict[str, Callable[[Trained], Slots]] = {
    "sgd": lambda t: (),
    "momentum": _one("momentum_buffer"),
    "adamw": _adamw,
    "adamw-fused": _adamw,
    "adamw-8bit": _eight_bit,
    "paged-adamw-8bit": _eight_bit,
    "adafactor": _adafactor,
    "muon": lambda t: _one("momentum_buffer")(t) if t.hidden else _adamw(t),
    "lion": _one("momentum"),
    "adamw-4bit": _four_bit,
    "adam-mini": _mini,
}
_WIDTHS = {"int8": 1, "uint8": 1, "fp32": 4}


def slots(name: str, t: Trained) -> Slots:
    """What an optimizer keeps of one tensor."""
    family, rank = family_of(name)
    return _projected(t, rank) if rank else _SLOTS[family](t)


def _kept(name: str, t: Trained, width: int) -> int:
    """Bytes of one tensor's state on its GPU."""
    total = sum(
        prod(shape) * _WIDTHS.get(dtype, width)
        for _, shape, dtype in _SLOTS[name](t)
        if shape or dtype is None
    )
    return total - (2 * t.elements if name in PAGED_STATE and t.elements >= PAGED else 0)


def temporary_bytes(name: str, tensors: list[Trained], master: bool, cuda: bool = True) -> int:
    """Bytes that the update allocates beyond weights, gradients and state, at its worst.

    foreach AdamW holds the square roots of all second moments at once. Loops hold one tensor's
    update, and the one before it until the name is assigned anew; on CUDA Adafactor's norms of
    columns can take more than the update. 8-bit AdamW is here a loop over chunks, in fp32, since
    there is no such kernel in torch: bitsandbytes' needs nothing. Muon holds the update, two bf16
    iterates and two Gram matrices of one weight (torch.optim.Muon), and AdamW's for the others.
    GaLore's are those of a step that refreshes its projectors, one in 200: the fp32 gradient, laid
    out for the decomposition, and both its factors; Adam-mini makes the update and its negative.
    """

    def width(t):
        return 4 if master else t.width

    if name == "adamw":
        return sum(t.total * width(t) for t in tensors)
    if name in ("adafactor", "lion"):
        sizes = [t.elements * width(t) for t in tensors]
        norms = [_norm(t) if cuda and name == "adafactor" else 0 for t in tensors]
        before = [0, *sizes[:-1]]
        return max(a + max(b, norm) for a, b, norm in zip(before, sizes, norms, strict=True))
    if name == "adamw-8bit":
        return chunks_bytes(max(t.elements for t in tensors), cuda)
    if name == "muon":
        others = sum(t.total * width(t) for t in tensors if not t.hidden)
        return max([others, *(_newton_schulz(t, width(t)) for t in tensors if t.hidden)])
    if name == "adam-mini":
        sizes = [t.elements * width(t) for t in tensors]
        return max(max(a, b) + b for a, b in pairwise([0, *sizes]))
    if family_of(name)[0] == "galore":
        return max(map(_decomposed, tensors))
    return 0


def chunks_bytes(elements: int, cuda: bool) -> int:
    """Bytes of the fp32 chunks while 8-bit AdamW updates a tensor of so many elements."""
    return 5 * 4 * min(elements, CHUNK) if cuda and elements >= SMALL else 0


def _norm(t: Trained) -> int:
    return norm_of_columns(t.shape) if len(t.shape) > 1 else 0


def _decomposed(t: Trained) -> int:
    if not t.hidden:
        return 3 * t.elements * t.width  # a root, a quotient, and the update before
    short, long = sorted(t.shape)
    matrices = 2 + (t.width < 4)  # the first factor, the input laid out for it, its fp32 copy
    return 4 * (matrices * short * long + short * short)


def _newton_schulz(t: Trained, width: int) -> int:
    iterates = 2 * 2 * t.elements
    gram = 2 * 2 * min(t.shape) ** 2
    return width * t.elements + iterates + gram
