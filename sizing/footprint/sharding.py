"""What one GPU holds of a training step: model state, activations and buffers divided.

`shard` takes the phases of the whole model on one GPU, as `sizing.memory` knows them, and returns
those of the fullest GPU. Data parallelism divides model state alone, as far as the ZeRO stage says;
tensor and context parallelism divide activations; a pipeline divides layers but keeps several
micro-batches of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..parallel import (
    ACTIVATION_BYTES,
    WEIGHT_BYTES,
    Stage,
    check_degrees,
    gradient_bytes,
    stage_parameters,
    stages,
    tokens,
)
from ..run import Run

Phases = dict[str, dict[str, float]]


def zero_state(
    run: Run, parameters: float, gradients: float, optimizer: float
) -> tuple[float, float, float]:
    """Model state after ZeRO: (parameters, gradients, optimizer) bytes on each rank.

    Stage 1 divides the optimizer's state by the ranks that hold the same weights (data x context),
    stage 2 the gradients too, stage 3 the parameters too. Mixed-precision Adam's 2, 2 and 12 bytes
    a parameter over N ranks: 4 + 12/N, 2 + 14/N, 16/N. Source: Rajbhandari et al.
    (arXiv:1910.02054), figure 1 and section 5.
    """
    ranks = run.data * run.context
    return (
        parameters / (ranks if run.zero >= 3 else 1),
        gradients / (ranks if run.zero >= 2 else 1),
        optimizer / (ranks if run.zero >= 1 else 1),
    )


def in_flight(run: Run, rank: int) -> int:
    """Micro-batches whose activations a pipeline rank keeps at once under 1F1B.

    The first stage starts as many as there are stages before the first comes back:
    min(p - rank, m). Source: Narayanan et al. (arXiv:2104.04473), section 2.2.1.
    """
    return min(run.pipeline - rank, run.accumulation)


def shard(
    run: Run,
    whole: Mapping[str, Mapping[str, float]],
    first_layer: Mapping[str, float],
    trained: float = 1.0,
) -> Phases:
    """Phases of the fullest GPU.

    Args:
        run: the run with its degrees.
        whole: {phase: {part: bytes}} of the same run on one GPU: same micro-batch, sequence and
            accumulation.
        first_layer: {part: bytes} at its worst moment in the first layer that the backward pass
            visits, which gradients hide on one GPU and not where ZeRO divides them.
        trained: share of the parameters that get a gradient, below 1 with frozen weights.

    Returns:
        The same phases and parts for the GPU whose largest phase is largest; the phases of a head
        or an embedding only where the stage has one.

    Tensor parallelism (with sequence parallelism) divides every activation, the logits and their
    gradients by its degree, and so does context parallelism (Korthikanti et al., arXiv:2205.05198,
    section 4.2.2). Temporaries are divided like what they are copies of. What the split adds is in
    "temporary": DDP's flat buckets beside the gradients (zero 0 and 1); the unreduced gradients of
    two layers and of an untied head (zero 2 and 3); and under zero 3 the gathered weights of two
    layers, one at work and one prefetched, and of everything outside the layers, which FSDP2 keeps
    from forward to backward. That is FSDP2 with every layer and the model wrapped; its traces
    under torch's FSDPMemTracker agree (tests/test_parallel.py).

    Raises:
        ValueError: see `check_degrees`.
    """
    check_degrees(run)
    first = {}  # of equal stages the first keeps most micro-batches
    for rank, stage in enumerate(stages(run)):
        first.setdefault(stage, rank)
    candidates = (
        _stage(run, whole, first_layer, trained, stage, rank) for stage, rank in first.items()
    )
    return max(candidates, key=lambda phases: max(sum(p.values()) for p in phases.values()))


def _stage(run: Run, whole, first_layer, trained: float, stage: Stage, rank: int) -> Phases:
    model = run.model
    share = 1 / (run.tensor * run.context)
    layers = stage.layers / model.layers
    held = stage_parameters(model, stage, run.tensor)
    state = held / model.parameters.total
    others = in_flight(run, rank) - 1
    kept = whole["forward"]["activations"] * layers * share

    def divided(name: str, parts: Mapping[str, float], buffers: float) -> dict[str, float]:
        parameters, gradients, optimizer = zero_state(
            run, *(parts[part] * state for part in ("parameters", "gradients", "optimizer"))
        )
        temporary = parts["temporary"]
        if name == "optimizer":
            temporary *= zero_state(run, 0, 0, state)[2]
        else:
            temporary = temporary * share + _gathered_tokens(run, name)
        return {
            "parameters": parameters,
            "gradients": gradients,
            "optimizer": optimizer,
            "activations": parts["activations"] * layers * share
            + (others * kept if name != "optimizer" else 0),
            "logits": parts["logits"] * share if stage.head else 0,
            "temporary": temporary + buffers,
        }

    phases = {
        name: divided(name, parts, _buffers(run, stage, held, trained, name))
        for name, parts in whole.items()
        if (name != "loss" or stage.head) and (name != "embedding" or stage.embedding)
    }
    if run.zero == 3 and run.data * run.context > 1:
        forward = phases["forward"]
        begins = {**dict.fromkeys(forward, 0.0), "temporary": _first_gather(run, stage, held)}
        begins |= {part: forward[part] for part in ("parameters", "gradients", "optimizer")}
        phases["forward"] = max(forward, begins, key=_sum)
        if stage.layers:
            first = divided("layers", first_layer, 0.0)
            moments = _layers_under_zero_3(run, stage, held, trained, first, kept)
            phases["layers"] = max(moments, key=_sum)
    return phases


def _sum(parts: Mapping[str, float]) -> float:
    return sum(parts.values())


def _layers_under_zero_3(
    run: Run, stage: Stage, held: float, trained: float, first, kept: float
) -> Iterator[dict[str, float]]:
    """The moments of the layers' backward pass that can be its worst, as FSDP2 takes it.

    While a layer is at work its weights are gathered, those of the next are on their way, and the
    gradients of the one before, whole, are being reduced. All else changes from layer to layer by
    the same amount, so that the worst layer is the first or last of those with both, or at an end
    of the pass, where one is missing.

    Args:
        first: parts in the first layer visited, without these buffers.
        kept: bytes that all layers saved for the backward pass.
    """
    outer, layer = _units(run, stage, held)
    ranks, count = run.data * run.context, stage.layers
    weights, gradients = layer * WEIGHT_BYTES[run.precision], layer * trained * gradient_bytes(run)
    head = _head_gradient(run, stage) * trained * gradient_bytes(run)
    # The layer's own gradients so far, unless gradients are there all along.
    own = 0.0 if _accumulates(run) else max(0.0, first["gradients"] * ranks - head)
    whole = first["temporary"] + outer * WEIGHT_BYTES[run.precision] + weights + own + head
    for visited in sorted({1, 2, count - 1, count} & set(range(1, count + 1))):
        before = visited - 1
        reduced = first["gradients"] if _accumulates(run) else before * gradients / ranks
        yield {
            **first,
            "gradients": reduced,
            "activations": first["activations"] - before * kept / count,
            "temporary": whole
            + (weights if visited < count else 0)
            + (gradients if visited > 1 else 0),
        }


def _accumulates(run: Run) -> bool:
    """Whether gradients of earlier micro-batches are there all along."""
    return run.accumulation > 1 or (run.gradients == "fp32" and WEIGHT_BYTES[run.precision] == 2)


def _gathered_tokens(run: Run, phase: str) -> float:
    """Bytes of activations that a tensor-parallel rank has whole for a moment: in forward a
    matmul's input and another's sum before it is scattered; in backward the input again, the
    output's gradient and the input's."""
    if run.tensor == 1:
        return 0.0
    whole = tokens(run) * run.model.hidden * ACTIVATION_BYTES[run.precision]
    return whole * (3 if phase == "layers" else 2)


def _buffers(run: Run, stage: Stage, held: float, trained: float, phase: str) -> float:
    """Bytes that data parallelism adds in a phase."""
    if run.data * run.context == 1:
        return 0.0
    weight = WEIGHT_BYTES[run.precision]
    if run.zero <= 1:
        return held * trained * weight
    outer, layer = _units(run, stage, held)
    unreduced = _head_gradient(run, stage) if phase in ("layers", "embedding") else 0.0
    if run.zero == 2 and phase == "layers":
        unreduced += min(2, stage.layers) * layer
    gathered = outer + layer if run.zero == 3 and phase != "optimizer" else 0.0
    return gathered * weight + unreduced * trained * gradient_bytes(run)


def _head_gradient(run: Run, stage: Stage) -> float:
    """Elements of the gradient that a head of its own keeps whole until the embedding's joins it;
    that of a tied one is among the phases' own temporaries."""
    if run.model.tied or not stage.head:
        return 0.0
    return run.model.vocab * run.model.hidden / run.tensor


def _units(run: Run, stage: Stage, held: float) -> tuple[float, float]:
    """Parameters that ZeRO-3 gathers together: what lies outside the layers, and one layer."""
    outer = stage_parameters(run.model, Stage(0, stage.embedding, stage.head), run.tensor)
    return outer, (held - outer) / stage.layers if stage.layers else 0.0


def _first_gather(run: Run, stage: Stage, held: float) -> float:
    """Bytes as the forward pass begins: the first layer and what lies outside, gathered into a flat
    buffer and copied from it."""
    return 2 * sum(_units(run, stage, held)) * WEIGHT_BYTES[run.precision]
