"""Floating-point operations of a training step, matmul by matmul.

Only matrix products count, 2 FLOPs per multiply-add: norms, activations and softmax wait for
memory, not for arithmetic. The backward pass multiplies each matrix twice (gradient of the input,
gradient of the weight), hence forward : backward = 1 : 2.

The formulas of the literature stand at the end under their own names, to be compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

from . import recomputing
from .architecture.model import Model
from .architecture.weights import Block, Weight
from .lora import adapted_layers
from .run import Run
from .settings import asked_model, one_of, sequences_of


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
            under a sliding window. Packed documents (`run.document`) count one by one in both.
        recompute: "pytorch" stops recomputing a layer at the last tensor that the backward pass
            needs, as torch.utils.checkpoint does; "textbook" runs the whole forward again (4/3).

    Returns:
        `Flops` with .forward, .backward, .recompute, .total (hardware) and .model. The forward
        passes of a reference or a teacher are in .forward.

    With adapters frozen weights have no gradient: their backward pass is one product for each of
    the forward pass, the gradient of the input, and none where nothing before them is trained.
    Quantised weights are multiplied in 16 or 32 bits and count as any.

    Source: PaLM (arXiv:2204.02311), appendix B, for the convention; tested equal to
    torch.utils.flop_counter.FlopCounterMode on the transformers model with eager attention.
    """
    one_of("attention", attention, ("full", "causal"))
    one_of("recompute", recompute, ("pytorch", "textbook"))
    if run.lora is not None:
        return _with_adapters(run, attention, textbook=recompute == "textbook")
    products = matmuls(run.model, run.sequence, attention, run.document)
    forward = sum(product.flops for product in products)
    again = _recomputed(run, products, textbook=recompute == "textbook")
    sequences = run.sequences * sequences_of(run.objective)
    ahead = forward + _asked(run, attention)
    back = 2 * forward - sum(
        _without_gradient(block, run.sequence) * block.count for block in run.model.blocks
    )
    return Flops(ahead * sequences, back * sequences, again * sequences)


def _asked(run: Run, attention: str) -> int:
    """FLOPs of a reference's or teacher's forward pass over one sequence, 0 without one."""
    asked = asked_model(run)
    if not asked:
        return 0
    return sum(p.flops for p in matmuls(asked, run.sequence, attention, run.document))


def matmuls(
    model: Model, sequence: int, attention: str = "full", document: int | None = None
) -> tuple[Matmul, ...]:
    """Every matrix product of one forward pass over one sequence of `sequence` tokens, packed from
    documents of `document` tokens if given."""
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
        pairs = query_key_pairs(sequence, block, attention, document) * block.heads * block.count
        products.append(Matmul("queries x keys", "scores", 2 * pairs * block.query_dim))
        products.append(Matmul("scores x values", "scores", 2 * pairs * block.value_dim))
        if mixed := mixed_states(model.hidden, block, sequence):
            products.append(Matmul("hidden states x predictions", "mlp", mixed * block.count))
    for weight in model.outer:
        if weight.kind == "matrix":
            products.append(Matmul(weight.name, weight.part, 2 * sequence * weight.active))
    if model.tied:
        table = next(w for w in model.outer if w.kind == "lookup")
        products.append(Matmul(f"{table.name} (tied head)", "head", 2 * sequence * table.elements))
    return tuple(products)


def query_key_pairs(
    sequence: int, block: Block, attention: str = "full", document: int | None = None
) -> int:
    """Query-key pairs that one head computes over one sequence; within each document alone, of
    which the last one has the tokens that are left.

    Linear attention computes pairs inside blocks of c tokens alone; its sums of keys x values, read
    by each query and added to by each key, cost as much as c pairs with head_dim more.
    """
    if document is not None and document < sequence:
        whole, left = divmod(sequence, document)
        pairs = whole * query_key_pairs(document, block, attention)
        return pairs + query_key_pairs(left, block, attention)
    if block.linear:
        whole, rest = divmod(sequence, block.linear)
        return sum(
            times * ((c * (c + 1) // 2 if attention == "causal" else c * c) + c * block.query_dim)
            for times, c in ((whole, block.linear), (1, rest))
        )
    if attention == "full":
        return sequence * sequence
    seen = min(sequence, block.window or sequence)
    return seen * (seen + 1) // 2 + (sequence - seen) * seen


def _without_gradient(block: Block, sequence: int) -> int:
    """Backward FLOPs that a layer of linear attention does not need over one sequence: its first
    block reads sums that are zero, and nobody reads what its last block adds to them."""
    if not block.linear:
        return 0
    first, last = min(sequence, block.linear), sequence % block.linear or block.linear
    return 2 * (first + 2 * last) * block.heads * block.query_dim**2


def mixed_states(hidden: int, block: Block, sequence: int) -> int:
    """FLOPs of a layer that predicts each of a token's hidden states from all of them (AltUp)."""
    return 2 * sequence * hidden * block.streams**2 if block.streams > 1 else 0


def _recomputed(run: Run, products: tuple[Matmul, ...], textbook: bool) -> int:
    """FLOPs of the second forward pass over one sequence."""
    again = recomputing.recomputed_exactly(run.model, run.recompute, run.attention, textbook)
    outside = ("head", "embedding")
    scores = sum(product.flops for product in products if product.part == "scores")
    layers = sum(p.flops for p in products if p.part not in ("scores", *outside))
    whole = run.recompute == "full" and textbook  # the textbook's four thirds count the head too
    rest = sum(product.flops for product in products if product.part in outside) if whole else 0
    return round(again.matmul * layers + again.scores * scores) + rest


# --- Adapters --------------------------------------------------------------------------------


def _with_adapters(run: Run, attention: str, textbook: bool) -> Flops:
    """FLOPs of a step that trains adapters alone, and tables where the run says so."""
    recomputing.check(run.model, run.recompute, run.attention)
    forward = backward = again = 0
    checkpointed = recomputing.is_checkpointed(run.recompute, run.attention)
    asked = reached = checkpointed or "embed_tokens" in run.lora.embeddings
    for block in run.model.blocks:
        layers_again = recomputing.layers_again(run.model, block, run.recompute)
        for number in range(2 if block.count > 1 else 1):
            times = 1 if number == 0 else block.count - 1
            ahead, back, repeated = _adapted_layer(run, block, attention, reached, textbook)
            forward += times * ahead
            backward += times * back
            again += Fraction(times * repeated * layers_again, block.count)
            reached = reached or bool(adapted_layers(run.model, run.lora, block))
    outside = matmuls(run.model, run.sequence)
    before = sum(p.flops for p in outside if p.part == "embedding")
    after = sum(p.flops for p in outside if p.part == "head")
    head = sum(p.flops for p in outside if p.part == "head" and "head" in p.name)
    forward += before + after
    backward += before * asked + after * reached + head * ("lm_head" in run.lora.embeddings)
    n = run.sequences * sequences_of(run.objective)
    ahead = forward + _asked(run, attention)
    if textbook and run.recompute == "full":  # the textbook's four thirds count the head too
        again += before + after
    return Flops(ahead * n, backward * n, int(again) * n)


def _adapted_layer(
    run: Run, block: Block, attention: str, reached: bool, textbook: bool
) -> tuple[int, int, int]:
    """(forward, backward, recompute) FLOPs of one layer over one sequence; `reached` says whether
    its input has a gradient."""
    adapted = dict(adapted_layers(run.model, run.lora, block))
    grads = _gradients_in(run.model, block, adapted, reached)
    backward, products = 0, []
    for weight in block.weights:
        if weight.kind != "matrix":
            continue
        name = weight.name.split("*.", 1)[1].removesuffix(".weight")
        base = 2 * run.sequence * weight.multiplied
        products.append((weight, base))
        if name in adapted:
            out, into = adapted[name]
            down, up = (2 * run.sequence * run.lora.rank * n for n in (into, out))
            down, up = down * weight.uses, up * weight.uses
            products += [(weight, down), (weight, up)]
            # gradients of both matrices, of what lies between them, and of the layer's input
            backward += down + 2 * up + down // weight.uses * grads[name]
        backward += base // weight.uses * grads[name]
    pairs = query_key_pairs(run.sequence, block, attention, run.document)
    pairs = 2 * pairs * block.heads
    first, second = pairs * block.query_dim, pairs * block.value_dim
    forward = sum(size for _, size in products) + first + second
    backward += first * (grads["queries"] + grads["keys"])
    backward += second * ((grads["queries"] or grads["keys"]) + grads["values"])
    if block.linear and grads["queries"]:
        backward -= _without_gradient(block, run.sequence)
    mixed = mixed_states(run.model.hidden, block, run.sequence)
    forward += mixed
    backward += mixed * grads["streams"]
    again = 0
    if recomputing.is_checkpointed(run.recompute, run.attention) or any(
        grads[name] for name in ("queries", "keys", "values")
    ):
        again = _adapted_again(run, block, products, (first, second), textbook)
    return forward, backward, again + (mixed if recomputing.every_layer(run.recompute) else 0)


def _adapted_again(
    run: Run, block: Block, products: list[tuple[Weight, int]], scores, textbook: bool
) -> int:
    """FLOPs of one layer over one sequence that are run again: of a layer as a whole, by
    operation, or by module.

    What is run again ends with the last tensor that is kept, so without its last product.

    Args:
        products: (weight, FLOPs) in order: of the weight itself, and of its adapter's two matrices.
        scores: FLOPs of attention's two products.
    """
    how = run.recompute
    if how == "none":
        return 0
    if how == "selective" and run.attention == "eager":
        return sum(scores) if textbook else scores[0]
    by_module = not isinstance(how, str)
    ends: dict[str, int] = {}  # of each part that is run again, its last product
    inside = list(enumerate(products))
    if by_module:
        inside = [pair for pair in inside if recomputing.module_of(pair[1][0].name) in how]
    for number, (weight, _) in inside:
        if by_module:
            ends[recomputing.module_of(weight.name)] = number
        elif weight.name == block.last_matmul:
            ends[""] = number
    # experts' output is kept to be weighted
    left_out = {n for n in ends.values() if not textbook and not products[n][0].chosen}
    if how == "selective":
        left_out |= set([n for n, (weight, _) in inside if not weight.chosen][::2])
    again = sum(size for n, (_, size) in inside if n not in left_out)
    if how == "selective" or (by_module and "self_attn" not in how):
        return again
    return again + sum(scores)


def _gradients_in(model: Model, block: Block, adapted: dict, reached: bool) -> dict[str, int]:
    """Of each layer, in how many of its uses its input has a gradient; and whether queries, keys
    and values have one."""
    names = [
        (w.name.split("*.", 1)[1].removesuffix(".weight"), w.part)
        for w in block.weights
        if w.kind == "matrix"
    ]
    attention = [name for name, part in names if part == "attention"]
    rest = [name for name, part in names if part != "attention"]
    grads = _before_attention(block, adapted, reached)
    reached = reached or grads["streams"] > 0
    out = attention[-1]
    entering = attention[:-1]
    # of latent attention's pairs the second reads what the first made
    first = {name: name.replace("_b_proj", "_a_proj") for name in entering}
    grads |= {
        name: reached or any(n.startswith(first[name]) and n != name for n in adapted)
        for name in entering
    }
    after = {name: grads[name] or name in adapted for name in entering}

    def any_of(letter: str) -> bool:  # "q_proj", or one layer for all three
        own = [n for n in entering if n.rpartition(".")[2].startswith((letter, "qkv"))]
        return any(after[n] for n in (own or entering))

    grads |= {"queries": any_of("q_"), "keys": any_of("k_"), "values": any_of("v_")}
    grads[out] = any(after.values())
    rule = "use_parallel_residual" if model.family == "gpt_neox" else model.traits.parallel
    beside = bool(model.config.get(rule)) if isinstance(rule, str) else rule
    inside = reached if beside else grads[out] or out in adapted
    inside = inside or any(name in adapted for name in grads if name not in attention)
    last = (block.last_matmul or "").split("*.", 1)[-1].removesuffix(".weight")
    for name in rest:
        final = name == last or name.endswith(("down_proj", "fc2", "dense_4h_to_h", "c_proj"))
        found = inside or (final and any(n in adapted for n in rest if n != name))
        if name == _ROUTER:  # asked again after the MLP
            grads[name] += found
        grads.setdefault(name, found)
    return grads


_ROUTER, _COEFFICIENTS = "altup.modality_router", "altup.prediction_coefs"


def _before_attention(block: Block, adapted: dict, reached: bool) -> dict[str, int]:
    """The same for AltUp's predictions, "streams" their product, and the low-rank residual."""
    if block.streams == 1:
        return {"streams": 0}
    asked = reached or _ROUTER in adapted
    predicted = reached + (asked or _COEFFICIENTS in adapted)
    left, right = "laurel.linear_left", "laurel.linear_right"
    return {
        _ROUTER: int(reached),
        _COEFFICIENTS: asked,
        "streams": predicted,
        left: predicted > 0,
        right: predicted > 0 or left in adapted,
    }


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
