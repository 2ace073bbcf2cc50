"""Seconds of what happens once a step: data-parallel communication, the update, messages."""

from __future__ import annotations

from functools import lru_cache, partial
from math import ceil, log2
from operator import add

from ..architecture.model import Model
from ..parallel import (
    Stage,
    expert_slices,
    gradient_bytes,
    message_bytes,
)
from ..run import Run
from ..settings import family_of
from .layer import Pass, Setting
from .offload import update_on_host
from .rates import Rates, by_card, constants

_C = constants()
MESSAGE = _C["message"]  # s for a message between stages, whose shape goes ahead of it
REDUCTION = _C["reduction"]  # of the link's rate, nanotron's gradients beside the backward pass
TENSOR_LATENCY = _C["tensor_latency"]  # s for each node and tensor, reduced or gathered once a step
SVD = _C["svd_rate"]  # of the fp32 peak
REFRESHED = 200  # steps between GaLore's decompositions: update_proj_gap of transformers' Trainer
FOREACH = 2.5  # passes of foreach AdamW over its operands, where a fused kernel makes one


def messages(run: Run, at: Setting) -> float:
    """Seconds to send a micro-batch's activations on and its gradients back, once."""
    if run.pipeline == 1:
        return 0.0
    span = 2 * run.tensor * run.context * run.data
    return 2 * (at.rate.message(span, message_bytes(run)) + (MESSAGE if at.engine.nanotron else 0))


def data_parallel(
    run: Run, at: Setting, stage: Stage, holds: tuple[float, float], one: Pass
) -> float:
    """Seconds of gradients' reduction and weights' gathering that nothing hides, in a step.

    Each phase hides behind the pass that it runs beside, and behind no other: gradients behind the
    backward pass of the last micro-batch, gathered weights behind the forward pass.

    Args:
        holds: parameters on a GPU, and routed experts among them (`parallel.held_parameters`).
    """
    held, routed = holds
    if run.lora is not None and run.zero < 3:
        return 0.0  # adapters are a thousandth of the weights
    ranks = run.shards
    if run.expert == 1:
        return _exposed(run, at, stage, one, held, ranks, run.tensor)
    copies = ranks * run.tensor // expert_slices(run)
    experts = routed / held  # both kinds of weights hide behind one pass: each behind its share
    return _exposed(run, at, stage, one, held - routed, ranks, run.tensor, 1 - experts) + _exposed(
        run, at, stage, one, routed, copies, ranks * run.tensor // copies, experts
    )


def _exposed(
    run, at: Setting, stage: Stage, one: Pass, elements, ranks, stride, behind: float = 1.0
) -> float:
    """Seconds of a kind of weights, which hide behind a share of each pass."""
    if not elements:
        return 0.0
    rate, engine = at.rate, at.engine
    forward, backward = (stage.layers * behind * part for part in (one.forward, one.backward))
    if ranks == 1:
        return _across(run, at, elements, stride, backward)
    crosses = ranks * stride > rate.node
    network = min(rate.link, rate.crossing(ranks, stride)) if crosses else rate.link
    if crosses and run.zero == 3 and engine.rails == "one":
        network = rate.network
    share = (ranks - 1) / ranks
    gathered, summed = run.gathered_bytes, gradient_bytes(run)
    weights = share * elements * gathered / network
    reduction = share * elements * summed / network
    across = _across(run, at, elements / ranks, ranks * stride, backward)
    # Replicas are averaged while shards are reduced, one bucket behind, where both run beside the
    # backward pass.
    together = max if engine.overlaps_replicas else add
    # What is lost goes with the bytes: a slow network moves fewer of them in a second.
    beside = partial(_beside, loss=by_card("contention", at.card) * min(1.0, network / rate.link))
    if run.zero == 3:
        if run.lora is not None:
            reduction = 0.0
        gather = weights
        exposed = beside(gather, forward) + together(beside(gather + reduction, backward), across)
        first = gather / max(1, stage.layers)  # nothing runs while the first layer is gathered
        return run.accumulation * (exposed + first + _copies(run, at, elements))
    if engine.nanotron:
        return across + _nanotron(run, rate, stage, elements, ranks, stride, backward)
    nodes = ceil(ranks * stride / rate.node)
    buckets = max(1, ceil(elements * gradient_bytes(run) / engine.bucket))
    latency = buckets * log2(max(2, nodes)) * rate.latency(ranks, stride)
    reduced = (2 if run.zero == 0 else 1) * reduction
    # The last bucket is full when the backward pass is over.
    last = (reduced + latency) / buckets
    hidden = backward if engine.overlaps_gradients else 0.0
    exposed = together(max(last, beside(reduced, hidden, latency)), across)
    if run.zero == 2:
        exposed *= run.accumulation
    if run.zero == 0:
        return exposed
    if engine.overlaps_weights:
        return exposed + max((weights + latency) / buckets, beside(weights, forward, latency))
    return exposed + weights + latency


def _across(run: Run, at: Setting, elements: float, stride: int, backward: float) -> float:
    """Seconds of averaging a rank's share of the gradients over the replicas of a hybrid sharding
    that nothing hides: beside the backward pass, on a link of its own where replicas are nodes."""
    sent = elements * gradient_bytes(run) if run.lora is None else 0.0
    latency = at.rate.collective("all_reduce", run.replicate, stride, 0.0)
    seconds = at.rate.collective("all_reduce", run.replicate, stride, sent) - latency
    hidden = backward if at.engine.overlaps_replicas else 0.0
    within = run.replicate * stride <= at.rate.node
    network = at.rate.link if within else at.rate.crossing(run.replicate, stride)
    network = min(at.rate.link, network)
    loss = by_card("contention", at.card) * network / at.rate.link
    return _beside(seconds, hidden, latency, loss=loss)


def _copies(run: Run, at: Setting, elements: float) -> float:
    """Seconds in which FSDP2 copies gathered weights, twice a micro-batch, out of the buffer that
    they arrived in, and gradients into the buffer that is reduced (torch, fsdp/_fully_shard,
    _fsdp_collectives.py); FSDP1 and DeepSpeed look into a flat buffer instead."""
    if run.engine not in ("torchtitan", "transformers"):
        return 0.0
    width = run.recipe.activation_bytes
    moved = 2 * 2 * width
    if run.lora is None:
        moved += width + gradient_bytes(run)
    return elements * moved / at.rate.memory


def _beside(sent: float, computed: float, latency: float = 0.0, *, loss: float) -> float:
    """Seconds that communication beside a computation costs: what does not fit, its latency
    included, and of the rest the share `loss` that sending takes from the computation, whose
    processors, memory and power it uses as well."""
    return max(0.0, sent + latency - computed) + loss * min(sent, computed)


def _nanotron(run, rate: Rates, stage: Stage, elements, ranks, stride, backward: float) -> float:
    """Gradients reduced tensor by tensor beside the last backward pass, which slows both: the runs
    show a third of the link's rate, all of it on top. What the network needs beyond the backward
    pass comes on top again; weights are gathered after the update."""
    crosses = ranks * stride > rate.node
    network = min(rate.link, rate.crossing(ranks, stride)) if crosses else rate.link
    share = (ranks - 1) / ranks
    reduced = share * elements * gradient_bytes(run) * (2 if run.zero == 0 else 1)
    nodes = -(-ranks * stride // rate.node) if crosses else 0
    latency = _tensors(run.model, stage) * nodes * TENSOR_LATENCY
    exposed = reduced / (rate.link * REDUCTION) + latency
    exposed += max(0.0, reduced / network - backward)
    if run.zero == 0:
        return exposed
    if run.zero == 2:
        exposed *= run.accumulation
    weights = share * elements * run.recipe.weight_bytes
    return exposed + latency + weights / min(network, rate.link * REDUCTION)


@lru_cache(maxsize=256)
def _tensors(model: Model, stage: Stage) -> float:
    """Weight tensors of a stage."""
    inside = sum(len(block.weights) * block.count for block in model.blocks)
    return inside * stage.layers / model.layers + stage.embedding + 2 * stage.head


def update(run: Run, at: Setting, stage: Stage, elements: float) -> float:
    """Seconds of clipping and the optimizer's update.

    All gradients are read for their norm, scaled (read, write) and zeroed (write); the optimizer
    reads weights, state and gradients and writes weights and state, on its own shard under ZeRO;
    an offloaded one does so in the host's memory.
    """
    if run.lora is not None:
        return 0.0
    rate, ranks = at.rate, run.shards if run.zero else 1
    weight = run.recipe.weight_bytes
    gradient = weight if run.gathers_products else gradient_bytes(run)  # shards are fp32
    master = run.recipe.master
    kind = family_of(run.optimizer)[0]
    state = _BYTES_OF_STATE.get(kind)
    if state is None:
        state = _MOMENTS[kind] * (4 if master else weight)
    updated = 2 * ((4 if master else weight) + state) + gradient
    if "optimizer" in run.offload:
        back = 0 if "parameters" in run.offload else elements / ranks * weight
        moved = elements / ranks * (updated + (2 if master else 0))
        return update_on_host(run, at.card, moved, back)
    if run.optimizer == "adamw":
        updated *= FOREACH
    copied = 6 if master else 0
    clipped = 4 * gradient / (ranks if run.zero >= 2 else 1)
    seconds = elements * (clipped + (updated + copied) / ranks) / rate.memory
    if run.optimizer.startswith("galore"):
        products, decompositions = _projected(run.model, family_of(run.optimizer)[1])
        projected = products / rate.matmul + decompositions / (SVD * rate.single) / REFRESHED
        seconds += stage.layers * projected
    if run.optimizer == "muon":
        seconds += _newton_schulz(run.model) * stage.layers / run.tensor / ranks / rate.matmul
    return seconds


# Values of state an element; Adafactor's are a row and a column
_MOMENTS = {
    "sgd": 0,
    "momentum": 1,
    "adamw": 2,
    "adamw-fused": 2,
    "adafactor": 0,
    "muon": 1,
    "lion": 1,
    "adam-mini": 1,
    "galore": 1,  # its moments are small; the update is written at full size and read again
}
_BYTES_OF_STATE = {"adamw-8bit": 2, "paged-adamw-8bit": 2, "adamw-4bit": 1}  # an element


@lru_cache(maxsize=64)
def _projected(model: Model, rank: int) -> tuple[float, float]:
    """FLOPs of GaLore in the mean layer: of projecting gradients and bringing updates back, a step,
    and of decomposing them, every `REFRESHED` steps.

    A matrix of a x b, a <= b: two products of 2 a b r; U, S and V take 6 b a^2 + 20 a^3 (Golub and
    Van Loan, Matrix Computations, 4th edition, figure 8.6.1, R-SVD). Zhao et al.
    (arXiv:2403.03507), algorithm 2; galore_torch decomposes in fp32.
    """
    products = decompositions = 0.0
    for block in model.blocks:
        for weight in block.weights:
            if weight.kind == "matrix":
                a, b = sorted(weight.shape[-2:])
                number = weight.elements / (a * b) * block.count / model.layers
                products += 4 * a * b * min(rank, a) * number
                decompositions += (6 * b * a * a + 20 * a**3) * number
    return products, decompositions


@lru_cache(maxsize=64)
def _newton_schulz(model: Model) -> float:
    """FLOPs of Muon's five Newton-Schulz iterations on the matrices of the mean layer.

    Each multiplies X X^T, its square, and the sum of both with X: 4 a^2 b + 2 a^3 for a <= b
    (Jordan et al. 2024, kellerjordan.github.io/posts/muon).
    """
    flops = 0.0
    for block in model.blocks:
        for weight in block.weights:
            if weight.kind == "matrix":
                a, b = sorted(weight.shape[-2:])
                copies = weight.elements / (a * b)
                flops += 5 * (4 * a * a * b + 2 * a**3) * copies * block.count / model.layers
    return flops
