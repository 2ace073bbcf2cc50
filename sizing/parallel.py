"""Sharding and communication: who holds which share of a model, and what it sends for it.

GPUs are numbered tensor-parallel first, then context, data and pipeline: the ranks of a
tensor-parallel group sit in one node where they fit, those of a pipeline furthest apart
(Narayanan et al., arXiv:2104.04473, section 3). Tensor parallelism is Megatron's with sequence
parallelism (Shoeybi et al., arXiv:1909.08053; Korthikanti et al., arXiv:2205.05198), the pipeline
1F1B without interleaving, context parallelism a ring (Liu et al., arXiv:2310.01889).
"""

from __future__ import annotations

import warnings
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from .architecture.model import Model
from .architecture.weights import Weight
from .run import Run, adapter_parameters
from .units import BYTES

# What a ring sends of n bytes over r ranks, as a share of n, on every rank: reduce-scatter and
# all-gather (r-1)/r, all-reduce both in turn (Patarasuk and Yuan 2009,
# doi:10.1016/j.jpdc.2008.09.002; ZeRO, arXiv:1910.02054, section 7).
RING_PASSES = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1}


@dataclass(frozen=True)
class Stage:
    """Consecutive layers on one pipeline rank; `embedding` on the first, `head` on the last."""

    layers: int
    embedding: bool
    head: bool


@dataclass(frozen=True)
class Transfer:
    """One kind of collective in an optimizer step.

    Attributes:
        purpose: what it is for, such as "gradients".
        collective: "all_reduce", "reduce_scatter", "all_gather" or "point_to_point".
        ranks: size of the group.
        stride: distance between neighbours of the group in the numbering of the GPUs.
        payload: bytes of the whole tensor that a call reduces, scatters or gathers, or sends.
        calls: calls per optimizer step.
    """

    purpose: str
    collective: str
    ranks: int
    stride: int
    payload: float
    calls: int

    @property
    def sent(self) -> float:
        """Bytes that each GPU sends in a step."""
        return self.payload * self.calls * ring_factor(self.collective, self.ranks)


@dataclass(frozen=True)
class Communication:
    """Bytes that the busiest GPU sends in one optimizer step, by collective."""

    all_reduce: float
    reduce_scatter: float
    all_gather: float
    point_to_point: float
    transfers: tuple[Transfer, ...]

    @property
    def total(self) -> float:
        return self.all_reduce + self.reduce_scatter + self.all_gather + self.point_to_point

    @property
    def by_purpose(self) -> dict[str, float]:
        """Bytes by what they are for; the parts sum to the total."""
        purposes = Counter()
        for transfer in self.transfers:
            purposes[transfer.purpose] += transfer.sent
        return dict(purposes)


def ring_factor(collective: str, ranks: int) -> float:
    """Bytes sent per rank over the bytes of the whole tensor.

    2(n-1)/n for an all-reduce, (n-1)/n for a reduce-scatter or all-gather, 1 for a message.
    """
    if collective == "point_to_point":
        return 1.0 if ranks > 1 else 0.0
    return RING_PASSES[collective] * (ranks - 1) / ranks


def communication(run: Run) -> Communication:
    """Bytes that each GPU sends per optimizer step; of several pipeline stages, the busiest one.

    Data parallelism (ranks = data x context, which both hold all weights of their stage):
    - zero=0: one all-reduce of the gradients a step, after the last micro-batch (PyTorch DDP with
      `no_sync`, Megatron, nanotron): 2Ψ.
    - zero=1: one reduce-scatter of the gradients and one all-gather of the updated weights a step
      (DeepSpeed stage 1, Megatron's distributed optimizer, nanotron): 2Ψ.
    - zero=2: a reduce-scatter for every micro-batch, because no rank keeps all gradients, and one
      all-gather of weights a step (DeepSpeed stage 2).
    - zero=3: for every micro-batch, weights gathered before forward and again before backward,
      gradients reduce-scattered (DeepSpeed stage 3; FSDP2 when every module is resharded after
      forward): 3Ψ. Recompute gathers nothing more: it runs on the weights gathered for backward.

    With adapters their gradients alone are reduced, and under zero=3 the frozen weights gathered.

    Gradients travel in their own dtype: fp32 with gradients="fp32", else the weights'. Norms of
    gradients, losses for the log and the like are left out: a few bytes each.

    Sources: ZeRO (arXiv:1910.02054), section 7; Korthikanti et al. (arXiv:2205.05198), section
    4.2.2; Narayanan et al. (arXiv:2104.04473), section 3; Liu et al. (arXiv:2310.01889).

    Raises:
        ValueError: see `check_degrees`.
    """
    check_degrees(run)
    candidates = (
        _transfers(run, stage, neighbours)
        for stage, neighbours in _kinds_of_stage(run.model, run.pipeline)
    )
    busiest = max(candidates, key=lambda transfers: sum(t.sent for t in transfers))
    sums = dict.fromkeys((*RING_PASSES, "point_to_point"), 0.0)
    for transfer in busiest:
        sums[transfer.collective] += transfer.sent
    return Communication(**sums, transfers=busiest)


def check_degrees(run: Run) -> None:
    """Whether an engine could run these degrees at all.

    Raises:
        ValueError: tensor does not divide heads, key/value heads, the MLP's width or the
            sequence (its share after context parallelism: sequence parallelism splits tokens);
            context does not divide the sequence.

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
    _divides("tensor", run.tensor, "sequence / context", run.sequence // run.context)
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


def stages(run: Run) -> tuple[Stage, ...]:
    """The layers of each pipeline stage, balanced by matmul cost with the head counted.

    A stage ends with the layer that takes the model so far past its share: a model whose head
    costs as much as four layers has fewer layers on its last stage and more on its first. This is
    nanotron's rule (src/nanotron/models/base.py, build_model), which Megatron's even split differs
    from by the head's weight in layers; a head that costs less than half a layer is left out.
    Layers of one model count alike.
    """
    return _stages(run.model, run.pipeline)


@lru_cache(maxsize=256)
def _stages(model: Model, pipeline: int) -> tuple[Stage, ...]:
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
    return tuple(Stage(count, rank == 0, rank == pipeline - 1) for rank, count in enumerate(counts))


@lru_cache(maxsize=256)
def _kinds_of_stage(model: Model, pipeline: int) -> tuple[tuple[Stage, int], ...]:
    """Distinct stages, each with the number of neighbours that it sends to."""
    split = _stages(model, pipeline)
    return tuple(
        dict.fromkeys(
            (stage, (rank > 0) + (rank < pipeline - 1)) for rank, stage in enumerate(split)
        )
    )


@lru_cache(maxsize=1024)
def stage_parameters(model: Model, stage: Stage, tensor: int = 1) -> float:
    """Parameters that one GPU of a stage holds before ZeRO divides anything.

    Tensor parallelism divides matrices, their biases and the vocabulary; norms and routers are
    whole on every rank. A tied head on another stage than the embedding is a second copy.
    """
    per_layer = sum(
        _share(weight, tensor) * block.count for block in model.blocks for weight in block.weights
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


def _transfers(run: Run, stage: Stage, neighbours: int) -> tuple[Transfer, ...]:
    return (
        *_data_parallel(run, stage),
        *_tensor_parallel(run, stage),
        *_ring_attention(run, stage),
        *_pipeline(run, neighbours),
        *_tied(run, stage),
    )


def _data_parallel(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    ranks = run.data * run.context
    if ranks == 1:
        return ()
    parameters = stage_parameters(run.model, stage, run.tensor)
    weights = updated = parameters * run.recipe.weight_bytes
    gradients = parameters * gradient_bytes(run)
    if run.lora is not None:  # frozen weights have no gradient, and are not updated
        gradients = updated = trained_bytes(run, stage)

    def transfer(purpose, collective, payload, calls):
        return Transfer(purpose, collective, ranks, run.tensor, payload, calls)

    micro = run.accumulation
    if run.zero == 0:
        return (transfer("gradients", "all_reduce", gradients, 1),)
    reduced = transfer("gradients", "reduce_scatter", gradients, 1 if run.zero == 1 else micro)
    if run.zero < 3:
        return reduced, transfer("updated weights", "all_gather", updated, 1)
    return (
        reduced,
        transfer("weights for forward", "all_gather", weights, micro),
        transfer("weights for backward", "all_gather", weights, micro),
    )


def trained_bytes(run: Run, stage: Stage) -> float:
    """Bytes of the adapters' gradients on a stage, which has its share of them."""
    share = stage_parameters(run.model, stage, run.tensor) / run.model.parameters.total
    return adapter_parameters(run) * share * BYTES[run.lora.dtype]


def gradient_bytes(run: Run) -> int:
    """Bytes of a gradient element as it is reduced over the data-parallel ranks."""
    return 4 if run.gradients == "fp32" else run.recipe.weight_bytes


def _tensor_parallel(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """Sequence parallelism: an all-gather before each column-split matmul (one for queries, keys
    and values, one for the MLP, one for the head), a reduce-scatter after each row-split one, the
    reverse in backward, and the inputs gathered a second time for the weights' gradients."""
    if run.tensor == 1:
        return ()
    hidden = run.model.hidden * run.recipe.activation_bytes
    activations = tokens(run) * hidden

    def transfer(purpose, collective, calls, payload=activations):
        return Transfer(purpose, collective, run.tensor, 1, payload, calls * run.accumulation)

    columns = 2 * stage.layers + stage.head
    rows = 2 * stage.layers + stage.embedding
    found = [
        transfer("tensor-parallel forward", "all_gather", columns),
        transfer("tensor-parallel forward", "reduce_scatter", rows),
        transfer("tensor-parallel backward", "reduce_scatter", columns),
        transfer("tensor-parallel backward", "all_gather", rows),
        transfer("tensor-parallel inputs again", "all_gather", columns),
    ]
    if run.recompute == "full":
        layers = 2 * stage.layers
        found.append(transfer("tensor-parallel recompute", "all_gather", layers))
        found.append(transfer("tensor-parallel recompute", "reduce_scatter", layers))
    if stage.head:  # maximum, target's logit and sum of exponentials of each token, in fp32
        found.append(transfer("vocabulary-parallel loss", "all_reduce", 3, 4 * tokens(run)))
    return tuple(t for t in found if t.calls)


def tokens(run: Run) -> float:
    """Tokens of one micro-batch on one context-parallel rank."""
    return run.micro_batch * run.sequence / run.context


def _ring_attention(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """Keys and values go once round the ring in forward, and with their gradients in backward."""
    if run.context == 1 or not stage.layers:
        return ()
    model = run.model
    width = 2 * model.kv_heads * model.head_dim / run.tensor
    block = tokens(run) * width * run.recipe.activation_bytes
    hops = (run.context - 1) * stage.layers * run.accumulation
    again = 2 if run.recompute == "full" else 1
    return (
        Transfer("ring attention", "point_to_point", run.context, run.tensor, block, hops * again),
        Transfer("ring attention", "point_to_point", run.context, run.tensor, 2 * block, hops),
    )


def _pipeline(run: Run, neighbours: int) -> tuple[Transfer, ...]:
    """Activations to the next stage, gradients to the one before, each rank its own tokens."""
    if not neighbours:
        return ()
    payload = tokens(run) / run.tensor * run.model.hidden * run.recipe.activation_bytes
    stride = run.tensor * run.context * run.data
    calls = neighbours * run.accumulation
    return (Transfer("pipeline", "point_to_point", run.pipeline, stride, payload, calls),)


def _tied(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """First and last stage add up the gradients of their copies of a tied embedding."""
    if run.pipeline == 1 or not run.model.tied or not (stage.embedding or stage.head):
        return ()
    payload = run.model.vocab * run.model.hidden / run.tensor * gradient_bytes(run)
    stride = run.tensor * run.context * run.data * (run.pipeline - 1)
    return (Transfer("tied embedding", "all_reduce", 2, stride, payload, 1),)
