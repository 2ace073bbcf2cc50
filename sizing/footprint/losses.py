"""The head and the loss on a tape: as transformers writes them, compiled, chunked, or fused.

Each takes the `Forward`, the last hidden state and the head's name, and leaves what the forward
pass holds at its end in `f.end`. Sizes a logit, in bf16, at the worst moment: eager 12 bytes (14
with a soft cap), compiled 4; chunked a chunk's; fused none.
"""

from __future__ import annotations

from math import ceil

from .tape import NEW, NONE, Tensor, plus, size_of


def eager(f, x: Tensor, head: str) -> None:
    """Logits, their fp32 copy, log-probabilities, and in the backward pass two gradients."""
    t = f.tape
    logits, held = make_logits(f, x, head)
    wide = t.cast(logits, "fp32")
    if wide is not logits:
        held.append(wide)
    log_probabilities = t.log_softmax(wide)
    t.emit("nll_loss", _loss(), [(log_probabilities, False)], [(_labels(), "targets")])
    # The forward pass ends with these alive beside what is saved: the logits, the last hidden
    # state if the head did not save it, autocast's copies of weights to be recomputed.
    _end(f, x, head, _with_outputs(f, logits, held))


def compiled(f, x: Tensor, head: str) -> None:
    """torch.compile keeps the product's logits and two numbers a token; its backward pass makes
    their gradient at once, in their dtype (inductor's buffers under torch 2.13).

    Of torch 2.4 arXiv:2411.09009, table 1, reports 8 bytes a logit: it wrote an fp32 gradient down.
    """
    t = f.tape
    logits = f.outer_linear(x, head, f.model.vocab, "logits")
    row = Tensor(("b", "s", 1), "fp32", "largest logit", grad=False)
    total = Tensor(("b", "s", 1), "fp32", "log of the sum", grad=False)
    saved = [(logits, "logits"), (row, "softmax"), (total, "softmax"), (_labels(), "targets")]
    t.emit("compiled loss", _loss(), [(logits, NEW)], saved)
    _end(f, x, head, _with_outputs(f, logits, [logits]))


def chunked(f, x: Tensor, head: str) -> None:
    """Liger's (arXiv:2410.10989, section 3.2; liger-kernel 0.8): chunk by chunk of tokens, as many
    chunks as the vocabulary is wider than the model, logits are made and become their own gradient
    in place; the gradients of hidden state and head are there when the forward pass ends."""
    t = f.tape
    x = t.lower(x)
    weight = f.outer_tensor(head)
    low = t.cast(weight, x.dtype) if t.autocast else weight
    gradient = Tensor(x.shape, x.dtype, "gradient of the hidden state", "temporary", grad=False)
    made = [(gradient, "made in the forward pass")]
    if weight.grad:
        of_head = Tensor(weight.shape, low.dtype, "gradient of the head", "temporary", grad=False)
        made.append((of_head, "made in the forward pass"))
    # The backward pass scales both in place and hands them on.
    t.emit("chunked loss", _loss(), [(x, NEW), (low, NEW)], made, extra=NONE)
    rows = chunk(f.tokens, f.model.vocab, f.model.hidden)
    f.end = {"activations": last_hidden(f, x, head)}
    logits = Tensor((rows, f.model.vocab), x.dtype, "logits of a chunk", "logits", grad=False)
    t.during(logits)


def fused(f, x: Tensor, head: str) -> None:
    """Cut cross-entropy (arXiv:2411.09009): no logits; a number a token for the backward pass,
    which makes the gradients of hidden state and head, and orders the vocabulary (12 bytes a
    word: mean logits and their order)."""
    t = f.tape
    x = t.lower(x)
    weight = f.outer_tensor(head)
    low = t.cast(weight, x.dtype) if t.autocast else weight
    sums = Tensor(("b", "s", 1), "fp32", "log-sum-exp of logits", grad=False)
    saved = [(x, "input of the loss"), (low, "head"), (sums, "softmax"), (_labels(), "targets")]
    order = size_of((12 * f.model.vocab,), "bool")
    t.emit("fused loss", _loss(), [(x, NEW), (low, NEW)], saved, scratch=order)
    f.end = {"activations": NONE}


def chunk(tokens: int, vocab: int, hidden: int) -> int:
    """Tokens in a chunk of Liger's loss: a power of two, so that its logits are about as large as
    the hidden state of the batch."""
    share = ceil(tokens / ceil(vocab / hidden))
    return min(1 << (share - 1).bit_length(), tokens)


def chunk_ends(vocab: int, hidden: int) -> tuple[int, ...]:
    """Numbers of tokens up to which a chunk stays as large as it is."""
    chunks = ceil(vocab / hidden)
    return tuple(chunks << power for power in range(18))


def make_logits(f, x: Tensor, head: str) -> tuple[Tensor, list[Tensor]]:
    """The logits and what of them is alive when the forward pass ends."""
    t = f.tape
    logits = f.outer_linear(x, head, f.model.vocab, "logits")
    cap = f.config.get("final_logit_softcapping")
    if f.traits.scaled_logits:
        logits = t.scale(logits, "scaled logits")
    if cap is not None:
        logits = t.unary("tanh", t.scale(logits, "logits / cap"), keeps="output")
        logits = t.scale(logits, "capped logits")
    return logits, [logits]


def _with_outputs(f, logits: Tensor, held: list[Tensor]) -> list[Tensor]:
    """What the trainer keeps of the model's outputs stays until the backward pass is over."""
    if f.run.outputs == "kept" or (f.run.outputs == "fp32" and logits.dtype == "fp32"):
        f.outputs = (logits,)
    elif f.run.outputs == "fp32":
        f.outputs = (Tensor(logits.shape, "fp32", "outputs in fp32", "logits", grad=False),)
    return [tensor for tensor in held if tensor not in f.outputs]


def _end(f, x: Tensor, head: str, held: list[Tensor]) -> None:
    sizes = NONE
    kept = {t.storage for node in f.tape.nodes[-3:] for t, _ in getattr(node, "saved", ())}
    for tensor in held:
        if tensor.storage not in kept:
            sizes = plus(sizes, tensor.size)
    f.end = {"logits": sizes, "temporary": f.uncast, "activations": last_hidden(f, x, head)}


def last_hidden(f, x: Tensor, head: str):
    own_copy = f.tape.autocast and x.dtype == "fp32"
    return x.size if own_copy or not f.outer_trained(head) else NONE


def _labels() -> Tensor:
    return Tensor(("b", "s"), "int64", "labels", grad=False)


def _loss() -> Tensor:
    return Tensor((1,), "fp32", "loss")


LOSSES = {"eager": eager, "compiled": compiled, "chunked": chunked, "fused": fused}
