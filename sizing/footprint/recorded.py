"""Records a step: what is alive at each moment of its passes and of its update, state included."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from math import prod

from ..choices import RECIPES
from ..lora import linear_layers
from ..run import Run
from ..settings import Dpo, asked_model, frozen_model
from ..units import BYTES
from . import inference
from .backward import Away, Point, packed, points
from .classic import buffers
from .fit import whole_layers_again
from .forms import sequence_beyond
from .forward import Forward
from .moments import Moments, needed
from .offload import Beside, host_bytes, updates_copy
from .optimizer import Trained, chunks_bytes, state_bytes, temporary_bytes
from .quantized import weight_bytes
from .tape import NONE, SAME_BYTES, Size, Tensor, plus, size_of, times
from .undivided import undivided


@lru_cache(maxsize=512)
def moments_of(
    model, precision, gradients, optimizer, recompute, attention, accumulated, batched, beyond,
    lora, quantization, kernels, loss, outputs, device, step, tokens, divided, objective, offload,
    in_backward, divided_by_zero, leaves,
) -> Moments:  # fmt: skip
    """`divided`: fp32 shards are gathered in the precision's dtype (FSDP2's policy); `leaves`: so
    do gradients, when they are complete."""
    sequence = sequence_beyond(model, beyond)
    run = Run(
        model,
        sequence=sequence,
        micro_batch=2 if batched else 1,
        precision=precision,
        recompute=recompute,
        attention=attention,
        lora=lora,
        quantization=quantization,
        kernels=kernels,
        loss=loss,
        outputs=outputs,
        objective=objective,
    )
    forward = _recorded(run, device, tokens)
    trained = _trained(forward)
    recipe = RECIPES["fp32"] if divided else run.recipe
    if divided:
        trained = [replace(t, width=4) for t in trained]
    master = recipe.master
    wide = gradients != "same" and recipe.weight_bytes == 2
    weights = _weights(run, recipe)
    width = _gradient_bytes(gradients) if wide else 2 if divided else None
    state = _state(run, weights, trained, optimizer, master, width)
    host = host_bytes(offload, optimizer, trained, state, master)
    packed_bytes = packed(forward.tape.nodes) if "activations" in offload else NONE
    if "optimizer" in offload:
        state["optimizer"] = 0
    gone = leaves or (in_backward and not divided_by_zero)
    if gone:
        state["gradients"] = 0
    resident = (wide or accumulated) and not leaves
    held = {**state, "gradients": state["gradients"] if resident else 0}
    if step == "first":  # of the optimizer's state there are fp32 copies of the weights alone
        copies = sum(4 * t.total for t in trained if t.width < 4) if master else 0
        held["optimizer"] = min(copies, state["optimizer"])
    at_once = optimizer if gone else None
    walked = _walked(run, device, tokens, resident, at_once, "activations" in offload)
    moments = [_with_state(point, held) for point in walked]
    if "optimizer" in offload:
        moments.append(_update(state, 0))  # on the host
    elif not in_backward:
        moments += _updates(optimizer, master, wide, trained, state, device == "cuda")
    beside_it = Beside(host, packed_bytes, weights)
    again = whole_layers_again(run)
    return Moments(state, moments, model.layers, undivided(forward), beside_it, again)


def state_of(run: Run) -> dict[str, int]:
    """Bytes of parameters, gradients and optimizer state, of the whole model on one GPU."""
    plain = Run(
        run.model,
        sequence=1,
        precision=SAME_BYTES.get(run.precision, run.precision),
        lora=run.lora,
        quantization=run.quantization,
        objective=run.objective,
    )
    recipe, trained = plain.recipe, _trained(_recorded(plain, "cuda", 1))
    wide = run.gradients != "same" and recipe.weight_bytes == 2
    weights, width = _weights(plain, recipe), _gradient_bytes(run.gradients) if wide else None
    return _state(plain, weights, trained, run.optimizer, recipe.master, width)


def _gradient_bytes(gradients: str) -> int:
    """Of an element beside 16-bit weights: a buffer in fp32, or that and the gradient itself."""
    return 6 if gradients == "both" else 4


def _weights(run: Run, recipe) -> int:
    """Bytes of all weights that a step uses, those of a reference or teacher included."""
    weights = _own_weight_bytes(run, recipe.weights) + buffers(run.model, recipe.weight_bytes)
    beside = frozen_model(run)
    if beside:
        weights += sum(w.bytes(recipe.weights) * n for w, n in beside.weights)
        weights += buffers(beside, recipe.weight_bytes)
    return weights


def _state(
    run: Run, weights: int, trained: list[Trained], optimizer: str, master: bool, width: int | None
) -> dict[str, int]:
    """Bytes of model state; `width`, of a gradient's element where it is not that of its weight:
    of fp32 shards those that come, in 16 bits. What is kept of them, `sharding` knows."""
    return {
        "parameters": weights + (sum(t.total * t.width for t in trained) if run.lora else 0),
        "gradients": sum(t.total * (width or t.width) for t in trained),
        "optimizer": state_bytes(optimizer, trained, master),
    }


@lru_cache(maxsize=16)
def _recorded(run: Run, device: str, tokens) -> Forward:
    """The tape of a run's forward pass, which no optimizer changes."""
    return Forward(run, device, tokens)


@lru_cache(maxsize=16)
def _walked(
    run: Run, device: str, tokens, resident: bool, at_once: str | None, activations: bool
) -> list[Point]:
    """Moments of the forward and backward pass, beyond model state; of the optimizer they know
    what updates a weight `at_once`, when its gradient is complete."""

    def update(size: Size, weight: Tensor) -> Size:
        if at_once == "adamw-8bit":
            return _constant(chunks_bytes(prod(weight.shape), device == "cuda"))
        return times(updates_copy(at_once), size)

    forward = _recorded(run, device, tokens)
    away = Away(at_once is not None, update, activations)
    walked = points(forward.tape, forward.end, resident, away, (*forward.outputs, *forward.leaf))
    ends = [point for point in walked if point.phase == "forward"]
    return needed(walked + _others_ahead(forward, ends[-1]), run.model.layers)


def _others_ahead(forward: Forward, end: Point) -> list[Point]:
    """Moments of the forward pass beside its end, those of a model that is asked included."""
    run, kept = forward.run, dict(end.parts)
    for part, size in forward.end.items():
        kept[part] = plus(kept[part], times(-1, size))

    def with_kept(parts: dict[str, Size]) -> Point:
        return Point("forward", {p: plus(size, parts.get(p, NONE)) for p, size in kept.items()})

    found = [with_kept(parts) for parts in forward.moments]
    asked = asked_model(run)
    if asked:
        beside = frozen_model(run) is not None
        plain = replace(
            run,
            **{"model": asked, "objective": "lm", "lora": None, "quantization": None},
            **{"recompute": "none", "loss": "eager", "kernels": "eager"},
            # 16-bit weights leave autocast nothing to cast
            precision=run.precision if run.recipe.weight_bytes == 4 else "bf16",
        )
        could_be_trained = beside and isinstance(run.objective, Dpo)
        for size in inference.moments(
            plain, forward.tape.device, could_be_trained, forward.head_asked
        ):
            held = forward.while_asked
            found.append(with_kept({**held, "temporary": plus(held.get("temporary", NONE), size)}))
    return found


def _own_weight_bytes(run: Run, width: str) -> int:
    """Bytes of the model's own weights, those that are quantised included."""
    kind = run.quantization
    if kind is None:
        return sum(w.bytes(width) * n for w, n in run.model.weights)
    packed = {f"{name}.weight": shape for name, shape in linear_layers(run.model).items()}
    total = sum(w.bytes(width) for w in run.model.outer)
    for block in run.model.blocks:
        for w in block.weights:
            shape = packed.get(w.name.split("*.", 1)[1])
            total += block.count * (weight_bytes(kind, shape) if shape else w.bytes(width))
    return total


def _updates(optimizer, master, wide, trained, state, cuda) -> list[Point]:
    """Moments of the optimizer's step, which needs gradients in the dtype that it works in."""
    count = sum(t.total for t in trained)
    temporary = temporary_bytes(optimizer, trained, master, cuda)
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


def _trained(forward: Forward) -> list[Trained]:
    """Every tensor that gets a gradient, in the model's order: tables, layers, norm and head."""
    model = forward.model
    head = max(1, model.hidden * model.hidden // model.heads)
    if forward.frozen:
        inner = [
            Trained(t.shape, block.count, BYTES[t.dtype], True, t.name, head)
            for block in model.blocks
            for t in forward.weights[block]
            if t.grad
        ]
        outer = {
            name: Trained(t.shape, 1, BYTES[t.dtype], hidden=False)
            for name, t in forward.tables.items()
            if t.grad
        }
        last = [outer.pop("lm_head")] if "lm_head" in outer else []
        return [*outer.values(), *inner, *last]

    def trained(weight, count: int, hidden: bool) -> Trained:
        width = BYTES[weight.dtype or forward.dtype]
        matrix = hidden and len(weight.shape) == 2
        return Trained(weight.shape, count, width, matrix, weight.name, head)

    outer = [(trained(w, 1, hidden=False), w) for w in model.outer if w.trained]
    inner = [
        trained(w, block.count, hidden=True)
        for block in model.blocks
        for w in block.weights
        if w.trained
    ]
    first = [w.part == "embedding" and "per_layer" not in w.name for _, w in outer]
    before = [t for (t, _), known in zip(outer, first, strict=True) if known]
    return [*before, *inner, *(t for (t, _), known in zip(outer, first, strict=True) if not known)]
