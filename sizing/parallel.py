"""Communication: what the GPUs of a run send each other for the shares that they hold.

GPUs are numbered tensor-parallel first, then context, data and pipeline: the ranks of a
tensor-parallel group sit in one node where they fit, those of a pipeline furthest apart
(Narayanan et al., arXiv:2104.04473, section 3). Tensor parallelism is Megatron's (Shoeybi et al.,
arXiv:1909.08053), with or without sequence parallelism (Korthikanti et al., arXiv:2205.05198), the
pipeline 1F1B, plain or interleaved, context parallelism a ring (Liu et al., arXiv:2310.01889).
Expert parallelism deals the routed experts of a mixture out to ranks that tokens are sent to
(GShard, arXiv:2006.16668, section 3).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from .architecture.model import Model
from .partition import (
    Stage,
    check_degrees,
    expert_slices,
    held_parameters,
    stage_parameters,
    stages,
)
from .recomputing import recomputed
from .run import Run, adapter_parameters
from .settings import asked_model
from .units import BYTES

# What a ring sends of n bytes over r ranks, as a share of n, on every rank: reduce-scatter and
# all-gather (r-1)/r, all-reduce both in turn (Patarasuk and Yuan 2009,
# doi:10.1016/j.jpdc.2008.09.002; ZeRO, arXiv:1910.02054, section 7). An all-to-all keeps 1/r.
RING_PASSES = {"all_reduce": 2, "reduce_scatter": 1, "all_gather": 1, "all_to_all": 1}


@dataclass(frozen=True)
class Transfer:
    """One kind of collective in an optimizer step.

    Attributes:
        purpose: what it is for, such as "gradients".
        collective: "all_reduce", "reduce_scatter", "all_gather", "all_to_all" or
            "point_to_point".
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
    all_to_all: float = 0.0

    @property
    def total(self) -> float:
        return (
            self.all_reduce
            + self.reduce_scatter
            + self.all_gather
            + self.point_to_point
            + self.all_to_all
        )

    @property
    def by_purpose(self) -> dict[str, float]:
        """Bytes by what they are for; the parts sum to the total."""
        purposes = Counter()
        for transfer in self.transfers:
            purposes[transfer.purpose] += transfer.sent
        return dict(purposes)


def ring_factor(collective: str, ranks: int) -> float:
    """Bytes sent per rank over the bytes of the whole tensor.

    2(n-1)/n for an all-reduce, (n-1)/n for a reduce-scatter, all-gather or all-to-all, 1 for a
    message.
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

    With `replicate` those groups are smaller, and each rank's share of the gradients is all-reduced
    with the same share of the other replicas.

    Expert parallelism: the routed experts' gradients are reduced over the ranks that hold the same
    experts alone, and every token is sent to its experts and back, forward and backward. With
    adapters their gradients alone are reduced, and under zero=3 the frozen weights gathered.

    Gradients travel in their own dtype: fp32 with gradients="fp32", else the weights'; under zero=3
    and a mixed precision in that of `reduce`, and weights in the products'. Norms of
    gradients, losses for the log and the like are left out: a few bytes each.

    Sources: ZeRO (arXiv:1910.02054), section 7; Korthikanti et al. (arXiv:2205.05198), section
    4.2.2; Narayanan et al. (arXiv:2104.04473), section 3; Liu et al. (arXiv:2310.01889).

    Raises:
        ValueError: see `check_degrees`.
    """
    check_degrees(run)
    candidates = (_transfers(run, stage, neighbours) for stage, neighbours in _kinds_of_stage(run))
    busiest = max(candidates, key=lambda transfers: sum(t.sent for t in transfers))
    sums = dict.fromkeys((*RING_PASSES, "point_to_point"), 0.0)
    for transfer in busiest:
        sums[transfer.collective] += transfer.sent
    return Communication(**sums, transfers=busiest)


def _kinds_of_stage(run: Run) -> tuple[tuple[Stage, int], ...]:
    """Distinct stages, each with the number of messages that it sends for a micro-batch."""
    last = run.pipeline - 1
    around = 2 * (run.interleave - 1)  # from stage to stage, back to the first between two rounds
    return tuple(
        dict.fromkeys(
            (stage, around + (rank > 0) + (rank < last)) for rank, stage in enumerate(stages(run))
        )
    )


def _transfers(run: Run, stage: Stage, neighbours: int) -> tuple[Transfer, ...]:
    return (
        *_data_parallel(run, stage),
        *_tensor_parallel(run, stage),
        *_expert_parallel(run, stage),
        *_ring_attention(run, stage),
        *_pipeline(run, neighbours),
        *_tied(run, stage),
    )


def _data_parallel(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    held, routed = held_parameters(run, stage)
    ranks = run.shards
    if run.expert == 1:
        return _reduced(run, stage, held, ranks, run.tensor, "")
    copies = ranks * run.tensor // expert_slices(run)
    return (
        *_reduced(run, stage, held - routed, ranks, run.tensor, ""),
        *_reduced(run, stage, routed, copies, ranks * run.tensor // copies, "experts' "),
    )


def _reduced(
    run: Run, stage: Stage, parameters: float, ranks: int, stride: int, whose: str
) -> tuple[Transfer, ...]:
    """What data parallelism sends of these parameters, of which `ranks` GPUs hold copies."""
    weights = updated = parameters * run.gathered_bytes
    gradients = parameters * gradient_bytes(run)
    if run.lora is not None:  # frozen weights have no gradient, and are not updated
        gradients = updated = trained_bytes(run, stage) if not whose else 0.0
    across = _across_replicas(run, whose, gradients / ranks, ranks * stride)
    if ranks == 1:
        return across

    def transfer(purpose, collective, payload, calls):
        return Transfer(whose + purpose, collective, ranks, stride, payload, calls)

    micro = run.accumulation
    if run.zero == 0:
        return (transfer("gradients", "all_reduce", gradients, 1),)
    reduced = transfer("gradients", "reduce_scatter", gradients, 1 if run.zero == 1 else micro)
    asked = asked_model(run)
    if asked and run.zero == 3 and not whose:  # a reference or teacher is divided like the policy
        frozen = asked.parameters.total * run.gathered_bytes
        gathered = (transfer("weights of the frozen model", "all_gather", frozen, micro),)
    else:
        gathered = ()
    if run.zero < 3:
        return reduced, *across, transfer("updated weights", "all_gather", updated, 1)
    return (
        reduced,
        *across,
        transfer("weights for forward", "all_gather", weights, micro),
        transfer("weights for backward", "all_gather", weights, micro),
        *gathered,
    )


def _across_replicas(run: Run, whose: str, payload: float, stride: int) -> tuple[Transfer, ...]:
    """The all-reduce of a rank's share of the gradients with the same share in other replicas,
    once a step, or with every micro-batch that is reduced."""
    if run.replicate == 1:
        return ()
    calls = 1 if run.zero == 1 else run.accumulation
    purpose = f"{whose}gradients across replicas"
    return (Transfer(purpose, "all_reduce", run.replicate, stride, payload, calls),)


def trained_bytes(run: Run, stage: Stage) -> float:
    """Bytes of the adapters' gradients on a stage, which has its share of them."""
    share = stage_parameters(run.model, stage, run.tensor) / run.model.parameters.total
    return adapter_parameters(run) * share * BYTES[run.lora.dtype]


def gradient_bytes(run: Run) -> int:
    """Bytes of a gradient element as it is reduced over the data-parallel ranks."""
    if run.gathers_products:
        return 4 if run.reduce == "fp32" else run.gathered_bytes
    return 4 if run.gradients == "fp32" else run.recipe.weight_bytes


def _tensor_parallel(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """Sequence parallelism: an all-gather before each column-split matmul (one for queries, keys
    and values, one for the MLP, one for the head), a reduce-scatter after each row-split one, the
    reverse in backward, and the inputs gathered a second time for the weights' gradients.

    Without it: an all-reduce after each row-split matmul and, backward, before each column-split
    one, whose inputs are there (Shoeybi et al., arXiv:1909.08053, figure 4)."""
    if run.tensor == 1:
        return ()
    hidden = run.model.hidden * run.recipe.activation_bytes
    activations = tokens(run) * hidden

    def transfer(purpose, collective, calls, payload=activations):
        return Transfer(purpose, collective, run.tensor, 1, payload, calls * run.accumulation)

    columns = 2 * stage.layers + stage.head
    rows = 2 * stage.layers + stage.embedding
    more = recomputed(run.model, run.recompute, run.attention)
    again = round((more.attention + more.mlp) * stage.layers)
    # per operation the results of what follows the products are kept like those
    kept = run.recompute == "selective" and run.attention != "eager"
    if run.sequence_parallel:
        found = [
            transfer("tensor-parallel forward", "all_gather", columns),
            transfer("tensor-parallel forward", "reduce_scatter", rows),
            transfer("tensor-parallel backward", "reduce_scatter", columns),
            transfer("tensor-parallel backward", "all_gather", rows),
            transfer("tensor-parallel inputs again", "all_gather", columns),
            transfer("tensor-parallel recompute", "all_gather", again),
            transfer("tensor-parallel recompute", "reduce_scatter", 0 if kept else again),
        ]
    else:
        found = [
            transfer("tensor-parallel forward", "all_reduce", rows),
            transfer("tensor-parallel backward", "all_reduce", columns),
            transfer("tensor-parallel recompute", "all_reduce", 0 if kept else again),
        ]
    if stage.head:  # maximum, target's logit and sum of exponentials of each token, in fp32
        found.append(transfer("vocabulary-parallel loss", "all_reduce", 3, 4 * tokens(run)))
    return tuple(t for t in found if t.calls)


def _expert_parallel(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """Each token goes to its experts and their outputs come back; the gradients likewise."""
    if run.expert == 1:
        return ()
    rounds = 3 if run.recompute == "full" else 2  # forward, backward, and forward again
    rows = tokens(run) / (run.tensor if run.sequence_parallel else 1)
    width = run.model.hidden * run.recipe.activation_bytes
    stride = run.tensor if expert_slices(run) > run.expert else 1
    return tuple(
        Transfer(
            "tokens to experts and back",
            "all_to_all",
            run.expert,
            stride,
            rows * chosen * width,
            round(2 * rounds * layers * stage.layers / run.model.layers * run.accumulation),
        )
        for layers, chosen in _mixtures(run.model)
        if stage.layers
    )


@lru_cache(maxsize=256)
def _mixtures(model: Model) -> tuple[tuple[int, int], ...]:
    """(layers, experts that a token meets) of each kind of layer with routed experts."""
    found = []
    for block in model.blocks:
        chosen = [weight.chosen for weight in block.weights if weight.chosen is not None]
        if chosen:
            found.append((block.count, chosen[0]))
    return tuple(found)


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
    again = recomputed(run.model, run.recompute, run.attention).scores
    ahead = round(hops * (1 + again))
    return (
        Transfer("ring attention", "point_to_point", run.context, run.tensor, block, ahead),
        Transfer("ring attention", "point_to_point", run.context, run.tensor, 2 * block, hops),
    )


def _pipeline(run: Run, neighbours: int) -> tuple[Transfer, ...]:
    """Activations to the next stage, gradients to the one before, each rank its own tokens."""
    if not neighbours:
        return ()
    payload = message_bytes(run)
    stride = run.tensor * run.context * run.data
    calls = neighbours * run.accumulation
    return (Transfer("pipeline", "point_to_point", run.pipeline, stride, payload, calls),)


def message_bytes(run: Run) -> float:
    """Bytes that a GPU sends on of one micro-batch's activations, its own tokens alone where
    sequence parallelism divides them."""
    rows = tokens(run) / (run.tensor if run.sequence_parallel else 1)
    return rows * run.model.hidden * run.recipe.activation_bytes


def _tied(run: Run, stage: Stage) -> tuple[Transfer, ...]:
    """First and last stage add up the gradients of their copies of a tied embedding."""
    if run.pipeline == 1 or not run.model.tied or not (stage.embedding or stage.head):
        return ()
    payload = run.model.vocab * run.model.hidden / run.tensor * gradient_bytes(run)
    stride = run.tensor * run.context * run.data * (run.pipeline - 1)
    return (Transfer("tied embedding", "all_reduce", 2, stride, payload, 1),)


__all__ = [
    "RING_PASSES",
    "Communication",
    "Stage",
    "Transfer",
    "check_degrees",
    "communication",
    "expert_slices",
    "gradient_bytes",
    "held_parameters",
    "message_bytes",
    "ring_factor",
    "stage_parameters",
    "stages",
    "tokens",
]
