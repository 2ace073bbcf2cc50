"""Seconds of one optimizer step: what the GPUs compute, move and wait for.

Each matmul takes its FLOPs at the rate that large matmuls sustain or its bytes at the memory's
rate, whichever is longer (roofline: Williams, Waterman and Patterson 2009,
doi:10.1145/1498765.1498785); everything else in a layer takes its bytes. Collectives take a ring's
bytes and a latency for every rank. No pass can be shorter than the host needs to launch it. Stages
run 1F1B: the slowest sets the pace, filling and draining is the bubble.

Constants that no datasheet gives come from 15 runs of one model size on H100s, named in
`sizing.ultrascale`; its error table, data/parallel_error.csv, is over all the others.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import lru_cache

from .flops import query_key_pairs
from .hardware import GPU
from .hardware import gpu as find_gpu
from .model import Model
from .parallel import (
    ACTIVATION_BYTES,
    WEIGHT_BYTES,
    Stage,
    check_degrees,
    gradient_bytes,
    ring_factor,
    stage_parameters,
    stages,
    tokens,
)
from .run import Run

# --- The accelerator -----------------------------------------------------------------------------

# Rate of large matmuls over a whole step, as a share of the datasheet's dense peak, calibrated: on
# the H100 with the runs named above, on the A100 with one row (1.7B) of Megatron's table 1
# (arXiv:2104.04473). The best single matmul found by search reaches 0.80 and 0.87 (Stas Bekman,
# ml-engineering, compute/accelerator/README.md, "Maximum Achievable Matmul FLOPS", 2026-11-22): an
# H100 is held back by its power. A device measured here has its best rate for a peak.
MATMUL_RATE = {
    "a100-sxm-40gb": 0.75,
    "a100-sxm-80gb": 0.75,
    "h100-sxm": 0.61,
    "h200-sxm": 0.61,
    "measured": 0.80,
}
OTHER_MATMUL_RATE = 0.65  # unknown: between those of the accelerators that we know
KERNEL = 8e-6  # s for a matmul to start, fill its waves of tiles and drain
MEMORY_RATE = 0.85  # of the datasheet's bandwidth; 0.87 copied on an H100 (aigatech/vpbenchmarking)
FLASH_FORWARD = 0.36  # calibrated: of the dense peak, on the pairs that the causal mask leaves
FLASH_BACKWARD = 0.30  # of the dense peak, on 2.5 times the FLOPs (FlashAttention-2, 2307.08691)

# --- The cluster: nodes of 8, and AWS p5.48xlarge's network, on which the calibration runs ran.
# Each H100 has four of the node's 32 EFA cards of 100 Gbit/s (Perplexity AI, "High-Performance GPU
# Memory Transfer on AWS", 2025, which moves 97 % of that).

NODE = 8
NETWORK = 50e9  # bytes/s in one direction for each GPU
NETWORK_RATE = 0.80  # of the network, in collectives
LINK_RATE = 0.81  # calibrated: of the link's datasheet rate, in collectives within a node
LINK_LATENCY = 8e-6  # s for each further rank of a collective within a node
NETWORK_LATENCY = 28e-6  # calibrated: s for each further rank of one that crosses nodes

# --- The engine: nanotron, that is PyTorch kernel by kernel --------------------------------------

HOST_LAYER = 4.1e-3  # calibrated: s of Python and launches for a layer's forward and backward
HOST_HEAD = 4.5e-3  # calibrated: s for head and loss
HOST_FORWARD = 0.36  # share of them in the forward pass
# Calibrated: s more for a layer, at first and for each further tensor-parallel rank, when the
# pipeline crosses nodes. The runs show it at 2, 4, 8 and 16 ranks, whatever the micro-batch. They
# also hold less memory, as if matmul inputs were gathered again for backward and not kept:
# probably another version of the engine. Why it should cost so much, we do not know.
HOST_PIPELINE = 1e-3
HOST_PIPELINE_RANK = 2.2e-3
MESSAGE = 0.3e-3  # s for a message between stages, whose shape goes ahead of it
REDUCTION = 0.31  # calibrated: of the link's rate, gradients reduced beside the backward pass
TENSOR_LATENCY = 11e-6  # calibrated: s for each node and tensor, reduced or gathered once a step

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
class StepTime:
    """Seconds of one optimizer step on the GPUs of the slowest pipeline stage.

    Attributes:
        matmul: matmuls of the layers and the head.
        attention: scores and values, flash or eager.
        elementwise: norms, activations, residuals, rotations, the loss, adding up gradients.
        recompute: the forward passes repeated for backward.
        host: the GPU idle until Python has launched its next kernel.
        tensor_parallel, context_parallel: their collectives, none of it hidden.
        pipeline_transfer: activations and gradients between stages.
        pipeline_bubble: filling and draining the pipeline.
        data_parallel: gradients and gathered weights, what computation does not hide.
        optimizer: clipping, update, copy to the working weights.
    """

    matmul: float
    attention: float
    elementwise: float
    recompute: float
    host: float
    tensor_parallel: float
    context_parallel: float
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


@dataclass(frozen=True)
class _Device:
    """Rates in one run: FLOP/s and bytes/s."""

    matmul: float
    peak: float
    memory: float
    link: float
    network: float
    node: int
    host: float
    width: int  # bytes of an activation


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
    congestion, stragglers, interleaved pipelines.
    """
    check_degrees(run)
    device = _device(run, find_gpu(gpu) if isinstance(gpu, str) else gpu, network, node, host)
    layer, head = _layer(run, device), _head(run, device)
    passes = {}
    ends = 0.0  # of data-parallel communication and update, on the worst stage
    data_parallel = optimizer = 0.0
    split = stages(run)
    for stage in split:
        if stage not in passes:
            passes[stage] = _stage(run, device, stage, layer, head)
            exposed, update = _data_parallel(run, device, stage, layer), _update(run, device, stage)
            if exposed + update >= ends:
                ends, data_parallel, optimizer = exposed + update, exposed, update
    lengths = [sum(passes[stage].values()) for stage in split]
    slowest = max(lengths)
    parts = passes[split[lengths.index(slowest)]]
    micro = run.accumulation
    return StepTime(
        **{name: seconds * micro for name, seconds in parts.items()},
        pipeline_transfer=_messages(run, device) * (micro + 2 * (run.pipeline - 1)),
        pipeline_bubble=sum(lengths) - slowest,
        data_parallel=data_parallel,
        optimizer=optimizer,
    )


def matmul_time(m: float, n: float, k: float, gpu: str | GPU, dtype: str = "bf16") -> float:
    """Seconds of an (m, k) x (k, n) matmul on one GPU.

    Its 2mnk FLOPs at the sustained rate of large matmuls, or its bytes at the memory's rate, and a
    start-up time: small and thin matmuls fall off the peak.

    Raises:
        ValueError: the GPU has no rate for `dtype`.
    """
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    width = 4 if dtype in ("fp32", "tf32") else 1 if dtype == "fp8" else 2
    rate = device.peak_flops(dtype) * _matmul_share(device)
    return _matmul(m, n, k, rate, device.bandwidth * MEMORY_RATE, width)


def _matmul(m, n, k, rate, memory, width, copies=1) -> float:
    moved = width * (m * k + copies * k * n + m * n)
    return max(2 * m * n * k / rate, moved / memory) + KERNEL


def _matmul_share(device: GPU) -> float:
    return MATMUL_RATE.get(device.name, OTHER_MATMUL_RATE)


def _device(run: Run, gpu: GPU, network: float, node: int, host: float) -> _Device:
    if not network > 0:
        raise ValueError(f"network: {network!r} given; allowed: bytes/s above 0")
    if isinstance(node, bool) or not isinstance(node, int) or node < 1:
        raise ValueError(f"node: {node!r} given; allowed: a whole number >= 1")
    if not host >= 0:
        raise ValueError(f"host: {host!r} given; allowed: a number >= 0")
    peak = gpu.peak_flops("fp32" if run.precision == "fp32" else "bf16")
    if gpu.link is None and run.gpus > 1 and node > 1:
        raise ValueError(
            f"gpu: {gpu.name!r} given, whose link is unknown; allowed: a GPU with a link, or node=1"
        )
    return _Device(
        matmul=peak * _matmul_share(gpu),
        peak=peak,
        memory=gpu.bandwidth * MEMORY_RATE,
        link=gpu.link or network,
        network=network * NETWORK_RATE,
        node=node,
        host=host,
        width=ACTIVATION_BYTES[run.precision],
    )


def _collective(device: _Device, collective: str, ranks: int, stride: int, payload: float) -> float:
    """Seconds of one collective over `ranks` GPUs that lie `stride` apart.

    Ranks that share a node share its network cards: a ring crosses between nodes as many times over
    as it has ranks in one.
    """
    if ranks == 1:
        return 0.0
    hops = ranks - 1 if collective != "all_reduce" else 2 * (ranks - 1)
    sent = ring_factor(collective, ranks) * payload
    rate = device.link * LINK_RATE
    if ranks * stride <= device.node:
        return sent / rate + hops * LINK_LATENCY
    return sent / min(rate, _crossing(device, ranks, stride)) + hops * NETWORK_LATENCY


def _crossing(device: _Device, ranks: int, stride: int) -> float:
    """Bytes/s between nodes for a group: what the cards of its ranks in one node carry."""
    return max(1, min(ranks, device.node // stride)) * device.network


# --- One micro-batch -----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pass:
    """Seconds of a layer or head in one micro-batch."""

    matmul: float
    attention: float
    elementwise: float
    recompute: float
    host: float
    tensor_parallel: float
    context_parallel: float
    forward: float  # all of the forward pass, and of the backward
    backward: float


def _layer(run: Run, device: _Device) -> _Pass:
    """The mean layer of the model."""
    rows, t = tokens(run), run.tensor
    shape = _shape(run.model, t, run.sequence)
    rate, memory, width = device.matmul, device.memory, device.width
    forward = backward = 0.0
    for n, k, chosen, copies, share in shape.matmuls:
        m = rows * chosen
        forward += share * _matmul(m, n, k, rate, memory, width, copies)
        backward += share * _matmul(m, k, n, rate, memory, width, copies)
        backward += share * _matmul(n, k, m, rate, memory, width)
    scores, scores_back = _attention(run, device, shape)
    moved = rows * shape.moved * width / memory
    one = _collective(device, "all_gather", t, 1, rows * run.model.hidden * width)
    ring, ring_back = _ring(run, device, scores, scores_back)
    again, gathered = 0.0, 0
    if run.recompute == "full":
        again, gathered = forward + scores + moved, 4
    elif run.recompute == "selective" and run.attention == "eager":
        again = scores
    host = HOST_LAYER
    if t > 1 and run.pipeline > 1 and run.gpus > device.node:
        host += HOST_PIPELINE + HOST_PIPELINE_RANK * (t - 1)
    ahead = forward + scores + moved + 4 * one + ring
    back = backward + scores_back + 2 * moved + (6 + gathered) * one + ring_back + again
    host *= device.host
    launch = HOST_FORWARD * host
    launch_back = host if run.recompute == "full" else host - launch
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


def _attention(run: Run, device: _Device, shape: _Shape) -> tuple[float, float]:
    """Seconds of scores and values in a layer, forward and backward."""
    batch = run.micro_batch / run.context
    if run.attention == "flash":
        flops = batch * shape.pairs
        return (
            flops / (device.peak * FLASH_FORWARD),
            2.5 * flops / (device.peak * FLASH_BACKWARD),
        )
    flops = batch * shape.all_pairs / device.matmul
    moved = batch * shape.scores * device.width / 2 / device.memory
    return flops + SCORE_MOVED[0] * moved, 2 * flops + SCORE_MOVED[1] * moved


def _ring(run: Run, device: _Device, scores: float, scores_back: float) -> tuple[float, float]:
    """Seconds that keys and values are on their way and attention does not hide."""
    hops = run.context - 1
    if not hops:
        return 0.0, 0.0
    block = tokens(run) * 2 * run.model.kv_heads * run.model.head_dim / run.tensor * device.width
    hop = _hop(device, run.tensor * run.context, block)
    return max(0.0, hops * hop - scores), max(0.0, 2 * hops * hop - scores_back)


def _hop(device: _Device, span: int, payload: float) -> float:
    """Seconds of a message between neighbours of a group that spans so many GPUs."""
    if span <= device.node:
        return payload / (device.link * LINK_RATE) + LINK_LATENCY
    return payload / device.network + NETWORK_LATENCY


def _head(run: Run, device: _Device) -> _Pass:
    rows, hidden, vocab = tokens(run), run.model.hidden, run.model.vocab / run.tensor
    rate, memory, width = device.matmul, device.memory, device.width
    forward = _matmul(rows, vocab, hidden, rate, memory, width)
    backward = _matmul(rows, hidden, vocab, rate, memory, width)
    backward += _matmul(vocab, hidden, rows, rate, memory, width)
    loss = LOSS_MOVED * rows * vocab / memory
    one = _collective(device, "all_gather", run.tensor, 1, rows * hidden * width)
    sums = 3 * _collective(device, "all_reduce", run.tensor, 1, rows * 4)
    ahead, back = forward + 0.73 * loss + one + sums, backward + 0.27 * loss + 2 * one
    idle = max(0.0, device.host * HOST_HEAD - ahead - back)
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


_PARTS = (
    "matmul",
    "attention",
    "elementwise",
    "recompute",
    "host",
    "tensor_parallel",
    "context_parallel",
)


def _stage(run: Run, device: _Device, stage: Stage, layer: _Pass, head: _Pass) -> dict[str, float]:
    """Seconds of one micro-batch on a stage, by part."""
    heads = 1 if stage.head else 0
    parts = {
        name: stage.layers * getattr(layer, name) + heads * getattr(head, name) for name in _PARTS
    }
    if stage.embedding:
        payload = tokens(run) * run.model.hidden * device.width
        scatter = _collective(device, "reduce_scatter", run.tensor, 1, payload)
        parts["tensor_parallel"] += 2 * scatter
    parts["elementwise"] += _added(run, stage) / device.memory
    return parts


def _held(run: Run, stage: Stage) -> float:
    return stage_parameters(run.model, stage, run.tensor)


def _added(run: Run, stage: Stage) -> float:
    """Bytes moved to add a micro-batch's gradients to those before: read, read, write."""
    elements = _held(run, stage)
    if run.zero >= 2:
        elements /= run.data * run.context
    weight = WEIGHT_BYTES[run.precision]
    if run.gradients == "fp32":
        return elements * (4 + weight + 4)
    return elements * 3 * weight if run.accumulation > 1 else 0.0


# --- Once a step ---------------------------------------------------------------------------------


def _messages(run: Run, device: _Device) -> float:
    """Seconds to send a micro-batch's activations on and its gradients back."""
    if run.pipeline == 1:
        return 0.0
    payload = tokens(run) / run.tensor * run.model.hidden * device.width
    return 2 * (_hop(device, 2 * run.tensor * run.context * run.data, payload) + MESSAGE)


def _data_parallel(run: Run, device: _Device, stage: Stage, layer: _Pass) -> float:
    """Seconds of gradients' reduction and weights' gathering that nothing hides, in a step.

    Gradients of the last micro-batch are reduced beside its backward pass, which slows both: the
    runs show a third of the link's rate, all of it on top. What the network needs beyond the
    backward pass comes on top again.
    """
    ranks, stride = run.data * run.context, run.tensor
    if ranks == 1:
        return 0.0
    elements = _held(run, stage)
    weights = elements * WEIGHT_BYTES[run.precision]
    crosses = ranks * stride > device.node
    network = _crossing(device, ranks, stride) if crosses else device.link * LINK_RATE
    backward = stage.layers * layer.backward
    share = (ranks - 1) / ranks
    reduced = share * elements * gradient_bytes(run) * (2 if run.zero == 0 else 1)
    if run.zero == 3:
        gather, reduction = share * weights / network, reduced / network
        exposed = max(0.0, gather - stage.layers * layer.forward)
        exposed += max(0.0, gather + reduction - backward)
        first = gather / max(1, stage.layers)  # nothing runs while the first layer is gathered
        return run.accumulation * (exposed + first)
    nodes = -(-ranks * stride // device.node) if crosses else 0
    latency = _tensors(run.model, stage) * nodes * TENSOR_LATENCY
    exposed = reduced / (device.link * REDUCTION) + latency
    exposed += max(0.0, reduced / network - backward)
    if run.zero == 0:
        return exposed
    if run.zero == 2:
        exposed *= run.accumulation
    return exposed + latency + share * weights / min(network, device.link * REDUCTION)


@lru_cache(maxsize=256)
def _tensors(model: Model, stage: Stage) -> float:
    """Weight tensors of a stage."""
    inside = sum(len(block.weights) * block.count for block in model.blocks)
    return inside * stage.layers / model.layers + stage.embedding + 2 * stage.head


def _update(run: Run, device: _Device, stage: Stage) -> float:
    """Seconds of clipping and the optimizer's update.

    All gradients are read for their norm, scaled (read, write) and zeroed (write); the optimizer
    reads weights, state and gradients and writes weights and state, on its own shard under ZeRO.
    """
    elements = _held(run, stage)
    ranks = run.data * run.context if run.zero else 1
    gradient = gradient_bytes(run)
    weight = WEIGHT_BYTES[run.precision]
    master = run.precision == "bf16-master"
    state = _MOMENTS[run.optimizer] * (4 if master else weight)
    if run.optimizer == "adamw-8bit":
        state = 2
    updated = 2 * ((4 if master else weight) + state) + gradient
    if run.optimizer == "adamw":
        updated *= FOREACH
    copied = 6 if master else 0
    clipped = 4 * gradient / (ranks if run.zero >= 2 else 1)
    seconds = elements * (clipped + (updated + copied) / ranks) / device.memory
    if run.optimizer == "muon":
        seconds += _newton_schulz(run.model) * stage.layers / run.tensor / ranks / device.matmul
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
