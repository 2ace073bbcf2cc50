"""Seconds of one micro-batch in a layer, in the head, and on a pipeline stage."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache
from math import ceil

from ..architecture.model import Model
from ..lora import Lora, adapted_layers
from ..parallel import Stage, expert_slices, gradient_bytes, tokens
from ..recomputing import recomputed
from ..run import Run
from .engines import Engine, engines
from .kernels import (
    BIASED_BACKWARD,
    BIASED_FORWARD,
    BIASED_LAUNCHES,
    attention,
    biased,
    cast,
    chip,
    groups_of,
    kernels_of,
    loss,
    moved,
    permuted,
)
from .rates import KERNEL, Rates, constants

_C = constants()
HOST_FORWARD = _C["host_forward"]  # share of the launches in the forward pass
# s more for a layer, at first and for each further tensor-parallel rank, when nanotron's pipeline
# crosses nodes. Why it should cost so much, we do not know.
HOST_PIPELINE = _C["host_pipeline"]
HOST_PIPELINE_RANK = _C["host_pipeline_rank"]
LAUNCH = 10e-6  # s to launch a kernel from Python, as data/engines.csv assumes
PROCESSORS = _C["dispatch_processors"]  # of a GPU's, that move tokens to their experts
PADDED = 64  # engines pad the vocabulary, so that the rows of its matrix begin at whole 128 bytes


@dataclass(frozen=True)
class Work:
    """Seconds of what every micro-batch goes through.

    Attributes:
        matmul: matmuls of the layers and the head.
        attention: scores and values, flash or eager.
        elementwise: norms, activations, residuals, rotations, the loss, adding up gradients, and
            casts to fp8.
        recompute: the forward passes repeated for backward.
        host: the GPU idle until the next kernel has been launched.
        tensor_parallel, context_parallel, expert_parallel: their collectives, as far as nothing
            hides them.
    """

    matmul: float
    attention: float
    elementwise: float
    recompute: float
    host: float
    tensor_parallel: float
    context_parallel: float
    expert_parallel: float


PARTS = tuple(field.name for field in fields(Work))


@dataclass(frozen=True)
class Pass(Work):
    """Seconds of a layer or head in one micro-batch; `forward` and `backward` are all of either."""

    forward: float
    backward: float


@dataclass(frozen=True)
class Setting:
    """What the seconds of a run depend on beside the run."""

    engine: Engine
    card: str
    rate: Rates
    host: float


def layer(run: Run, at: Setting) -> Pass:
    """The mean layer of the model."""
    rate, engine, t = at.rate, at.engine, run.tensor
    rows, width = tokens(run), run.recipe.activation_bytes
    low, kernels = rate.low is not None, kernels_of(run, engine)
    forward = backward = casting = 0.0
    each = cast(run, kernels) / rate.memory if low else 0.0
    products = _matmuls(run.model, t, expert_slices(run))
    for n, k, chosen, copies, narrow, share in products:
        m = rows * chosen
        fp8 = low and narrow
        forward += share * rate.multiply(m, n, k, width, copies, fp8)
        backward += share * rate.multiply(m, k, n, width, copies, fp8)
        if run.lora is None:
            backward += share * rate.weight_gradient(m, n, k, width, copies, fp8)
        if fp8:
            casting += share * each * (m * k + m * n + copies * n * k)
    if run.quantization is not None:
        casting += _unpacked(run) / rate.memory
    scores, scores_back = attention(run, engine, at.card, rate)
    between = rows * moved(run.model, t, kernels, run.sequence_parallel) * width
    between /= rate.memory
    if run.lora is not None:
        between += _adapters(run, rate, rows)
    sent, sent_back, sent_again = _tensor_parallel(run, at, forward)
    dispatch = (run.dispatch or engine.dispatch) if run.expert > 1 else None
    sorting = rows * permuted(run.model, dispatch, run.expert) * width / rate.memory
    if engine.name == "megatron":
        between += rows * biased(run.model) * (BIASED_FORWARD + BIASED_BACKWARD) / 3 / rate.memory
    ring, ring_back = _ring(run, engine, rate, scores, scores_back)
    again = _again(run, engine, forward, scores, between)
    if run.recompute == "full":
        again += sorting
    sent_back += sent_again
    ahead = forward + scores + between + sorting + casting / 3
    back = backward + scores_back + 2 * between + sorting + casting * 2 / 3 + again
    routed = routed_back = 0.0
    if dispatch:
        sending = _dispatched(run, at, dispatch)
        sending_back = sending * (2 if run.recompute == "full" else 1)
        routed, routed_back = _exposed(run, sending, ahead), _exposed(run, sending_back, back)
    ahead += sent + ring + routed
    back += sent_back + ring_back + routed_back
    launch, launch_back = _launches(run, at)
    idle, idle_back = max(0.0, launch - ahead), max(0.0, launch_back - back)
    return Pass(
        matmul=forward + backward,
        attention=scores + scores_back,
        elementwise=3 * between + 2 * sorting + casting,
        recompute=again,
        host=idle + idle_back,
        tensor_parallel=sent + sent_back,
        context_parallel=ring + ring_back,
        expert_parallel=routed + routed_back,
        forward=ahead + idle,
        backward=back + idle_back,
    )


def _again(run: Run, engine: Engine, forward: float, scores: float, between: float) -> float:
    """Seconds of what is computed a second time for the backward pass."""
    if _core_alone(run):
        return 0.0
    again = recomputed(run.model, run.recompute, run.attention, not engine.recompute_stops)
    rest = (again.attention + again.mlp + again.norms) / 3
    return again.matmul * forward + again.scores * scores + rest * between


def _core_alone(run: Run) -> bool:
    """Whether nothing is run again: Megatron's "selective" is the core of attention alone, of which
    a fused kernel keeps no scores."""
    megatron = run.engine in ("megatron", "megatron-deepspeed")
    return run.recompute == "selective" and run.attention != "eager" and megatron


@lru_cache(maxsize=256)
def _sparse(model: Model) -> float:
    """Share of the layers that have routed experts."""
    sparse = (b.count for b in model.blocks if any(w.chosen is not None for w in b.weights))
    return sum(sparse) / model.layers


def _launches(run: Run, at: Setting) -> tuple[float, float]:
    """Seconds to launch a layer's forward and backward pass."""
    engine = engines()["torchtitan"] if run.kernels == "compiled" else at.engine
    launches = engine.launch_sharded if run.zero == 3 else engine.launch
    sparse = _sparse(run.model)
    if sparse:
        launches += sparse * max(0.0, engine.launch_experts - launches)
        if engine.name == "megatron":
            launches += BIASED_LAUNCHES * _biased_experts(run) * LAUNCH
    if engine.nanotron and run.tensor > 1 and run.pipeline > 1 and run.gpus > at.rate.node:
        launches += HOST_PIPELINE + HOST_PIPELINE_RANK * (run.tensor - 1)
    launches *= at.host
    ahead = HOST_FORWARD * launches
    return ahead, launches if run.recompute == "full" else launches - ahead


def _biased_experts(run: Run) -> float:
    """Experts with biases on a rank, in the mean layer."""
    if not biased(run.model):
        return 0.0
    slices = expert_slices(run)
    experts = [w.shape[0] for b in run.model.blocks for w in b.weights if w.chosen]
    return _sparse(run.model) * max(1, max(experts) * run.tensor // slices)


@lru_cache(maxsize=512)
def _matmuls(model: Model, tensor: int, slices: int) -> tuple:
    """(n, k, rows a token, weights, fp8, number) of each kind of matmul in the mean layer on one
    rank."""
    kinds: dict[tuple, float] = {}
    for block in model.blocks:
        share = block.count / model.layers
        for weight in block.weights:
            if weight.kind != "matrix":
                continue
            n, k = weight.shape[-2:]
            copies, chosen = 1, weight.chosen or 1
            if weight.chosen:  # as many rows a rank as without expert parallelism, on fewer experts
                copies = max(1, weight.shape[0] * tensor // slices)
                if slices % tensor or slices < tensor:
                    chosen /= tensor
                else:
                    n, k = _sliced(n, k, model.hidden, tensor)
            elif weight.part != "router":
                n, k = _sliced(n, k, model.hidden, tensor)
            kind = (n, k, chosen, copies, weight.part != "router")
            kinds[kind] = kinds.get(kind, 0.0) + share
    return tuple((*kind, number) for kind, number in kinds.items())


def _sliced(n: float, k: float, hidden: int, tensor: int) -> tuple[float, float]:
    return (n, k / tensor) if n == hidden != k else (n / tensor, k)


def _unpacked(run: Run) -> float:
    """Bytes moved to turn a layer's quantised weights into 16 bits, for each pass that they are
    multiplied in: read at their own width, written, and read by the product as before."""
    own = 1 if run.quantization == "int8" else 0.5
    passes = 3 if run.recompute == "full" else 2
    elements = sum(
        n * k * copies * share
        for n, k, _, copies, linear, share in _matmuls(run.model, run.tensor, 1)
        if linear
    )
    return passes * elements * (own + run.recipe.activation_bytes)


def _adapters(run: Run, rate: Rates, rows: float) -> float:
    """Seconds forward of low-rank adapters; their backward pass takes twice that. Their products
    are so narrow that they wait for memory as all else around them does."""
    into, out = _adapter_bytes(run)
    seconds = 0.0
    for n, k, share in _adapted(run.model, run.lora, run.tensor):
        seconds += share * (rows * (into * k + out * n) / rate.memory + 2 * KERNEL)
    return seconds


def _adapter_bytes(run: Run) -> tuple[int, int]:
    """Bytes moved for each element of an adapted layer's input and output, forward.

    peft's fp32 adapters (tuners/lora/layer.py): the input is cast, dropped out and read; the update
    is written, scaled, added and cast back. Autocast casts the input once more, and products are
    in 16 bits from there. Adapters in 16 bits, as Megatron's, have no casts.
    """
    dropped = 1 if run.lora.dropout else 0
    own = run.engine in ("megatron", "torchtitan")
    if run.recipe.products == "fp32":
        return 4 + 9 * dropped, 4 + 8 + 12
    if run.lora.dtype == "bf16" or own:
        return 2 + 5 * dropped, 2 + 4 + 6
    if run.recipe.autocast:
        return 6 + 9 * dropped + 6 + 2, 2 + 4 + 6
    return 6 + 9 * dropped + 4, 4 + 8 + 10 + 6


@lru_cache(maxsize=256)
def _adapted(model: Model, lora: Lora, tensor: int) -> tuple[tuple[float, float, float], ...]:
    """(n, k, number in the mean layer) of each shape of layer with an adapter, on one rank."""
    kinds: dict[tuple[float, float], float] = {}
    for block in model.blocks:
        for _, (n, k) in adapted_layers(model, lora, block):
            shape = _sliced(n, k, model.hidden, tensor)
            kinds[shape] = kinds.get(shape, 0.0) + block.count / model.layers
    return tuple((*shape, number) for shape, number in kinds.items())


def _tensor_parallel(run: Run, at: Setting, forward: float) -> tuple[float, float, float]:
    """Seconds of a layer's tensor-parallel collectives forward, backward and for recompute."""
    t = run.tensor
    if t == 1:
        return 0.0, 0.0, 0.0
    payload = tokens(run) * run.model.hidden * run.recipe.activation_bytes
    again = recomputed(run.model, run.recompute, run.attention)
    more = 0.0 if _core_alone(run) else (again.attention + again.mlp) / 2
    # Per operation what follows the products is kept: inputs are gathered again, no sums are made.
    kept = run.recompute == "selective"
    if not run.sequence_parallel:
        one = at.rate.collective("all_reduce", t, 1, payload)
        return 2 * one, 2 * one, 0.0 if kept else 2 * more * one
    one = at.rate.collective("all_gather", t, 1, payload)
    newer = at.engine.overlaps_tensor == "hopper" and chip(at.card) != "a100"
    if (
        newer or at.engine.overlaps_tensor == "yes"
    ):  # in t pieces, all but the first beside the matmul that they feed
        one = max(one / t, one - forward / 4)
    return 4 * one, 6 * one, (2 if kept else 4) * more * one


def _dispatched(run: Run, at: Setting, dispatch: str) -> float:
    """Seconds in which a layer's tokens go to their experts and come back, once."""
    rows = tokens(run) / (run.tensor if run.sequence_parallel else 1)
    stride = run.tensor if expert_slices(run) > run.expert else 1
    payload = rows * run.model.hidden * run.recipe.activation_bytes
    once, groups = dispatch != "all-to-all", groups_of(run.model)
    seconds = 0.0
    for block in run.model.blocks:
        chosen = next((w.chosen for w in block.weights if w.chosen is not None), 0)
        one = at.rate.all_to_all(run.expert, stride, payload, chosen, once, groups)
        seconds += 2 * one * block.count / run.model.layers
    return seconds


def _exposed(run: Run, sending: float, computing: float) -> float:
    """Seconds that sending tokens costs a pass: all of it, or, beside another micro-batch's
    computation, what that does not hide and the processors that it takes from it."""
    if not run.overlap_dispatch:
        return sending
    return max(0.0, sending - computing) + PROCESSORS * min(sending, computing)


def _ring(
    run: Run, engine: Engine, rate: Rates, scores: float, scores_back: float
) -> tuple[float, float]:
    """Seconds that keys and values are on their way and attention does not hide."""
    hops = run.context - 1
    if not hops:
        return 0.0, 0.0
    if engine.gathers_context:
        return _gathered(run, rate, scores, scores_back)
    width = 2 * run.model.kv_heads * run.model.head_dim / run.tensor
    hop = rate.message(run.tensor * run.context, tokens(run) * width * run.recipe.activation_bytes)
    if not engine.overlaps_context:
        return hops * hop, 2 * hops * hop
    return max(0.0, hops * hop - scores), max(0.0, 2 * hops * hop - scores_back)


# Bytes for each element of a rank's queries and block of keys, in fp32 operation by operation:
# forward the block's output cast (6) and merged (32); backward three gradients cast (6) and added
# (12) each (torch.distributed.tensor.experimental, _SDPAMerger and the ring's backward).
MERGED = (38, 54)


def _gathered(run: Run, rate: Rates, scores: float, scores_back: float) -> tuple[float, float]:
    """Seconds that all keys and values, repeated for every head, are gathered and the first block
    of attention does not hide, that blocks are merged, and that gradients are passed on."""
    ranks = run.context
    elements = tokens(run) * run.model.heads * run.model.head_dim / run.tensor
    both = 2 * elements * run.recipe.activation_bytes
    one = rate.collective("all_gather", ranks, run.tensor, ranks * both)
    ahead, back = (moved * (ranks - 1) * elements / rate.memory for moved in MERGED)
    ahead += max(0.0, one - scores / ranks)
    passed = (ranks - 1) * rate.message(run.tensor * ranks, both)
    back += max(0.0, one - scores_back / ranks) + max(0.0, passed - scores_back)
    return ahead, back + (ahead if run.recompute == "full" else 0.0)


def head(run: Run, at: Setting) -> Pass:
    """The final norm's matmul with the vocabulary, and the loss."""
    rate, engine = at.rate, at.engine
    rows, hidden = tokens(run), run.model.hidden
    vocab = PADDED * ceil(run.model.vocab / run.tensor / PADDED)
    width = run.recipe.activation_bytes
    forward = rate.multiply(rows, vocab, hidden, width)
    backward = rate.multiply(rows, hidden, vocab, width)
    if run.lora is None:
        backward += rate.weight_gradient(rows, vocab, hidden, width)
    ahead, back = (part * rows * vocab / rate.memory for part in loss(run, engine))
    if run.loss_kernel == "fused":  # logits are never kept: multiplied again for the backward pass
        backward += forward
    if run.sequence_parallel:
        one = rate.collective("all_gather", run.tensor, 1, rows * hidden * width)
        gathered, gathered_back = one, 2 * one
    else:
        gathered = 0.0
        gathered_back = rate.collective("all_reduce", run.tensor, 1, rows * hidden * width)
    sums = 3 * rate.collective("all_reduce", run.tensor, 1, rows * 4)
    before, after = forward + ahead + gathered + sums, backward + back + gathered_back
    idle = max(0.0, at.host * engine.launch_head - before - after)
    return Pass(
        matmul=forward + backward,
        attention=0.0,
        elementwise=ahead + back,
        recompute=0.0,
        host=idle,
        tensor_parallel=gathered + gathered_back + sums,
        context_parallel=0.0,
        expert_parallel=0.0,
        forward=before,
        backward=after + idle,
    )


def stage_parts(
    run: Run, at: Setting, stage: Stage, held: float, one: Pass, last: Pass
) -> dict[str, float]:
    """Seconds of one micro-batch on a stage, whose GPUs hold so many parameters, by part."""
    heads = 1 if stage.head else 0
    parts = {
        name: stage.layers * getattr(one, name) + heads * getattr(last, name) for name in PARTS
    }
    if stage.embedding:
        payload = tokens(run) * run.model.hidden * run.recipe.activation_bytes
        if run.sequence_parallel:
            parts["tensor_parallel"] += 2 * at.rate.collective(
                "reduce_scatter", run.tensor, 1, payload
            )
        else:
            parts["tensor_parallel"] += at.rate.collective("all_reduce", run.tensor, 1, payload)
    parts["elementwise"] += _added(run, at.engine, held) / at.rate.memory
    return parts


def _added(run: Run, engine: Engine, elements: float) -> float:
    """Bytes moved to add a micro-batch's gradients to those before: read, read, write; nothing
    where the matmul that makes them adds them up."""
    if run.lora is not None or engine.kernels == "fused":
        return 0.0
    if run.zero >= 2:
        elements /= run.shards
    weight = run.recipe.weight_bytes
    if gradient_bytes(run) == 4 and weight == 2:
        return elements * (4 + weight + 4)
    return elements * 3 * weight if run.accumulation > 1 else 0.0
