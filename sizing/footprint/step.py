"""Memory of a training step, phase by phase, in closed form.

What a GPU holds changes through a step: activations grow in the forward pass, the loss adds its
copies of the logits, gradients replace activations in the backward pass, the optimizer adds its
temporaries. The peak is the largest of these phases, not their sum.

Describes transformers 5.23 on PyTorch 2.13; checked against `sizing.trace` (data/memory_error.csv).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, lru_cache, partial

from ..architecture.model import Model
from ..parallel import gradient_bytes
from ..run import WEIGHTS, Run
from ..units import BYTES
from .backward import Point, points
from .forward import Forward, lookups
from .optimizer import Trained, state_bytes, temporary_bytes
from .sharding import shard
from .tape import NONE, Size, plus, size_of, value

PARTS = ("parameters", "gradients", "optimizer", "activations", "logits", "temporary")
DEVICES = ("cpu", "cuda")
PHASES = ("forward", "loss", "layers", "embedding", "optimizer")


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU in a steady training step.

    Attributes:
        parameters, gradients, optimizer: model state in full, what ZeRO divides.
        activations: what the forward pass keeps for the backward pass, logits left out.
        logits: logits and everything of their shape, at its most.
        temporary: copies, casts and gradients on their way, at the peak.
        peak_phase: the phase with the most alive; `total` is its bytes.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    peak_phase: str
    total: int
    _moments: Callable[[], dict[str, dict[str, int]]] = field(repr=False, compare=False)
    _first_layer: Callable[[], dict[str, int]] = field(repr=False, compare=False)

    @cached_property
    def phases(self) -> dict[str, dict[str, int]]:
        """{phase: {part: bytes}}; the parts sum to what is alive at the phase's worst moment."""
        return self._moments()


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
        ValueError: an activation function that the formula does not know, an unknown device.
            degrees that do not divide the model (see `parallel.check_degrees`).

    On several GPUs the phases are those of one GPU divided by `sharding.shard`, which says what
    each degree divides and adds; `parameters`, `gradients` and `optimizer` stay the whole model's.
    """
    if device not in DEVICES:
        raise ValueError(f"device: {device!r} given; allowed: {', '.join(map(repr, DEVICES))}")
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
        lookups(run) if device == "cuda" else None,
    )
    whole = plan.evaluate(batch, sequence)
    return whole if run.gpus == 1 else _sharded(run, whole, lora)


def _sharded(run: Run, whole: Memory, lora: int) -> Memory:
    """The fullest of several GPUs; `whole` is what one would hold."""
    weights = run.model.parameters.total * gradient_bytes(run)
    trained = whole.gradients / weights if lora else 1.0
    phases = {
        name: {part: round(size) for part, size in parts.items()}
        for name, parts in shard(run, whole.phases, whole._first_layer(), trained).items()
    }
    totals = {name: sum(parts.values()) for name, parts in phases.items()}
    peak = max(totals, key=totals.get)
    return Memory(
        whole.parameters,
        whole.gradients,
        whole.optimizer,
        activations=max(parts["activations"] for parts in phases.values()),
        logits=max(parts["logits"] for parts in phases.values()),
        temporary=phases[peak]["temporary"],
        peak_phase=peak,
        total=totals[peak],
        _moments=lambda: phases,
        _first_layer=whole._first_layer,
    )


class _Plan:
    """The moments of a step that can be its peak, as polynomials in micro-batch and sequence."""

    def __init__(self, state: dict[str, int], moments: list[Point], count: int):
        self.state = state
        present = [name for name in PHASES if any(m.phase == name for m in moments)]
        self.phases = {
            name: _undominated([m for m in moments if m.phase == name]) for name in present
        }
        layers = [m for m in moments if m.phase == "layers"]
        self.first_layer = _undominated(_until_gradients_of_one(layers, count))
        # What every call needs, reduced to the few polynomials that can win.
        self.peaks = [(m.total, m) for m in _undominated(moments)]
        # The backward pass starts with all that the forward pass kept.
        self.activations = next(m for m in moments if m.phase == "loss").parts["activations"]
        self.logits = _largest([m.parts.get("logits", NONE) for m in moments])

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
            _first_layer=partial(self.first, batch, sequence),
        )

    def moments(self, batch: int, sequence: int) -> dict[str, dict[str, int]]:
        worst = {
            name: max(moments, key=lambda m: value(m.total, batch, sequence))
            for name, moments in self.phases.items()
        }
        return {name: _parts_at(m, batch, sequence) for name, m in worst.items()}

    def first(self, batch: int, sequence: int) -> dict[str, int]:
        """Parts at the worst moment in the first layer that the backward pass visits."""
        worst = max(self.first_layer, key=lambda m: value(m.total, batch, sequence))
        return _parts_at(worst, batch, sequence)


def _parts_at(moment: Point, batch: int, sequence: int) -> dict[str, int]:
    return {part: value(moment.parts.get(part, NONE), batch, sequence) for part in PARTS}


def _until_gradients_of_one(layers: list[Point], count: int) -> list[Point]:
    """The moments of the backward pass up to the gradients of one of `count` layers."""
    made = [moment.parts.get("gradients", NONE)[0] for moment in layers]
    most = made[0] + (made[-1] - made[0]) / count
    return [moment for moment, size in zip(layers, made, strict=True) if size <= most]


@lru_cache(maxsize=512)
def _plan(
    model, precision, gradients, optimizer, recompute, attention, accumulated, batched, beyond,
    lora, device, rows_read,
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
    forward = Forward(run, device, lora, rows_read)
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
    moments = [_with_state(point, held) for point in points(forward.tape, forward.end, resident)]
    moments += _updates(optimizer, master, wide, trained, state)
    return _Plan(state, moments, model.layers)


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


@lru_cache(maxsize=512)
def _windows(model: Model) -> tuple[int, ...]:
    return tuple(sorted({block.window for block in model.blocks if block.window is not None}))


def _sequence_beyond(model: Model, beyond: tuple[bool, ...]) -> int:
    """Some sequence length that reaches exactly those of the model's windows."""
    reached = [
        window for window, is_beyond in zip(_windows(model), beyond, strict=True) if is_beyond
    ]
    return max(reached, default=1)
