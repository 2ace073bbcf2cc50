"""The moments of a step on one GPU, of which the worst is its peak."""

from __future__ import annotations

from functools import partial

import numpy as np

from .backward import Point
from .held import PARTS, PHASES, Memory
from .offload import Beside
from .sharding import Whole
from .tape import NONE, Size, value


class Moments:
    """The moments of a step that can be its peak, as polynomials in micro-batch and sequence."""

    def __init__(
        self, state, moments: list[Point], count: int, whole: Whole, beside: Beside, again: bool
    ):
        self.state, self.beside, self.again = state, beside, again
        self.phases = _by_phase(moments)
        layers = [m for m in moments if m.phase == "layers"]
        self.first_layer = undominated(_until_gradients_of_one(layers, count))
        # What every call needs, reduced to the few polynomials that can win.
        self.peaks = [(m.total, m) for m in undominated(moments)]
        # The backward pass starts with all that the forward pass kept.
        self.activations = next(m for m in moments if m.phase == "loss").parts["activations"]
        self.logits = _largest([m.parts.get("logits", NONE) for m in moments])
        self.whole = whole

    def evaluate(self, batch: int, sequence: int) -> Memory:
        total, peak = -1, None
        for size, moment in self.peaks:
            bytes_alive = value(size, batch, sequence)
            if bytes_alive > total:
                total, peak = bytes_alive, moment
        return Memory(
            **self.state,
            activations=value(self.activations, batch, sequence),
            logits=max([value(size, batch, sequence) for size in self.logits]),
            temporary=value(peak.parts["temporary"], batch, sequence),
            peak_phase=peak.phase,
            total=total,
            _moments=partial(self.moments, batch, sequence),
            again=self.again,
        )

    def totals_of(self, batches, sequences) -> np.ndarray:
        """Peaks for arrays of micro-batches and sequences."""
        return np.max([value(size, batches, sequences) for size, _ in self.peaks], axis=0)

    def moments(self, batch: int, sequence: int) -> dict[str, dict[str, int]]:
        worst = {
            name: max(moments, key=lambda m: value(m.total, batch, sequence))
            for name, moments in self.phases.items()
        }
        return {name: _parts_at(m, batch, sequence) for name, m in worst.items()}


def _parts_at(moment: Point, batch: int, sequence: int) -> dict[str, int]:
    return {part: value(moment.parts.get(part, NONE), batch, sequence) for part in PARTS}


def _until_gradients_of_one(layers: list[Point], count: int) -> list[Point]:
    """The moments of the backward pass up to the gradients of one of `count` layers."""
    made = [moment.parts.get("gradients", NONE)[0] for moment in layers]
    most = made[0] + (made[-1] - made[0]) / count
    return [moment for moment, size in zip(layers, made, strict=True) if size <= most]


def needed(moments: list[Point], count: int) -> list[Point]:
    """Those of a step's passes that `Moments` of `count` layers makes any use of, whatever state
    is added to them all."""
    layers = [m for m in moments if m.phase == "layers"]
    kept = [m for some in _by_phase(moments).values() for m in some]
    kept += [*undominated(_until_gradients_of_one(layers, count)), layers[0], layers[-1]]
    kept.append(next(m for m in moments if m.phase == "loss"))
    logits = {m.parts.get("logits", NONE): m for m in moments}
    kept += [logits[size] for size in _largest(list(logits))]
    chosen = set(map(id, kept))
    return [m for m in moments if id(m) in chosen]


def _by_phase(moments: list[Point]) -> dict[str, list[Point]]:
    """Of each phase the moments that can be its worst."""
    present = [name for name in PHASES if any(m.phase == name for m in moments)]
    return {name: undominated([m for m in moments if m.phase == name]) for name in present}


def undominated(moments: list[Point]) -> list[Point]:
    """Those that can be the largest for some batch and length."""
    best: dict[Size, Point] = {}
    for moment in moments:
        best.setdefault(moment.total, moment)
    return [best[size] for size in _largest(list(best))]


def _largest(sizes: list[Size]) -> list[Size]:
    """The sizes that no other one reaches in every coefficient."""
    kept: list[Size] = []
    for size in sorted(set(sizes), reverse=True):
        if not any(all(x >= y for x, y in zip(other, size, strict=True)) for other in kept):
            kept.append(size)
    return kept
