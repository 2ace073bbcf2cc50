"""What one layer keeps for its backward pass, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..run import Run
from .backward import saved
from .forward import Forward
from .tape import SAME_BYTES, Tensor, value


@dataclass(frozen=True)
class Saved:
    """A tensor that a layer keeps for the backward pass.

    Attributes:
        name: what it is; `why` names the operation that needs it.
        shape, dtype, bytes: of the whole storage, also where only a view of it is needed.
        shared: one tensor for all layers (masks, rotary angles).
        weight: autocast's bf16 copy of a weight, which does not grow with the tokens.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    why: str
    shared: bool
    weight: bool


def saved_tensors(run: Run, *, block: int = 0, device: str = "cuda") -> list[Saved]:
    """What one layer keeps for its backward pass, tensor by tensor, in the order it is saved.

    Args:
        run: the training run; under recompute="full" a layer keeps its input alone.
        block: index into `run.model.blocks`, the kinds of layer that the model has.
        device: as in `memory`.

    Raises:
        ValueError: the model has no such block.
    """
    blocks = run.model.blocks
    if not 0 <= block < len(blocks):
        raise ValueError(f"block: {block} given; allowed: 0 to {len(blocks) - 1}")
    precision = SAME_BYTES.get(run.precision, run.precision)
    layer = Forward(replace(run, precision=precision), device).layers[blocks[block]]
    names = {"bf16": run.recipe.products}  # fp16 where the run says so
    reasons: dict[Tensor, list[str]] = {}
    apart = [(tensor.storage, "held by the operation") for node in layer for tensor in node.held]
    for tensor, why in [*saved(layer), *apart]:
        if tensor.part != "parameters":
            reasons.setdefault(tensor, []).append(why)
    sizes = {"b": run.micro_batch, "s": run.sequence}
    return [
        Saved(
            tensor.name,
            tuple(sizes.get(n, n) for n in tensor.shape),
            names.get(tensor.dtype, tensor.dtype),
            value(tensor.size, run.micro_batch, run.sequence),
            ", ".join(dict.fromkeys(why)),
            tensor.shared,
            tensor.part == "temporary",
        )
        for tensor, why in reasons.items()
    ]
