"""Floating-point operations of a training step, matmul by matmul.

Only matrix products count, 2 FLOPs per multiply-add: norms, activations and softmax wait for
memory, not for arithmetic. The backward pass multiplies each matrix twice (gradient of the input,
gradient of the weight), hence forward : backward = 1 : 2.

The formulas of the literature stand at the end under their own names, to be compared.
"""

from __future__ import annotations

from dataclasses import dataclass

from .architecture.model import Model
from .architecture.weights import Block
from .recomputing import recomputed_exactly
from .run import Run, all_weights_trained, one_of
from .settings import asked_model, sequences_of


@dataclass(frozen=True)
class Matmul:
    """One matrix product of the forward pass over all layers that have it, for one sequence."""

    name: str
    part: str  # attention, scores, mlp, router, head, embedding (a projected embedding)
    flops: int


@dataclass(frozen=True)
class Flops:
    """FLOPs of one optimizer step over all GPUs. `recompute` is what activation recompute adds."""

    forward: int
    backward: int
    recompute: int

    @property
    def total(self) -> int:
        """Hardware FLOPs: what is executed. Their rate over the peak is HFU."""
        return self.forward + self.backward + self.recompute

    @property
    def model(self) -> int:
        """Model FLOPs: forward and backward alone. Their rate over the peak is MFU."""
        return self.forward + self.backward


def flops(run: Run, *, attention: str = "full", recompute: str = "pytorch") -> Flops:
    """FLOPs of one optimizer step over all GPUs, exact.

    Args:
        run: the training run. `run.attention` changes nothing: flash attention executes the same
            products (and recomputes the scores in its own backward pass, not counted here).
        attention: "full" counts all s x s query-key pairs, as eager attention executes them and
            most papers count; "causal" only the pairs that the mask leaves, s(s+1)/2, or fewer
            under a sliding window.
        recompute: "pytorch" stops recomputing a layer at the last tensor that the backward pass
            needs, as torch.utils.checkpoint does; "textbook" runs the whole forward again (4/3).

    Returns:
        `Flops` with .forward, .backward, .recompute, .total (hardware) and .model. The forward
        passes of a reference or a teacher are in .forward.

    Source: PaLM (arXiv:2204.02311), appendix B, for the convention; tested equal to
    torch.utils.flop_counter.FlopCounterMode on the transformers model with eager attention.
    """
    all_weights_trained(run, "flops")
    one_of("attention", attention, ("full", "causal"))
    one_of("recompute", recompute, ("pytorch", "textbook"))
    products = matmuls(run.model, run.sequence, attention)
    forward = sum(product.flops for product in products)
    again = _recomputed(run, products, textbook=recompute == "textbook")
    sequences = run.sequences * sequences_of(run.objective)
    ahead = forward
    asked = asked_model(run)  # a forward pass without a backward one
    if asked:
        ahead += sum(product.flops for product in matmuls(asked, run.sequence, attention))
    return Flops(ahead * sequences, 2 * forward * sequences, again * sequences)


def matmuls(model: Model, sequence: int, attention: str = "full") -> tuple[Matmul, ...]:
    """Every matrix product of one forward pass over one sequence of `sequence` tokens."""
    products = []
    for block in model.blocks:
        for weight in block.weights:
            if weight.kind == "matrix":
                products.append(
                    Matmul(
                        weight.name,
                        weight.part,
                        2 * sequence * weight.multiplied * block.count,
                    )
                )
        pairs = query_key_pairs(sequence, block, attention) * block.heads * block.count
        products.append(Matmul("queries x keys", "scores", 2 * pairs * block.query_dim))
        products.append(Matmul("scores x values", "scores", 2 * pairs * block.value_dim))
    for weight in model.outer:
        if weight.kind == "matrix":
            products.append(Matmul(weight.name, weight.part, 2 * sequence * weight.active))
    if model.tied:
        table = next(w for w in model.outer if w.kind == "lookup")
        products.append(Matmul(f"{table.name} (tied head)", "head", 2 * sequence * table.elements))
    return tuple(products)


def query_key_pairs(sequence: int, block: Block, attention: str = "full") -> int:
    """Query-key pairs that one head computes over one sequence."""
    if attention == "full":
        return sequence * sequence
    seen = min(sequence, block.window or sequence)
    return seen * (seen + 1) // 2 + (sequence - seen) * seen


def _recomputed(run: Run, products: tuple[Matmul, ...], textbook: bool) -> int:
    """FLOPs of the second forward pass over one sequence."""
    again = recomputed_exactly(run.model, run.recompute, run.attention, textbook)
    outside = ("head", "embedding")
    scores = sum(product.flops for product in products if product.part == "scores")
    layers = sum(p.flops for p in products if p.part not in ("scores", *outside))
    whole = run.recompute == "full" and textbook  # the textbook's four thirds count the head too
    rest = sum(product.flops for product in products if product.part in outside) if whole else 0
    return round(again.matmul * layers + again.scores * scores) + rest


# --- Formulas of the literature, by name -----------------------------------------------------


def six_nd(parameters: float, tokens: float) -> float:
    """6ND: training FLOPs of `parameters` N over `tokens` D, attention left out.

    Source: Kaplan et al. (arXiv:2001.08361), section 2.1, with N the non-embedding parameters;
    Hoffmann et al. (arXiv:2203.15556), appendix F, with N the total.
    """
    return 6 * parameters * tokens


def palm(parameters: float, model: Model, sequence: int, tokens: float) -> float:
    """6N + 12LHQT per token: 6ND and all query-key pairs of attention.

    L layers, H heads, Q head dimension, T sequence length. Source: PaLM (arXiv:2204.02311),
    appendix B. `parameters` is an argument because papers differ in what N holds.
    """
    width = sum(block.count * block.heads * block.query_dim for block in model.blocks)
    return (6 * parameters + 12 * width * sequence) * tokens


def megatron(model: Model, sequence: int, tokens: float, recompute: bool = True) -> float:
    """Megatron-LM's 96 B s l h^2 (1 + s/6h + V/16lh) with full recompute of the layers.

    Without it the layers cost 72 instead of 96; the head is 6 B s h V either way. A GPT with a 4h
    wide, ungated MLP and as many key/value heads as heads is assumed, whatever the model is.
    Source: Narayanan et al. (arXiv:2104.04473), equation 3.
    """
    layers, hidden = model.layers, model.hidden
    body = (96 if recompute else 72) * layers * hidden**2 * (1 + sequence / (6 * hidden))
    return (body + 6 * hidden * model.vocab) * tokens
