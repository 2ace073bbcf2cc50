"""What one GPU holds of a training step: model state, activations and buffers divided.

`shard` takes the phases of the whole model on one GPU, as `sizing.memory` knows them, and returns
those of the fullest GPU. Data parallelism divides model state alone, as far as the ZeRO stage says;
tensor and context parallelism divide activations; a pipeline divides layers but keeps several
micro-batches of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from .parallel import (
    ACTIVATION_BYTES,
    WEIGHT_BYTES,
    Stage,
    check_degrees,
    gradient_bytes,
    stage_parameters,
    stages,
    tokens,
)
from .run import Run

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


def shard(run: Run, whole: Mapping[str, Mapping[str, float]], trained: float = 1.0) -> Phases:
    """Phases of the fullest GPU.

    Args:
        run: the run with its degrees.
        whole: {phase: {part: bytes}} of the same run on one GPU: same micro-batch, sequence and
            accumulation.
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
    candidates = (_stage(run, whole, trained, stage, rank) for stage, rank in first.items())
    return max(candidates, key=lambda phases: max(sum(p.values()) for p in phases.values()))


def _stage(run: Run, whole, trained: float, stage: Stage, rank: int) -> Phases:
    model = run.model
    share = 1 / (run.tensor * run.context)
    layers = stage.layers / model.layers
    held = stage_parameters(model, stage, run.tensor)
    state = held / model.parameters.total
    others = in_flight(run, rank) - 1
    kept = whole["forward"]["activations"] * layers * share
    phases = {}
    for name, parts in whole.items():
        if (name == "loss" and not stage.head) or (name == "embedding" and not stage.embedding):
            continue
        parameters, gradients, optimizer = zero_state(
            run, *(parts[part] * state for part in ("parameters", "gradients", "optimizer"))
        )
        temporary = parts["temporary"]
        if name == "optimizer":
            temporary *= zero_state(run, 0, 0, state)[2]
        else:
            temporary = temporary * share + _gathered_tokens(run, name)
        phases[name] = {
            "parameters": parameters,
            "gradients": gradients,
            "optimizer": optimizer,
            "activations": parts["activations"] * layers * share
            + (others * kept if name != "optimizer" else 0),
            "logits": parts["logits"] * share if stage.head else 0,
            "temporary": temporary + _buffers(run, stage, held, trained, name),
        }
    forward = phases["forward"]
    begins = {**dict.fromkeys(forward, 0.0), "temporary": _first_gather(run, stage, held)}
    begins |= {part: forward[part] for part in ("parameters", "gradients", "optimizer")}
    phases["forward"] = max(forward, begins, key=lambda parts: sum(parts.values()))
    return phases


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
    pair = min(2, stage.layers) * layer if phase == "layers" else 0.0
    # A head of its own keeps its whole gradient until the embedding's joins it; that of a tied one
    # is among the phase's own temporaries.
    head = 0.0
    if phase in ("layers", "embedding") and stage.head and not run.model.tied:
        head = run.model.vocab * run.model.hidden / run.tensor
    unreduced = (pair + head) * trained * gradient_bytes(run)
    if run.zero == 2 or phase == "optimizer":
        return unreduced
    return (outer + max(layer, pair)) * weight + unreduced


def _units(run: Run, stage: Stage, held: float) -> tuple[float, float]:
    """Parameters that ZeRO-3 gathers together: what lies outside the layers, and one layer."""
    outer = stage_parameters(run.model, Stage(0, stage.embedding, stage.head), run.tensor)
    return outer, (held - outer) / stage.layers if stage.layers else 0.0


def _first_gather(run: Run, stage: Stage, held: float) -> float:
    """Bytes as the forward pass begins: the first layer and what lies outside, gathered into a flat
    buffer and copied from it."""
    if run.zero < 3 or run.data * run.context == 1:
        return 0.0
    return 2 * sum(_units(run, stage, held)) * WEIGHT_BYTES[run.precision]


def one_gpu(run: Run) -> Run:
    """The same micro-batch, undivided: what `shard` takes the phases of."""
    return replace(run, data=1, zero=0, tensor=1, pipeline=1, context=1)
