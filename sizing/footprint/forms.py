"""Which batches and lengths share their polynomials: between two turning points nothing changes."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

from ..architecture.model import Model
from ..run import Run
from ..settings import Dpo
from .forward import turning_points
from .objectives import CHUNK_OF_TOKENS


def representative(run: Run, tokens: int) -> int:
    """The same number for all between two turning points of CUDA's kernels, and one of them."""
    points = turning_points(run.model, run.loss_kernel == "chunked")
    if chunks_preferences(run):
        points = tuple(sorted({*points, CHUNK_OF_TOKENS}))
    place = bisect_left(points, tokens)
    return points[place] if place < len(points) else points[-1] + 1


def chunks_preferences(run: Run) -> bool:
    return isinstance(run.objective, Dpo) and run.loss_kernel == "chunked"


@lru_cache(maxsize=512)
def _windows(model: Model) -> tuple[int, ...]:
    return tuple(sorted({block.window for block in model.blocks if block.window is not None}))


@lru_cache(maxsize=4096)
def form_of(model: Model, sequence: int) -> tuple[bool, ...] | int:
    """What of the length a plan depends on: the windows that it reaches, or all of it where
    attention goes block by block."""
    if any(block.linear for block in model.blocks):
        return sequence
    return tuple(sequence >= window for window in _windows(model))


def sequence_beyond(model: Model, form: tuple[bool, ...] | int) -> int:
    """Some sequence length of that form."""
    if isinstance(form, int):
        return form
    reached = [window for window, is_beyond in zip(_windows(model), form, strict=True) if is_beyond]
    return max(reached, default=1)
