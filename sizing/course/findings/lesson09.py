"""The questions under lesson 09's calculator."""

from ..finding import Finding, at

START = {"model": "llama-3.1-70b", "gpus": 512, "batch": 2**22, "zero": 1, "recompute": "none"}
SHARDED = START | {"zero": 3, "recompute": "full"}


def _best(calculator, **settings):
    """The fastest cell at a setting, and all that can be run."""
    cells, *_, top, _ = at(calculator, **settings).data
    return top, [cell for cell in cells.values() if not cell.reason]


def _pair(cell) -> str:
    return f"tensor {cell.tensor} x pipeline {cell.pipeline}"


def _which(calculator) -> str:
    top, possible = _best(calculator)
    tensors = sorted({cell.tensor for cell in possible})
    parts = {
        "tensor parallelism": top.time.tensor_parallel,
        "elementwise work": top.time.elementwise,
        "the bubble": top.time.pipeline_bubble,
        "data parallelism": top.time.data_parallel,
    }
    largest = max(parts, key=parts.get)
    return (
        f"{len(possible)} pairs, with tensor {' or '.join(map(str, tensors))}. The best is "
        f"{_pair(top)}, {top.speed:,.0f} tokens/s per GPU. Beside the products the largest part "
        f"is {largest}, {parts[largest] / top.time.total:.0%} of the step."
    )


def _sharded(calculator) -> str:
    before, _ = _best(calculator, zero=1, recompute="none")
    top, _ = _best(calculator)
    return (
        f"{_pair(top)}: {top.speed:,.0f} tokens/s per GPU, {top.speed / before.speed:.0%} of the "
        "best in 1. How far off says that none of its runs used stage 3 or recompute: a "
        "prediction outside of what was compared there."
    )


def _smaller(calculator) -> str:
    top, _ = _best(calculator)
    before, _ = _best(calculator, batch=2**22)
    return (
        f"{_pair(top)} is best: with 256 sequences and 512 GPUs data parallelism alone has "
        f"nothing for half of them. {top.speed:,.0f} tokens/s per GPU, "
        f"{top.speed / before.speed:.0%} of before."
    )


FINDINGS = {
    "09.planner": (
        Finding(_which, START),
        Finding(_sharded, SHARDED),
        Finding(_smaller, SHARDED | {"batch": 2**20}),
    ),
}
