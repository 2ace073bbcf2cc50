"""Memory of a training step, phase by phase, in closed form.

What a GPU holds changes through a step: activations grow in the forward pass, the loss adds its
copies of the logits, gradients replace activations in the backward pass, the optimizer adds its
temporaries. The peak is the largest of these phases, not their sum.

Describes transformers 5.23 on PyTorch 2.13. Checked against `sizing.trace` (data/memory_error.csv)
and, for CUDA, against torch's allocator (data/cuda_error.csv). A total is what tensors ask for;
`Memory.on` adds what a GPU holds beside them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache, partial
from math import prod

import numpy as np

from ..architecture.model import Model
from ..hardware import GPU
from ..parallel import check_degrees
from ..run import RECIPES, Run, linear_layers
from ..settings import Dpo, asked_model, frozen_model
from ..units import BYTES
from . import inference
from .backward import Away, Point, packed, points
from .classic import buffers
from .fit import Fit, communicators, fit, layers_again
from .forward import Forward, turning_points
from .objectives import CHUNK_OF_TOKENS, as_one_batch
from .offload import Beside, host_bytes, leaves_at_once, traffic, updates_copy
from .optimizer import Trained, chunks_bytes, state_bytes, temporary_bytes
from .quantized import weight_bytes
from .sharding import Whole, gathers, shares, unreduced_bytes
from .tape import NONE, SAME_BYTES, Size, Tensor, plus, size_of, times, value
from .undivided import undivided

STATE = ("parameters", "gradients", "optimizer")
PARTS = (*STATE, "activations", "logits", "temporary")
DEVICES = ("cpu", "cuda")
STEPS = ("steady", "first")
PHASES = ("forward", "loss", "layers", "embedding", "optimizer")


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU in a steady training step.

    Attributes:
        parameters, gradients, optimizer: model state that this GPU holds, after ZeRO and the
            other degrees; the whole model's is `model_state`.
        activations: what the forward pass keeps for the backward pass, logits left out.
        logits: logits and everything of their shape, at its most.
        temporary: copies, casts and gradients on their way, at the peak.
        peak_phase: the phase with the most alive; `total` is its bytes.
        groups: NCCL communicators that the GPU is in.
        again: whether whole layers are run again, which `on` asks for.
        host: bytes in the host's memory for this GPU: what is offloaded, and paged state.
        bus: bytes between host and GPU in an optimizer step, both directions added.
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
    groups: int = 0
    again: bool = False
    host: int = 0
    bus: int = 0

    @cached_property
    def phases(self) -> dict[str, dict[str, int]]:
        """{phase: {part: bytes}}; the parts sum to what is alive at the phase's worst moment."""
        return self._moments()

    def on(self, device: str | GPU, bucket: int = 0) -> Fit:
        """The step on a GPU: workspaces, gaps, NCCL's buffers and the context added, and a verdict.

        ``memory(run).on("h100-sxm").verdict`` is "fits", "tight" or "does not fit".

        Args:
            device: a `GPU`, or its name in data/gpus.csv.
            bucket: bytes of an engine's buckets, such as `fit.deepspeed_buckets(run)`.

        Raises:
            ValueError: there is no such GPU.
        """
        return fit(self.total, device, self.groups, bucket, self.again)


@dataclass(frozen=True)
class ModelState:
    """Bytes of the whole model's state before anything is divided."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer


def memory(run: Run, *, device: str = "cuda", step: str = "steady") -> Memory:
    """Peak memory of a training step and what it is made of, in bytes, on the fullest GPU.

    Phases: "forward", its end; "loss", backward through loss and head; "layers", backward through
    the layers; "embedding", the embeddings' gradient; "optimizer", the update.

    Args:
        run: the training run. On several GPUs the phases are those of one GPU divided by
            `sharding.Share`, which says what each degree divides and adds.
        device: whose operators: "cuda", or "cpu" to hold it against steps and traces there. The
            CPU keeps dropout masks in the activations' dtype, CUDA as bytes; their lists of
            autocast operators differ for GPT-2's activation and softmax. "flash" attention is
            FlashAttention-2 on CUDA, and memory-efficient attention for fp32 and for masks, with
            grouped keys and values repeated first; transformers alone falls back to s x s scores
            for fp32 with grouped heads. What CUDA's kernels allocate is in `kernels`.
        step: "steady", or "first": the optimizer's moments do not exist before its first update,
            so that forward and backward pass are lighter and a run can fail at that update.

    Raises:
        ValueError: an activation function that the formula does not know, an unknown device,
            degrees that do not divide the model (see `parallel.check_degrees`).
    """
    if run.objective != "lm":
        run = as_one_batch(run)
    plan, batch, sequence = _plan_of(run, device, step), run.micro_batch, run.sequence
    if run.gpus == 1 and "parameters" not in run.offload:
        found = plan.evaluate(batch, sequence)
    else:
        if run.quantization is not None and run.zero == 3:
            raise ValueError(
                f"zero: 3 given with quantization {run.quantization!r}; allowed: 0 to 2 (FSDP runs "
                "it with bitsandbytes' bnb_4bit_quant_storage, as fsdp_qlora does; packed weights "
                "that are gathered layer by layer are not sized here)"
            )
        check_degrees(run)
        found = _sharded_plan_of(run, plan).evaluate(batch, sequence)
    if run.offload or plan.beside.host.optimizer:
        return _with_host(found, run, plan)
    return found


def _with_host(found: Memory, run: Run, plan: _Plan) -> Memory:
    """With what lies on the host, of the GPU's largest stage."""
    share, tokens = 1.0, 1.0
    if run.gpus > 1:
        largest = max(_sharded_plan_of(run, plan).shares, key=lambda one: one.whole)
        share, tokens = largest.whole, largest.layers * largest.tokens * (1 + largest.others)
    saved = value(plan.beside.saved, run.micro_batch, run.sequence) * tokens
    host, bus = traffic(run, plan.beside, share, saved)
    return replace(found, host=host, bus=bus)


def memory_grid(run: Run, micro_batch, sequence, *, device: str = "cuda") -> np.ndarray:
    """`memory(run).total` for many micro-batches and sequence lengths at once.

    Args:
        run: what all points share.
        micro_batch, sequence: arrays of whole numbers >= 1 that broadcast against each other, such
            as shapes (50, 1) and (50,).
        device: as in `memory`.

    Returns:
        Bytes, int64, of the broadcast shape; equal to `memory` at each point.

    Raises:
        ValueError: as `memory` and `Run` at any of the points.
    """
    batches, sequences = np.broadcast_arrays(
        _whole_numbers("micro_batch", micro_batch), _whole_numbers("sequence", sequence)
    )
    if isinstance(run.objective, Dpo):
        batches = 2 * batches
    totals = np.zeros(batches.shape, np.int64)
    if not totals.size:
        return totals
    forms = {int(s): _form_of(run.model, int(s)) for s in np.unique(sequences)}
    numbers = {form: number for number, form in enumerate(dict.fromkeys(forms.values()))}
    which = np.array([numbers[form] for form in forms.values()])
    kinds = 2 * which[np.searchsorted(list(forms), sequences)] + (batches > 1)
    if device == "cuda" or _chunks_preferences(run):
        points = turning_points(run.model, run.loss_kernel == "chunked")
        if _chunks_preferences(run):
            points = tuple(sorted({*points, CHUNK_OF_TOKENS}))
        kinds = kinds * (len(points) + 1) + np.searchsorted(points, batches * sequences)
    for length in np.unique(sequences):
        check_degrees(replace(run, sequence=int(length)))
    for kind in np.unique(kinds):
        here = kinds == kind
        b, s = batches[here], sequences[here]
        at = replace(run, micro_batch=int(b[0]), sequence=int(s[0]))
        plan = _plan_of(at, device)
        if run.gpus > 1 or "parameters" in run.offload:
            plan = _sharded_plan_of(at, plan)
        totals[here] = plan.totals_of(b, s)
    return totals


def model_state(run: Run) -> ModelState:
    """Bytes of parameters, gradients and optimizer state of the whole model, divided by nothing.

    Mixed-precision Adam ("bf16-master") has 2 + 2 + 12 bytes a parameter (Rajbhandari et al.,
    arXiv:1910.02054, section 3.1).
    """
    if run.zero or run.offload or run.optimizer_in_backward:
        run = replace(run, zero=0, offload=(), optimizer_in_backward=False)
    return ModelState(**_plan_of(run, "cuda").state)


def _whole_numbers(field: str, values) -> np.ndarray:
    numbers = np.asarray(values)
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 1):
        raise ValueError(f"{field}: {values!r} given; allowed: whole numbers >= 1")
    return numbers.astype(np.int64)


def _plan_of(run: Run, device: str, step: str = "steady") -> _Plan:
    if device not in DEVICES:
        raise ValueError(f"device: {device!r} given; allowed: {', '.join(map(repr, DEVICES))}")
    if step not in STEPS:
        raise ValueError(f"step: {step!r} given; allowed: {', '.join(map(repr, STEPS))}")
    sequence = run.sequence
    return _plan(
        run.model,
        "bf16" if run.gathers_products else SAME_BYTES.get(run.precision, run.precision),
        "fp32" if run.gathers_products else run.gradients,
        run.optimizer,
        run.recompute,
        run.attention,
        run.accumulation > 1,
        run.micro_batch > 1,
        _form_of(run.model, sequence),
        run.lora,
        run.quantization,
        run.kernels,
        run.loss,
        # accelerate casts the model's outputs for TRL, under autocast and FSDP's policy alike
        "fp32" if isinstance(run.objective, Dpo) and run.recipe.autocast else run.outputs,
        device,
        step,
        _representative(run, run.micro_batch * sequence)
        if device == "cuda" or _chunks_preferences(run)
        else 1,
        run.gathers_products,
        run.objective,
        run.offload,
        run.optimizer_in_backward,
        run.zero >= 2 and (run.gpus > 1 or gathers(run)),
        leaves_at_once(run) and not (run.zero >= 2 and (run.gpus > 1 or gathers(run))),
    )


def _sharded_plan_of(run: Run, plan: _Plan) -> _ShardedPlan:
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
def _sharded_plan(plan, model, precision, gradients, ways, degrees, trained) -> _ShardedPlan:
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
    return _ShardedPlan(plan, run, trained)


class _ShardedPlan:
    """A plan's moments as the GPUs of each pipeline stage see them, polynomials as well."""

    def __init__(self, plan: _Plan, run: Run, trained: float):
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


class _Plan:
    """The moments of a step that can be its peak, as polynomials in micro-batch and sequence."""

    def __init__(
        self, state, moments: list[Point], count: int, whole: Whole, beside: Beside, again: bool
    ):
        self.state, self.beside, self.again = state, beside, again
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


@lru_cache(maxsize=512)
def _plan(
    model, precision, gradients, optimizer, recompute, attention, accumulated, batched, beyond,
    lora, quantization, kernels, loss, outputs, device, step, tokens, divided, objective, offload,
    in_backward, divided_by_zero, leaves,
) -> _Plan:  # fmt: skip
    """`divided`: fp32 shards are gathered in the precision's dtype (FSDP2's policy); `leaves`: so
    do gradients, when they are complete."""
    sequence = _sequence_beyond(model, beyond)
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
    wide = gradients == "fp32" and recipe.weight_bytes == 2
    weights = _weight_bytes(run, recipe.weights) + buffers(model, recipe.weight_bytes)
    beside = frozen_model(run)
    if beside:
        weights += sum(w.bytes(recipe.weights) * n for w, n in beside.weights)
        weights += buffers(beside, recipe.weight_bytes)
    state = {
        "parameters": weights + (sum(t.total * t.width for t in trained) if lora else 0),
        # of fp32 shards those that come, in 16 bits: what is kept of them, `sharding` knows
        "gradients": sum(t.total * (4 if wide else 2 if divided else t.width) for t in trained),
        "optimizer": state_bytes(optimizer, trained, master),
    }
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
    again = layers_again(run)
    return _Plan(state, moments, model.layers, undivided(forward), beside_it, again)


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
    return walked + _others_ahead(forward, ends[-1])


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


def _weight_bytes(run: Run, width: str) -> int:
    """Bytes of the model's own weights, those that are quantised included."""
    kind = run.quantization
    if kind is None:
        return sum(w.bytes(width) * n for w, n in run.model.weights)
    packed = {f"{name}.weight" for name in linear_layers(run.model)}
    total = sum(w.bytes(width) for w in run.model.outer)
    for block in run.model.blocks:
        for w in block.weights:
            known = w.name.split("*.", 1)[1] in packed
            total += block.count * (weight_bytes(kind, w.shape) if known else w.bytes(width))
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
    model = forward.model
    head = max(1, model.hidden * model.hidden // model.heads)
    if forward.frozen:
        inner = [
            Trained(t.shape, block.count, BYTES[t.dtype], True, t.name, head)
            for block in model.blocks
            for t in forward.weights[block]
            if t.grad
        ]
        outer = [
            Trained(t.shape, 1, BYTES[t.dtype], hidden=False)
            for t in forward.tables.values()
            if t.grad
        ]
        return inner + outer

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


def _representative(run: Run, tokens: int) -> int:
    """The same number for all between two turning points of CUDA's kernels, and one of them."""
    points = turning_points(run.model, run.loss_kernel == "chunked")
    if _chunks_preferences(run):
        points = tuple(sorted({*points, CHUNK_OF_TOKENS}))
    place = bisect_left(points, tokens)
    return points[place] if place < len(points) else points[-1] + 1


def _chunks_preferences(run: Run) -> bool:
    return isinstance(run.objective, Dpo) and run.loss_kernel == "chunked"


@lru_cache(maxsize=512)
def _windows(model: Model) -> tuple[int, ...]:
    return tuple(sorted({block.window for block in model.blocks if block.window is not None}))


@lru_cache(maxsize=4096)
def _form_of(model: Model, sequence: int) -> tuple[bool, ...] | int:
    """What of the length a plan depends on: the windows that it reaches, or all of it where
    attention goes block by block."""
    if any(block.linear for block in model.blocks):
        return sequence
    return tuple(sequence >= window for window in _windows(model))


def _sequence_beyond(model: Model, form: tuple[bool, ...] | int) -> int:
    """Some sequence length of that form."""
    if isinstance(form, int):
        return form
    reached = [window for window, is_beyond in zip(_windows(model), form, strict=True) if is_beyond]
    return max(reached, default=1)
