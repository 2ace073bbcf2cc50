"""Seconds of one optimizer step: what the GPUs compute, move and wait for.

Matmuls and collectives run at the rates of `sizing.speed.rates`; everything else in a layer takes
its bytes of memory traffic. No pass can be shorter than the host needs to launch it. Stages run
1F1B: the slowest sets the pace, filling and draining is the bubble.

Constants that no datasheet gives stand in data/rates.csv with their origin: most come from 15 runs
of one model size on H100s, named in `sizing.evidence.ultrascale`; its error table,
data/parallel_error.csv, is over all the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from ..architecture.model import Model
from ..compute import query_key_pairs
from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..parallel import (
    Stage,
    check_degrees,
    gradient_bytes,
    stage_parameters,
    stages,
    tokens,
    trained_bytes,
)
from ..run import Run, adapted_layers
from ..units import BYTES
from .rates import NETWORK, NODE, Rates, constants, sustained_rates

# --- The engine: nanotron, that is PyTorch kernel by kernel --------------------------------------

_C = constants()
FLASH_FORWARD = _C["flash_forward"]  # of the dense peak, on the pairs that the causal mask leaves
FLASH_BACKWARD = _C["flash_backward"]  # of the dense peak, on 2.5 times the FLOPs
HOST_LAYER = _C["host_layer"]  # s of Python and launches for a layer's forward and backward
HOST_HEAD = _C["host_head"]  # s for head and loss
HOST_FORWARD = _C["host_forward"]  # share of them in the forward pass
# s more for a layer, at first and for each further tensor-parallel rank, when the pipeline crosses
# nodes. Why it should cost so much, we do not know.
HOST_PIPELINE = _C["host_pipeline"]
HOST_PIPELINE_RANK = _C["host_pipeline_rank"]
MESSAGE = _C["message"]  # s for a message between stages, whose shape goes ahead of it
REDUCTION = _C["reduction"]  # of the link's rate, gradients reduced beside the backward pass
TENSOR_LATENCY = _C["tensor_latency"]  # s for each node and tensor, reduced or gathered once a step

# Bytes moved. Elements a token and layer, forward; backward moves twice as many. Norms read and
# write (4 widths), residuals (6), queries, keys and values are copied into shape and rotated, the
# activation reads and writes, a gate multiplies.
HIDDEN_MOVED, QUERY_MOVED, KV_MOVED, GATED_MOVED, PLAIN_MOVED = 10, 6, 14, 5, 2
# Bytes a token and vocabulary element of the loss: cast to fp32, maximum, difference, exponential,
# sum and quotient, 38; gradient and its cast to bf16, 14.
LOSS_MOVED = 52
# Bytes a score of eager attention in 16 bits: forward, write, mask, softmax, read, 12; backward 18.
SCORE_MOVED = (12, 18)
FOREACH = 2.5  # passes of foreach AdamW over its operands, where a fused kernel makes one


@dataclass(frozen=True)
class Work:
    """Seconds of what every micro-batch goes through.

    Attributes:
        matmul: matmuls of the layers and the head.
        attention: scores and values, flash or eager.
        elementwise: norms, activations, residuals, rotations, the loss, adding up gradients.
        recompute: the forward passes repeated for backward.
        host: the GPU idle until Python has launched its next kernel.
        tensor_parallel, context_parallel: their collectives, none of it hidden.
    """

    matmul: float
    attention: float
    elementwise: float
    recompute: float
    host: float
    tensor_parallel: float
    context_parallel: float


@dataclass(frozen=True)
class StepTime(Work):
    """Seconds of one optimizer step on the GPUs of the slowest pipeline stage: `Work`, and

    Attributes:
        pipeline_transfer: activations and gradients between stages.
        pipeline_bubble: filling and draining the pipeline.
        data_parallel: gradients and gathered weights, what computation does not hide.
        optimizer: clipping, update, copy to the working weights.
    """

    pipeline_transfer: float
    pipeline_bubble: float
    data_parallel: float
    optimizer: float

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part; they sum to the total."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def total(self) -> float:
        return sum(self.parts.values())

    def tokens_per_second(self, run: Run) -> float:
        """Tokens per second and GPU."""
        return run.tokens / self.total / run.gpus


def step_time(
    run: Run,
    gpu: str | GPU = "h100-sxm",
    *,
    network: float = NETWORK,
    node: int = NODE,
    host: float = 1.0,
) -> StepTime:
    """Seconds of one optimizer step, by part.

    Args:
        run: the training run.
        gpu: an accelerator's name in data/gpus.csv, or a `GPU`.
        network: bytes/s that each GPU has between nodes, in one direction.
        node: GPUs in a node, joined by the accelerator's link.
        host: the engine's launching time in units of nanotron's; 0 for captured CUDA graphs.

    Raises:
        ValueError: see `check_degrees`; a GPU without a rate for the run's dtype, or without a link
            where several GPUs need one; an impossible network, node or host.

    It describes nanotron: kernels launched one by one from Python, an fp32 loss in separate
    kernels, tensor-parallel collectives that nothing hides. ZeRO-2 and 3, context parallelism,
    recompute and eager attention follow the same reasoning but are in none of the runs that
    data/parallel_error.csv compares with; Megatron's and torchtitan's published runs on A100s check
    some of that (tests/test_step_time.py). Left out: an allocator near the end of its memory,
    congestion, stragglers, interleaved pipelines. Adapters and quantised weights: the products and
    traffic that they add and spare, unmeasured.
    """
    check_degrees(run)
    gpu = find_gpu(gpu) if isinstance(gpu, str) else gpu
    if not host >= 0:
        raise ValueError(f"host: {host!r} given; allowed: a number >= 0")
    if gpu.link is None and run.gpus > 1 and node > 1:
        raise ValueError(
            f"gpu: {gpu.name!r} given, whose link is unknown; allowed: a GPU with a link, or node=1"
        )
    rate = sustained_rates(gpu, run.recipe.products, network, node)
    layer, head = _layer(run, rate, host), _head(run, rate, host)
    passes = {}
    ends = 0.0  # of data-parallel communication and update, on the worst stage
    data_parallel = optimizer = 0.0
    split = stages(run)
    for stage in split:
        if stage not in passes:
            passes[stage] = _stage(run, rate, stage, layer, head)
            exposed, update = _data_parallel(run, rate, stage, layer), _update(run, rate, stage)
            if exposed + update >= ends:
                ends, data_parallel, optimizer = exposed + update, exposed, update
    lengths = [sum(passes[stage].values()) for stage in split]
    slowest = max(lengths)
    parts = passes[split[lengths.index(slowest)]]
    micro = run.accumulation
    return StepTime(
        **{name: seconds * micro for name, seconds in parts.items()},
        pipeline_transfer=_messages(run, rate) * (micro + 2 * (run.pipeline - 1)),
        pipeline_bubble=sum(lengths) - slowest,
        data_parallel=data_parallel,
        optimizer=optimizer,
    )


# --- One micro-batch -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pass(Work):
    """Seconds of a layer or head in one micro-batch."""

    forward: float  # all of the forward pass, and of the backward
    backward: float


def _layer(run: Run, rate: Rates, host: float) -> _Pass:
    """The mean layer of the model."""
    rows, t = tokens(run), run.tensor
    shape = _shape(run.model, t, run.sequence)
    memory, width = rate.memory, run.recipe.activation_bytes
    forward = backward = 0.0
    for n, k, chosen, copies, share in shape.matmuls:
        m = rows * chosen
        forward += share * rate.multiply(m, n, k, width, copies)
        backward += share * rate.multiply(m, k, n, width, copies)
        if run.lora is None:  # a frozen weight has no gradient
            backward += share * rate.multiply(n, k, m, width)
    moved = rows * shape.moved * width / memory
    if run.lora is not None:
        beside, beside_back, more = _adapters(run, rate)
        forward, backward, moved = forward + beside, backward + beside_back, moved + more
    scores, scores_back = _attention(run, rate, shape)
    one = rate.collective("all_gather", t, 1, rows * run.model.hidden * width)
    ring, ring_back = _ring(run, rate, scores, scores_back)
    again, gathered = 0.0, 0
    if run.recompute == "full":
        again, gathered = forward + scores + moved, 4
    elif run.recompute == "selective" and run.attention == "eager":
        again = scores
    launches = HOST_LAYER
    if t > 1 and run.pipeline > 1 and run.gpus > rate.node:
        launches += HOST_PIPELINE + HOST_PIPELINE_RANK * (t - 1)
    launches *= host
    ahead = forward + scores + moved + 4 * one + ring
    back = backward + scores_back + 2 * moved + (6 + gathered) * one + ring_back + again
    launch = HOST_FORWARD * launches
    launch_back = launches if run.recompute == "full" else launches - launch
    idle, idle_back = max(0.0, launch - ahead), max(0.0, launch_back - back)
    return _Pass(
        matmul=forward + backward,
        attention=scores + scores_back,
        elementwise=3 * moved,
        recompute=again,
        host=idle + idle_back,
        tensor_parallel=(10 + gathered) * one,
        context_parallel=ring + ring_back,
        forward=ahead + idle,
        backward=back + idle_back,
    )


def _adapters(run: Run, rate: Rates) -> tuple[float, float, float]:
    """Seconds of the mean layer's adapters: products forward and backward, and what is moved.

    Each moves its input once and its output four times (scaled, added, cast); a quantised weight
    is written down in 16 bits before its product, forward and backward.
    """
    rows, width, rank = tokens(run), run.recipe.activation_bytes, run.lora.rank
    forward = backward = moved = 0.0
    for block in run.model.blocks:
        share = block.count / run.model.layers
        for _, (out, into) in adapted_layers(run, block):
            out, into = out / run.tensor, into / run.tensor
            pair = rate.multiply(rows, rank, into, width) + rate.multiply(rows, out, rank, width)
            forward, backward = forward + share * pair, backward + 2 * share * pair
            moved += share * rows * (into + 4 * out) * width
            if run.quantization is not None:
                moved += share * out * into * 2.5
    return forward, backward, moved / rate.memory


@dataclass(frozen=True)
class _Shape:
    matmuls: tuple[tuple[float, float, float, int, float], ...]  # n, k, rows, weights, share
    pairs: float  # FLOPs of scores and values for one sequence over the causal pairs
    all_pairs: float  # and over all pairs
    scores: float  # scores of one sequence
    moved: float  # elements moved for a token, forward


@lru_cache(maxsize=512)
def _shape(model: Model, tensor: int, sequence: int) -> _Shape:
    """What one rank multiplies and moves for the mean layer."""
    matmuls = []
    pairs = all_pairs = scores = moved = 0.0
    for block in model.blocks:
        share = block.count / model.layers
        mlp, gated = 0, False
        for weight in block.weights:
            if weight.kind != "matrix":
                continue
            n, k = weight.shape[-2:]
            if weight.part != "router":
                n, k = (n, k / tensor) if n == model.hidden != k else (n / tensor, k)
            copies = weight.shape[0] if weight.chosen else 1
            matmuls.append((n, k, weight.chosen or 1, copies, share))
            if weight.part == "mlp":
                mlp += weight.active
                gated = gated or "gate" in weight.name
        flops = 2 * (block.query_dim + block.value_dim) * block.heads / tensor
        pairs += share * flops * query_key_pairs(sequence, block, "causal")
        all_pairs += share * flops * query_key_pairs(sequence, block, "full")
        scores += share * block.heads / tensor * sequence * sequence
        moved += share * (
            HIDDEN_MOVED * model.hidden
            + QUERY_MOVED * block.heads * block.query_dim
            + KV_MOVED * model.kv_heads * model.head_dim
            + (GATED_MOVED / 3 if gated else PLAIN_MOVED / 2) * mlp / model.hidden
        )
    return _Shape(tuple(matmuls), pairs, all_pairs, scores, moved / tensor)


def _attention(run: Run, rate: Rates, shape: _Shape) -> tuple[float, float]:
    """Seconds of scores and values in a layer, forward and backward."""
    batch = run.micro_batch / run.context
    if run.attention == "flash":
        flops = batch * shape.pairs
        return (
            flops / (rate.peak * FLASH_FORWARD),
            2.5 * flops / (rate.peak * FLASH_BACKWARD),
        )
    flops = batch * shape.all_pairs / rate.matmul
    moved = batch * shape.scores * run.recipe.activation_bytes / 2 / rate.memory
    return flops + SCORE_MOVED[0] * moved, 2 * flops + SCORE_MOVED[1] * moved


def _ring(run: Run, rate: Rates, scores: float, scores_back: float) -> tuple[float, float]:
    """Seconds that keys and values are on their way and attention does not hide."""
    hops = run.context - 1
    if not hops:
        return 0.0, 0.0
    block = (
        tokens(run)
        * 2
        * run.model.kv_heads
        * run.model.head_dim
        / run.tensor
        * run.recipe.activation_bytes
    )
    hop = rate.message(run.tensor * run.context, block)
    return max(0.0, hops * hop - scores), max(0.0, 2 * hops * hop - scores_back)


def _head(run: Run, rate: Rates, host: float) -> _Pass:
    rows, hidden, vocab = tokens(run), run.model.hidden, run.model.vocab / run.tensor
    memory, width = rate.memory, run.recipe.activation_bytes
    forward = rate.multiply(rows, vocab, hidden, width)
    backward = rate.multiply(rows, hidden, vocab, width)
    if run.lora is None or "lm_head" in run.lora.embeddings:
        backward += rate.multiply(vocab, hidden, rows, width)
    loss = LOSS_MOVED * rows * vocab / memory
    one = rate.collective("all_gather", run.tensor, 1, rows * hidden * width)
    sums = 3 * rate.collective("all_reduce", run.tensor, 1, rows * 4)
    ahead, back = forward + 0.73 * loss + one + sums, backward + 0.27 * loss + 2 * one
    idle = max(0.0, host * HOST_HEAD - ahead - back)
    return _Pass(
        matmul=forward + backward,
        attention=0.0,
        elementwise=loss,
        recompute=0.0,
        host=idle,
        tensor_parallel=3 * one + sums,
        context_parallel=0.0,
        forward=ahead,
        backward=back + idle,
    )


_PARTS = tuple(field.name for field in fields(Work))


def _stage(run: Run, rate: Rates, stage: Stage, layer: _Pass, head: _Pass) -> dict[str, float]:
    """Seconds of one micro-batch on a stage, by part."""
    heads = 1 if stage.head else 0
    parts = {
        name: stage.layers * getattr(layer, name) + heads * getattr(head, name) for name in _PARTS
    }
    if stage.embedding:
        payload = tokens(run) * run.model.hidden * run.recipe.activation_bytes
        scatter = rate.collective("reduce_scatter", run.tensor, 1, payload)
        parts["tensor_parallel"] += 2 * scatter
    parts["elementwise"] += _added(run, stage) / rate.memory
    return parts


def _held(run: Run, stage: Stage) -> float:
    return stage_parameters(run.model, stage, run.tensor)


def _trained(run: Run, stage: Stage) -> float:
    """Trained elements of a stage."""
    if run.lora is None:
        return _held(run, stage)
    return trained_bytes(run, stage) / BYTES[run.lora.dtype]


def _added(run: Run, stage: Stage) -> float:
    """Bytes moved to add a micro-batch's gradients to those before: read, read, write."""
    elements = _trained(run, stage)
    if run.zero >= 2:
        elements /= run.data * run.context
    weight = run.recipe.weight_bytes
    if run.gradients == "fp32":
        return elements * (4 + weight + 4)
    return elements * 3 * weight if run.accumulation > 1 else 0.0


# --- Once a step ---------------------------------------------------------------------------------


def _messages(run: Run, rate: Rates) -> float:
    """Seconds to send a micro-batch's activations on and its gradients back."""
    if run.pipeline == 1:
        return 0.0
    payload = tokens(run) / run.tensor * run.model.hidden * run.recipe.activation_bytes
    return 2 * (rate.message(2 * run.tensor * run.context * run.data, payload) + MESSAGE)


def _data_parallel(run: Run, rate: Rates, stage: Stage, layer: _Pass) -> float:
    """Seconds of gradients' reduction and weights' gathering that nothing hides, in a step.

    Gradients of the last micro-batch are reduced beside its backward pass, which slows both: the
    runs show a third of the link's rate, all of it on top. What the network needs beyond the
    backward pass comes on top again.
    """
    ranks, stride = run.data * run.context, run.tensor
    if ranks == 1:
        return 0.0
    elements = _held(run, stage)
    weights = elements * run.recipe.weight_bytes
    crosses = ranks * stride > rate.node
    network = rate.crossing(ranks, stride) if crosses else rate.link
    backward = stage.layers * layer.backward
    share = (ranks - 1) / ranks
    reduced = share * _trained(run, stage) * gradient_bytes(run) * (2 if run.zero == 0 else 1)
    if run.zero == 3:
        gather, reduction = share * weights / network, reduced / network
        exposed = max(0.0, gather - stage.layers * layer.forward)
        exposed += max(0.0, gather + reduction - backward)
        first = gather / max(1, stage.layers)  # nothing runs while the first layer is gathered
        return run.accumulation * (exposed + first)
    nodes = -(-ranks * stride // rate.node) if crosses else 0
    latency = _tensors(run.model, stage) * nodes * TENSOR_LATENCY
    exposed = reduced / (rate.link * REDUCTION) + latency
    exposed += max(0.0, reduced / network - backward)
    if run.zero == 0:
        return exposed
    if run.zero == 2:
        exposed *= run.accumulation
    return (
        exposed
        + latency
        + share * (weights if run.lora is None else reduced) / min(network, rate.link * REDUCTION)
    )


@lru_cache(maxsize=256)
def _tensors(model: Model, stage: Stage) -> float:
    """Weight tensors of a stage."""
    inside = sum(len(block.weights) * block.count for block in model.blocks)
    return inside * stage.layers / model.layers + stage.embedding + 2 * stage.head


def _update(run: Run, rate: Rates, stage: Stage) -> float:
    """Seconds of clipping and the optimizer's update.

    All gradients are read for their norm, scaled (read, write) and zeroed (write); the optimizer
    reads weights, state and gradients and writes weights and state, on its own shard under ZeRO.
    """
    elements = _trained(run, stage)
    ranks = run.data * run.context if run.zero else 1
    gradient = gradient_bytes(run)
    weight = run.recipe.weight_bytes
    master = run.recipe.master
    state = _MOMENTS[run.optimizer] * (4 if master else weight)
    if run.optimizer == "adamw-8bit":
        state = 2
    updated = 2 * ((4 if master else weight) + state) + gradient
    if run.optimizer == "adamw":
        updated *= FOREACH
    copied = 6 if master else 0
    clipped = 4 * gradient / (ranks if run.zero >= 2 else 1)
    seconds = elements * (clipped + (updated + copied) / ranks) / rate.memory
    if run.optimizer == "muon":
        seconds += _newton_schulz(run.model) * stage.layers / run.tensor / ranks / rate.matmul
    return seconds


# Values of state an element; Adafactor's are a row and a column
_MOMENTS = {
    "sgd": 0,
    "momentum": 1,
    "adamw": 2,
    "adamw-fused": 2,
    "adamw-8bit": 2,
    "adafactor": 0,
    "muon": 1,
    "lion": 1,
}


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
