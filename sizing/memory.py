"""Memory of a training step, phase by phase, in closed form.

What a GPU holds changes through a step: activations grow in the forward pass, the loss adds its
copies of the logits, gradients replace activations in the backward pass, the optimizer adds its
temporaries. The peak is the largest of these phases, not their sum.

Describes transformers 5.23 on PyTorch 2.13; checked against `sizing.trace` (data/memory_error.csv).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .backward import Point, points
from .layers import WEIGHTS, Forward
from .model import Model
from .optimizer import Trained, state_bytes, temporary_bytes
from .run import Run
from .tape import BYTES, MONOMIALS, NONE, Size, plus, size_of

PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "temporary")
PHASES = ("forward", "loss", "layers", "embedding", "optimizer")


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU in a steady training step.

    Attributes:
        parameters, gradients, optimizer: model state in full, what ZeRO divides.
        activations: what the forward pass keeps for the backward pass, logits left out.
        logits: logits and everything of their shape, at its most.
        temporary: copies, casts and gradients on their way, at the peak.
        phases: {phase: {part: bytes}}; the parts sum to what is alive at the phase's worst moment.
        peak_phase: the phase with the most.
        total: its bytes.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    phases: dict[str, dict[str, int]]
    peak_phase: str
    total: int


def memory(run: Run, *, lora: int = 0, device: str = "cpu") -> Memory:
    """Peak memory of a training step and what it is made of, in bytes.

    Phases: "forward", its end; "loss", backward through loss and head; "layers", backward through
    the layers; "embedding", the embeddings' gradient; "optimizer", the update.

    Args:
        run: the training run.
        lora: rank of the adapters on the linear layers inside the blocks; 0 trains all weights.
        device: whose operators: "cpu" keeps dropout masks in the activations' dtype, "cuda" as
            bytes; their lists of autocast operators differ for GPT-2's activation and softmax.

    Raises:
        ValueError: an activation function that the formula does not know.
        NotImplementedError: tensor, pipeline or context parallelism.
    """
    model, batch, sequence = run.model, run.micro_batch, run.sequence
    plan = _plan(
        model,
        run.precision,
        run.gradients,
        run.optimizer,
        run.recompute,
        run.attention,
        run.accumulation > 1,
        batch > 1,
        tuple(sequence >= window for window in _windows(model)),
        lora,
        device,
    )
    return plan.evaluate(batch, sequence)


class _Plan:
    """The moments of a step that can be its peak, as polynomials in micro-batch and sequence."""

    def __init__(self, state: dict[str, int], moments: list[Point]):
        self.state = state
        moments = _undominated(moments)
        self.names = [name for name in PHASES if any(m.phase == name for m in moments)]
        ordered = [m for name in self.names for m in moments if m.phase == name]
        self.starts = [next(i for i, m in enumerate(ordered) if m.phase == n) for n in self.names]
        self.ends = [*self.starts[1:], len(ordered)]
        self.parts = np.array([[m.parts.get(p, NONE) for p in PARTS] for m in ordered])
        self.totals = self.parts.sum(axis=1)

    def evaluate(self, batch: int, sequence: int) -> Memory:
        values = np.array([batch**i * sequence**j for i, j in MONOMIALS])
        totals = (self.totals @ values).tolist()
        rows, best = [], None
        for start, end in zip(self.starts, self.ends, strict=True):
            row = max(range(start, end), key=totals.__getitem__)
            rows.append(row)
            if best is None or totals[row] > totals[best]:
                best = row
        table = (self.parts[rows] @ values).tolist()
        phases = {
            name: dict(zip(PARTS, row, strict=True))
            for name, row in zip(self.names, table, strict=True)
        }
        peak = self.names[rows.index(best)]
        return Memory(
            **self.state,
            activations=phases["forward"]["activations"],
            logits=max(parts["logits"] for parts in phases.values()),
            temporary=phases[peak]["temporary"],
            phases=phases,
            peak_phase=peak,
            total=totals[best],
        )


@lru_cache(maxsize=512)
def _plan(
    model, precision, gradients, optimizer, recompute, attention, accumulated, batched, beyond,
    lora, device,
) -> _Plan:  # fmt: skip
    sequence = _sequence_beyond(model, beyond)
    run = Run(
        model,
        sequence=sequence,
        micro_batch=2 if batched else 1,
        precision=precision,
        recompute=recompute,
        attention=attention,
    )
    forward = Forward(run, device, lora)
    trained = _trained(forward)
    master = precision == "bf16-master"
    wide = gradients == "fp32" and WEIGHTS[precision] == "bf16"
    weights = sum(w.elements * n for w, n in model.weights) * BYTES[WEIGHTS[precision]]
    state = {
        "parameters": weights + (sum(t.total * t.width for t in trained) if lora else 0),
        "gradients": sum(t.total * (4 if wide else t.width) for t in trained),
        "optimizer": state_bytes(optimizer, trained, master),
    }
    resident = wide or accumulated
    held = {**state, "gradients": state["gradients"] if resident else 0}
    moments = [
        _with_state(point, held) for point in points(forward.tape, forward.forward, resident)
    ]
    moments += _updates(optimizer, master, wide, trained, state)
    return _Plan(state, moments)


def _updates(optimizer, master, wide, trained, state) -> list[Point]:
    """Moments of the optimizer's step, which needs gradients in the dtype that it works in."""
    count = sum(t.total for t in trained)
    temporary = temporary_bytes(optimizer, trained, master)
    if not master or wide:
        narrowed = 2 * count if wide and not master else 0
        return [_update(state, temporary + narrowed)]
    # bf16 gradients become fp32 one after the other; each is released when its copy exists.
    worst, done = 0, 0
    for t in trained:
        done += t.total
        worst = max(worst, 2 * count + 2 * done + 2 * t.elements)
    released = {**state, "gradients": 0}
    return [_update(released, max(worst, 4 * count + temporary))]


def _update(state: dict[str, int], temporary: int) -> Point:
    return _with_state(Point("optimizer", {"temporary": _constant(temporary)}), state)


def _with_state(point: Point, state: dict[str, int]) -> Point:
    """The moment with model state and the batch's token numbers (8 bytes each) added."""
    parts = dict(point.parts)
    for part, size in state.items():
        parts[part] = plus(parts.get(part, NONE), _constant(size))
    parts["activations"] = plus(parts.get("activations", NONE), size_of(("b", "s"), "int64"))
    return Point(point.phase, parts)


def _constant(size: int) -> Size:
    return (size, 0, 0, 0, 0)


def _undominated(moments: list[Point]) -> list[Point]:
    """Those that can be the worst of their phase for some batch and length."""
    best: list[Point] = []
    for moment in sorted(moments, key=lambda m: m.total, reverse=True):
        if not any(m.phase == moment.phase and _covers(m, moment) for m in best):
            best.append(moment)
    return best


def _covers(a: Point, b: Point) -> bool:
    return all(x >= y for x, y in zip(a.total, b.total, strict=True))


def _trained(forward: Forward) -> list[Trained]:
    """Every tensor that gets a gradient, in the model's order: tables, layers, norm and head."""
    model, width = forward.model, BYTES[forward.dtype]
    if forward.lora:
        return [
            Trained(t.shape, block.count, 4, hidden=True)
            for block in model.blocks
            for t in forward.weights[block]
            if t.grad
        ]
    outer = [(Trained(w.shape, 1, width, hidden=False), w) for w in model.outer]
    inner = [
        Trained(w.shape, block.count, width, hidden=len(w.shape) == 2)
        for block in model.blocks
        for w in block.weights
    ]
    tables = [t for t, w in outer if w.part == "embedding"]
    return [*tables, *inner, *(t for t, w in outer if w.part != "embedding")]


def _windows(model: Model) -> tuple[int, ...]:
    return tuple(sorted({block.window for block in model.blocks if block.window is not None}))


def _sequence_beyond(model: Model, beyond: tuple[bool, ...]) -> int:
    """Some sequence length that reaches exactly those of the model's windows."""
    reached = [
        window for window, is_beyond in zip(_windows(model), beyond, strict=True) if is_beyond
    ]
    return max(reached, default=1)
