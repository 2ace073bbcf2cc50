"""The moments of a step as they are on each of many GPUs."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from ..run import Run
from .backward import Point
from .fit import communicators
from .held import PARTS, STATE, Memory
from .moments import Moments
from .sharding import gathers, shares, unreduced_bytes
from .tape import NONE, Size, value


def divided_moments_of(run: Run, plan: Moments) -> DividedMoments:
    trained = 1.0
    if run.lora is not None:
        trained = plan.state["gradients"] / (run.model.parameters.total * unreduced_bytes(run))
    return _sharded_plan(
        plan,
        run.model,
        run.precision,
        run.gradients,
        (run.accumulation, run.offload, run.optimizer_in_backward, run.lora, run.recompute),
        tuple(getattr(run, name) for name in _DEGREES),
        trained,
    )


_DEGREES = (
    "data", "zero", "tensor", "pipeline", "context", "expert", "sequence_parallel", "interleave",
    "replicate", "engine", "reduce",
)  # fmt: skip


@lru_cache(maxsize=1024)
def _sharded_plan(plan, model, precision, gradients, ways, degrees, trained) -> DividedMoments:
    run = Run(
        model,
        sequence=1,
        precision=precision,
        gradients=gradients,
        accumulation=ways[0],
        offload=ways[1],
        optimizer_in_backward=ways[2],
        lora=ways[3],
        recompute=ways[4],
        **dict(zip(_DEGREES, degrees, strict=True)),
    )
    return DividedMoments(plan, run, trained)


class DividedMoments:
    """A plan's moments as the GPUs of each pipeline stage see them, polynomials as well."""

    def __init__(self, plan: Moments, run: Run, trained: float):
        self.plan = plan
        whole = None if run.sequence_parallel or run.tensor == 1 else plan.whole
        self.shares = shares(run, trained, whole)
        self.groups = communicators(run)
        forward = _coefficients(plan.phases["forward"][0])
        tokens = np.array([0, 0, 1 / run.context, 0, 0])
        byte = np.array([1.0, 0, 0, 0, 0])
        by_layer = gathers(run)
        # Of each phase the moments, one of which is the worst of the whole model on one GPU.
        self.moments = {
            name: plan.first_layer if name == "layers" and by_layer else moments
            for name, moments in plan.phases.items()
        }
        # For each share and phase, by that moment: what its GPUs can hold at most.
        self.found = [
            {
                name: [
                    [
                        {part: tuple(map(float, size)) for part, size in parts.items()}
                        for parts in share.moments(
                            name, _coefficients(moment), forward, tokens, byte
                        )
                    ]
                    for moment in moments
                ]
                for name, moments in self.moments.items()
                if share.has(name)
            }
            for share in self.shares
        ]
        self.totals = [
            {
                name: [[_sum(parts) for parts in candidates] for candidates in by_moment]
                for name, by_moment in found.items()
            }
            for found in self.found
        ]

    def evaluate(self, batch: int, sequence: int) -> Memory:
        worst = {
            name: 0
            if len(moments) == 1
            else max(range(len(moments)), key=lambda k: value(moments[k].total, batch, sequence))
            for name, moments in self.moments.items()
        }
        most, best, chosen, peak = -1.0, 0, {}, ""
        for index, totals in enumerate(self.totals):
            mine, high, at = {}, -1.0, ""
            for name, by_moment in totals.items():
                larger = -1.0
                for number, size in enumerate(by_moment[worst[name]]):
                    total = value(size, batch, sequence)
                    if total > larger:
                        larger, mine[name] = total, number
                if larger > high:
                    high, at = larger, name
            if high > most:
                most, best, chosen, peak = high, index, mine, at
        share, found = self.shares[best], self.found[best]
        parts = {name: found[name][worst[name]][number] for name, number in chosen.items()}

        def at(name: str, part: str) -> int:
            return round(value(parts[name][part], batch, sequence))

        state = self.plan.state
        return Memory(
            *(round(state[part] * own) for part, own in zip(STATE, share.state, strict=True)),
            activations=max([at(name, "activations") for name in parts]),
            logits=max([at(name, "logits") for name in parts]),
            temporary=at(peak, "temporary"),
            peak_phase=peak,
            total=sum([at(peak, part) for part in PARTS]),
            _moments=lambda: {name: {part: at(name, part) for part in PARTS} for name in parts},
            groups=self.groups,
            again=self.plan.again,
        )

    def totals_of(self, batches, sequences) -> np.ndarray:
        """Peaks for arrays of micro-batches and sequences."""
        worst = {
            name: np.argmax([value(m.total, batches, sequences) for m in moments], axis=0)
            for name, moments in self.moments.items()
        }
        sizes, parts_of = [], []
        for totals, found in zip(self.totals, self.found, strict=True):
            for name, by_moment in totals.items():
                for k, candidates in enumerate(by_moment):
                    here = worst[name] == k
                    if not here.any():
                        continue
                    for size, parts in zip(candidates, found[name][k], strict=True):
                        sizes.append(np.where(here, value(size, batches, sequences), -1.0))
                        parts_of.append(parts)
        most = np.zeros(batches.shape, np.int64)
        largest = np.argmax(sizes, axis=0)
        for number in np.unique(largest):  # parts are whole bytes, and sum to the total
            here = largest == number
            held = [value(n, batches[here], sequences[here]) for n in parts_of[number].values()]
            most[here] = np.rint(held).sum(axis=0)
        return most


def _sum(parts: dict[str, Size]) -> Size:
    return tuple(map(sum, zip(*parts.values(), strict=True)))


def _coefficients(moment: Point) -> dict[str, np.ndarray]:
    return {part: np.array(moment.parts.get(part, NONE), float) for part in PARTS}
