"""Seconds of what is no plain matrix product: attention, and the traffic between the products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

from ..architecture.model import Model
from ..compute import query_key_pairs
from ..run import Run
from .engines import Engine
from .rates import Rates, by_card, reached

# Bytes moved. Elements a token and layer, forward; backward moves twice as many.
# Kernel by kernel: norms read and write (4 widths), residuals (6), queries, keys and values are
# copied into shape and rotated, the activation reads and writes, a gate multiplies.
# Fused: a rotation reads and writes in place, a gate or activation reads its inputs and writes its
# output. Compiled: residuals and the norms after them in one kernel.


@dataclass(frozen=True)
class Traffic:
    """Elements that a layer's other operations move for a token, forward.

    Attributes:
        hidden: widths of the residual stream, for norms and residuals.
        query, key: for each element of queries, and of keys or values.
        gated, plain: for each unit of the MLP with and without a gate.
        loss: bytes for each vocabulary element: forward and backward.
    """

    hidden: float
    query: float
    key: float
    gated: float
    plain: float
    loss: tuple[float, float]


TRAFFIC = {
    # transformers: an RMSNorm in fp32 kernels, cast up and down again (36 bytes), each rotation as
    # negated halves joined, two products and a sum; the loss cast to fp32 and its log-softmax.
    "unfused": Traffic(42, 10, 11, 5, 4, (14, 18)),
    # Loss: cast to fp32, maximum, difference, exponential, sum and quotient, 38; gradient and its
    # cast to bf16, 14.
    "eager": Traffic(10, 6, 14, 5, 2, (38, 14)),
    # Loss in fp32 after a cast: read 2, write 4, read 4; gradient read 4, write 4, cast 6.
    "fused": Traffic(10, 2, 2, 3, 2, (10, 14)),
    # torch.compile leaves complex numbers alone: torchtitan's rotation casts to fp32, multiplies
    # and casts back (20 bytes). Of the loss, logits are read twice and their gradient written once.
    "compiled": Traffic(8, 10, 6, 3, 2, (4, 4)),
    "xla": Traffic(8, 2, 2, 3, 2, (4, 4)),
}
# The rows of data/rates.csv of each fused kernel: FlashAttention-1 and its Triton kernel,
# FlashAttention-2, and FlashAttention-3 and cuDNN's.
KERNELS = {
    "flash-1": ("flash_1_forward", "flash_1_backward"),
    "flash-2": ("flash_2_forward", "flash_2_backward"),
    "flash-3": ("flash_3_forward", "flash_3_backward"),
}
# Bytes a score of eager attention in 16 bits: forward, write, mask, softmax, read, 12; backward 18.
SCORE_MOVED = {
    "unfused": (20, 18),
    "eager": (12, 18),
    "fused": (12, 18),  # Megatron's softmax is one kernel, dropout another
    "compiled": (6, 8),
    "xla": (6, 8),
}

# Bytes to cast an element to fp8: read (2), written (1), and written in the other order of
# dimensions (1), which fp8 products of a backward pass want. A scale from the tensor itself is read
# for first (2), scales of rows in both orders twice (4); scales of blocks are found in registers
# and written (4 bytes for 128 elements in both orders, or 1 for 32). Kernel by kernel the other
# order is a copy of its own (1).
CAST = {"delayed": 4, "tensorwise": 6, "rowwise": 8, "blockwise": 4.06}
_COPIED = {"unfused": 1, "eager": 1}
_SCALING = {"fused": "delayed", "xla": "delayed"}  # Transformer Engine's recipe of old


def cast(run: Run, kernels: str) -> float:
    """Bytes to cast an element to fp8."""
    scaling = run.scaling or _SCALING.get(kernels, "tensorwise")
    return CAST[scaling] + _COPIED.get(kernels, 0)


@lru_cache(maxsize=512)
def moved(model: Model, tensor: int, kernels: str, divided: bool) -> float:
    """Elements moved for a token in the mean layer, forward, on one tensor-parallel rank.

    `divided`: norms and residuals as well, by sequence parallelism.
    """
    traffic = TRAFFIC[kernels]
    inside = 0.0
    for block in model.blocks:
        mlp, gated = 0, False
        for weight in block.weights:
            if weight.kind == "matrix" and weight.part == "mlp":
                mlp += weight.active
                gated = gated or "gate" in weight.name
        inside += (block.count / model.layers) * (
            traffic.query * block.heads * block.query_dim
            + traffic.key * model.kv_heads * model.head_dim
            + (traffic.gated / 3 if gated else traffic.plain / 2) * mlp / model.hidden
        )
    hidden = traffic.hidden if "rms" in model.traits.norm else min(10, traffic.hidden)
    outside = hidden * model.hidden
    return inside / tensor + outside / (tensor if divided else 1)


def groups_of(model: Model) -> tuple[int, int]:
    """Groups of a router's experts, and to how many of them it sends a token."""
    every, open_ = (model.config.get(name) or 1 for name in ("n_group", "topk_group"))
    return every, open_


@lru_cache(maxsize=512)
def permuted(model: Model, dispatch: str | None, ranks: int) -> float:
    """Elements moved for a token in the mean layer, forward or backward, to sort tokens by expert
    and back.

    Read once and written for each expert, and the reverse, which DeepEP and HybridEP do as they
    send; what arrives (None: nothing is sent), from them once for a rank, is sorted once more by
    the rank's experts (NVIDIA/Megatron-LM, docs/discussions/deepseek-v3-gb200-optimization,
    sections 2.1.1 and 2.5).
    """
    elements = 0.0
    for block in model.blocks:
        chosen = next((w.chosen for w in block.weights if w.chosen is not None), 0)
        if chosen:
            leaving = 0 if dispatch == "deepep" else 2 * (chosen + 1)
            came = reached(ranks, chosen, groups_of(model)) if dispatch == "deepep" else chosen
            arriving = 2 * (came + chosen) if dispatch else 0
            elements += (leaving + arriving) * model.hidden * block.count / model.layers
    return elements


# Bytes for each unit of a routed expert's width whose products have biases, in Megatron-Core 0.14,
# which runs these operation by operation (transformer/moe/experts.py, fusions/fused_bias_geglu.py).
# Forward: gate and value clamped (8 for both) and joined (8); of the second product's output the
# bias times its fp32 weight (4), added (10), joined (8), cast (6). Backward: clamps (12) and the
# join (8); cast and sum (12), gradients of bias and weight (24), the join (4).
BIASED_FORWARD = 16 + 28
BIASED_BACKWARD = 20 + 40
# Kernels launched for each expert of a rank by the same lines, which loop over experts: forward a
# product and a sum; backward a cast, two products, their two sums, two casts and two gradients
# added up.
BIASED_LAUNCHES = 2 + 9


@lru_cache(maxsize=512)
def biased(model: Model) -> float:
    """Units of width of routed experts that have biases, for a token in the mean layer: the inputs
    of their second products, for each expert that the token meets."""
    units = 0.0
    for block in model.blocks:
        for weight in block.weights:
            if weight.chosen and weight.kind == "vector" and weight.shape[-1] == model.hidden:
                units += weight.chosen * model.hidden * block.count / model.layers
    return units


def kernels_of(run: Run, engine: Engine) -> str:
    """The key of `TRAFFIC` for a run: the engine's own kernels, or those that the run names."""
    return {"eager": engine.kernels, "compiled": "xla", "liger": "fused"}[run.kernels]


def loss(run: Run, engine: Engine) -> tuple[float, float]:
    """Bytes moved for each token and vocabulary element by the loss, forward and backward."""
    if run.loss_kernel == "eager":
        return TRAFFIC[engine.kernels].loss
    return (0, 0) if run.loss_kernel == "fused" else TRAFFIC["xla"].loss


@dataclass(frozen=True)
class Pairs:
    """FLOPs of scores and values of one sequence in the mean layer, and the scores themselves."""

    causal: float
    all: float
    scores: float


@lru_cache(maxsize=512)
def pairs(model: Model, tensor: int, sequence: int, document: int | None = None) -> Pairs:
    causal = full = scores = 0.0
    for block in model.blocks:
        share = block.count / model.layers
        flops = 2 * (block.query_dim + block.value_dim) * block.heads / tensor
        causal += share * flops * query_key_pairs(sequence, block, "causal", document)
        full += share * flops * query_key_pairs(sequence, block, "full", document)
        scores += share * block.heads / tensor * sequence * sequence
    return Pairs(causal, full, scores)


def attention(run: Run, engine: Engine, card: str, rate: Rates) -> tuple[float, float]:
    """Seconds of scores and values in a layer, forward and backward."""
    found = pairs(run.model, run.tensor, run.sequence, run.document)
    batch = run.micro_batch / run.context
    kernel = kernel_of(run, engine, card)
    if kernel != "eager":
        forward, backward = rates_of(kernel, card)
        flops = batch * found.causal
        return flops / (rate.peak * forward), 2.5 * flops / (rate.peak * backward)
    flops = batch * found.all / rate.matmul
    written = batch * found.scores * run.recipe.activation_bytes / 2 / rate.memory
    ahead, back = SCORE_MOVED[engine.kernels]
    return flops + ahead * written, 2 * flops + back * written


def kernel_of(run: Run, engine: Engine, card: str) -> str:
    """The attention kernel that a run calls: its own choice, or what "flash" means there."""
    if run.attention != "flash":
        return run.attention
    return engine.attention[chip(card)]


@cache
def chip(card: str) -> str:
    """Whose kernels an accelerator runs: "a100", "h100" or "b200"; others as the one before."""
    if card.startswith(("b200", "gb200", "b300", "gb300")):
        return "b200"
    return "h100" if card.startswith(("h100", "h200", "h800", "gh200", "measured")) else "a100"


@cache
def rates_of(kernel: str, card: str) -> tuple[float, float]:
    """Shares of the dense peak on the causal pairs: forward, and backward on 2.5 times as many
    FLOPs (it computes the scores again)."""
    forward, backward = KERNELS[kernel]
    return by_card(forward, card), by_card(backward, card)
