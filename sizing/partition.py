"""Who holds which share of a model: the layers of pipeline stages, the parameters of a GPU.

Tensor parallelism slices matrices and the vocabulary, expert parallelism deals routed experts out,
a pipeline cuts between layers; `check_degrees` says whether a run's degrees divide its model.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import lru_cache

from .architecture.model import Model
from .architecture.weights import Weight
from .run import Run

# Engines that split a pipeline by counting layers, not by their cost.
EVEN_STAGES = ("megatron", "megatron-deepspeed", "deepspeed", "xla")


@dataclass(frozen=True)
class Stage:
    """Consecutive layers on one pipeline rank; `embedding` on the first, `head` on the last."""

    layers: int
    embedding: bool
    head: bool


def check_degrees(run: Run) -> None:
    """Whether an engine could run these degrees at all.

    Raises:
        ValueError: tensor does not divide heads, key/value heads, the MLP's width or the
            sequence (its share after context parallelism: sequence parallelism splits tokens);
            context does not divide the sequence; expert does not divide the experts or the ranks;
            interleave without a pipeline, or with more stages than layers; replicate does not
            divide data, or nothing is divided by ZeRO.

    A pipeline need not divide the layers: stages may differ by one (see `stages`).

    Warns (UserWarning) of a pipeline with more stages than layers, whose last ones are empty, and
    of ZeRO-2 and 3 under a pipeline: every micro-batch in flight would reduce
    gradients, and gather weights, again; DeepSpeed refuses, FSDP2 sends p micro-batches' worth.
    """
    model = run.model
    _divides("tensor", run.tensor, "heads", model.heads)
    _divides("tensor", run.tensor, "kv_heads", model.kv_heads)
    _divides("tensor", run.tensor, "the MLP's width", model.ffn)
    _divides("context", run.context, "sequence", run.sequence)
    if run.sequence_parallel:
        _divides("tensor", run.tensor, "sequence / context", run.sequence // run.context)
    _check_experts(run)
    _divides("replicate", run.replicate, "data", run.data)
    if run.replicate > 1 and run.zero == 0:
        raise ValueError(
            f"replicate: {run.replicate} given; allowed: 1 with zero=0, whose ranks are all copies"
        )
    if run.interleave > 1 and run.pipeline == 1:
        raise ValueError(f"interleave: {run.interleave} given; allowed: 1 without a pipeline")
    most = (model.layers + 2) // run.pipeline  # embedding and head may have a stage of their own
    if run.interleave > max(1, most):
        raise ValueError(
            f"interleave: {run.interleave} given; allowed: 1 to {max(1, most)}, so that each of "
            f"pipeline = {run.pipeline} times as many stages has something to do"
        )
    if run.pipeline > model.layers:
        warnings.warn(
            f"pipeline: {run.pipeline} stages for {model.layers} layers: "
            f"{run.pipeline - model.layers} would hold no layer",
            stacklevel=3,
        )
    if run.pipeline > 1 and run.zero >= 2:
        warnings.warn(
            f"zero={run.zero} with pipeline={run.pipeline}: every micro-batch reduces gradients"
            f"{' and gathers weights' if run.zero == 3 else ''} again; use zero=1 with a pipeline",
            stacklevel=3,
        )


def _check_experts(run: Run) -> None:
    if run.expert == 1:
        return
    experts = routed_experts(run.model)
    if not experts:
        raise ValueError(f"expert: {run.expert} given; allowed: 1 for a model without experts")
    for count in experts:
        _divides("expert", run.expert, "experts", count)
    _divides(
        "expert",
        run.expert,
        "tensor x context x data" + (" / replicate" if run.replicate > 1 else ""),
        run.tensor * run.shards,
    )


def routed_experts(model: Model) -> set[int]:
    """Numbers of routed experts that its layers have; empty for a dense model."""
    return {
        weight.shape[0]
        for block in model.blocks
        for weight in block.weights
        if weight.chosen is not None
    }


def expert_slices(run: Run) -> int:
    """GPUs that one copy of the routed experts of a layer is divided by: expert x tensor where
    expert divides data x context, else expert alone (each expert whole on one GPU)."""
    return run.expert * (run.tensor if run.shards % run.expert == 0 else 1)


def stages(run: Run) -> tuple[Stage, ...]:
    """The layers of each pipeline rank, balanced by matmul cost with the head counted.

    A stage ends with the layer that takes the model so far past its share: a model whose head
    costs as much as four layers has fewer layers on its last stage and more on its first. This is
    nanotron's rule (src/nanotron/models/base.py, build_model); a head that costs less than half a
    layer is left out. Layers of one model count alike.

    The engines of `EVEN_STAGES` count layers: as many for each stage, or, where that does not come
    out even, with embedding and head counted as a layer each if that does (Megatron-LM's
    --account-for-embedding-in-pipeline-split; DeepSpeed's partition "type:transformer|embedding",
    as BLOOM's 70 layers on 12 stages). With `interleave` a rank holds several such stages, each
    `pipeline` further down the model; their layers are added up.
    """
    return _stages(run.model, run.pipeline, run.interleave, run.engine in EVEN_STAGES)


@lru_cache(maxsize=512)
def _stages(model: Model, pipeline: int, interleave: int, even: bool) -> tuple[Stage, ...]:
    if even or interleave > 1:
        counts = _even(model.layers, pipeline * interleave, least=1 if interleave > 1 else 2)
    else:
        counts = _by_cost(model, pipeline)
    held = [sum(counts[rank::pipeline]) for rank in range(pipeline)]
    return tuple(Stage(count, rank == 0, rank == pipeline - 1) for rank, count in enumerate(held))


def _even(layers: int, parts: int, least: int) -> list[int]:
    each = (layers + 2) // parts
    if layers % parts and (layers + 2) % parts == 0 and parts > 1 and each >= least:
        return [each - 1, *[each] * (parts - 2), each - 1]
    each, more = divmod(layers, parts)
    first = (parts - more) // 2  # the longer ones in the middle: the ends have something else too
    return [each + (first <= part < first + more) for part in range(parts)]


def _by_cost(model: Model, pipeline: int) -> list[int]:
    # Costs times the number of layers: whole numbers, so that equality with a share is exact.
    layer = sum(
        weight.active * block.count
        for block in model.blocks
        for weight in block.weights
        if weight.kind == "matrix"
    )
    head = model.vocab * model.hidden * model.layers
    if 2 * head < layer:
        head = -1  # so that a stage is full with its even share, and not with one layer more
    total = layer * model.layers + head
    counts, placed = [], 0
    for rank in range(pipeline - 1):
        share = total * (rank + 1)
        last = model.layers - (pipeline - 2 - rank)  # one layer at least for those between
        end = min(placed + 1, model.layers)
        while end < last and layer * end * pipeline <= share:
            end += 1
        counts.append(end - placed)
        placed = end
    counts.append(model.layers - placed)
    return counts


def held_parameters(run: Run, stage: Stage) -> tuple[float, float]:
    """Parameters that one GPU of a stage holds before ZeRO: all, and routed experts among them."""
    slices = expert_slices(run)
    return (
        stage_parameters(run.model, stage, run.tensor, slices),
        routed_parameters(run.model) / slices * stage.layers / run.model.layers,
    )


@lru_cache(maxsize=256)
def routed_parameters(model: Model) -> int:
    """Parameters of all routed experts."""
    return sum(
        weight.elements * block.count
        for block in model.blocks
        for weight in block.weights
        if weight.chosen is not None
    )


@lru_cache(maxsize=1024)
def stage_parameters(
    model: Model, stage: Stage, tensor: int = 1, slices: int | None = None
) -> float:
    """Parameters that one GPU of a stage holds before ZeRO divides anything.

    Tensor parallelism divides matrices, their biases and the vocabulary; norms and routers are
    whole on every rank. Routed experts are divided by `slices`, `tensor` if None. A tied head on
    another stage than the embedding is a second copy.
    """
    routed = routed_parameters(model)
    per_layer = routed / (slices or tensor) + sum(
        _share(weight, tensor) * block.count
        for block in model.blocks
        for weight in block.weights
        if weight.chosen is None
    )
    count = per_layer * stage.layers / model.layers
    for weight in model.outer:
        first = weight.kind == "lookup" or weight.part == "embedding"
        if stage.embedding if first else stage.head:
            count += _share(weight, tensor)
    if model.tied and stage.head and not stage.embedding:
        table = next(weight for weight in model.outer if weight.kind == "lookup")
        count += _share(table, tensor)
    return count


def _share(weight: Weight, tensor: int) -> float:
    whole = weight.part in ("norm", "router")
    return weight.elements if whole else weight.elements / tensor


def _divides(field: str, degree: int, what: str, size: int) -> None:
    if size % degree:
        raise ValueError(f"{field}: {degree} given; allowed: a divisor of {what} = {size}")
