"""Losses beside cross-entropy, and what the frozen models that they ask add, on a tape.

Direct preference optimisation as TRL's DPOTrainer takes it, in two forms: from all logits, as up to
TRL 1.13 (trl.trainer.utils.selective_log_softmax and entropy_from_logits), and with the head in
chunks, as from TRL 1.15 on (trl.kernels.chunked_logprob). Both held against its own steps in
data/dpo_error.csv. Distillation as its GKDTrainer does with beta=0: Kullback-Leibler divergence
from the teacher, without a mask.
"""

from __future__ import annotations

from dataclasses import replace

from ..run import Run
from ..settings import Dpo, asked_model, sequences_of
from .losses import last_hidden, make_logits
from .tape import NEW, NONE, SAME, Size, Tape, Tensor, plus, size_of, times

CHUNK_OF_ENTROPY = 128  # tokens at once (entropy_from_logits)
CHUNK_OF_TOKENS, CHUNK_OF_WORDS = 4096, 32768  # of the chunked head


def as_one_batch(run: Run) -> Run:
    """The run with the sequences that go through the policy together as its micro-batch: DPO's
    chosen and rejected ones are in one forward pass."""
    return replace(run, micro_batch=sequences_of(run.objective) * run.micro_batch)


def loss(f, x: Tensor, head: str) -> None:
    """The loss of the run's objective from the last hidden state, in `f.end` and `f.moments` what
    is alive in the forward pass beside what it keeps."""
    if not isinstance(f.run.objective, Dpo):
        _distilled(f, x, head)
    elif f.run.loss_kernel == "chunked":
        _preference_in_chunks(f, x, head)
    else:
        _preference(f, x, head)


# -- preferences


def _preference(f, x: Tensor, head: str) -> None:
    """Log-probabilities of the tokens from all logits, in fp32 under autocast (accelerate casts
    the model's outputs).

    Of fp32 logits the loss keeps the logits themselves; backward makes gradients for each sequence,
    stacks them, and adds the target's. Of 16-bit ones it keeps the log-probabilities of each
    sequence. At the end of the forward pass there are the logits of policy and reference, a copy of
    the policy's, whose last token is cut off, and three of them for the tokens whose entropy is at
    work.
    """
    t = f.tape
    logits, held = make_logits(f, x, head)
    logits.part = "logits"
    if t.autocast or f.run.outputs == "fp32":
        logits = t.cast(logits, "fp32")
        held = [logits]
    row = size_of(("s", logits.shape[-1]), logits.dtype)
    index = Tensor(("b", "s", 1), "int64", "targets", grad=False)
    own = logits
    if logits.dtype == "fp32":
        sums = Tensor(("b", "s"), "fp32", "log-sum-exp of the logits", grad=False)
        saved = [(logits, "logits"), (sums, "normalisation"), (index, "targets")]
        extra = times(2, logits.size)
    else:
        own = Tensor(logits.shape, logits.dtype, "log-probabilities", "logits", grad=False)
        saved = [(own, "log-probabilities"), (index, "targets")]
        # a gradient of zeros and the target's, and what the softmax makes of it, of one sequence
        extra = logits.size
    out = Tensor(("b", "s"), logits.dtype, "log-probabilities of tokens")
    _tail(t, t.emit("log-probabilities", out, [(logits, NEW)], saved, extra))
    last = last_hidden(f, x, head)
    others = NONE
    for tensor in dict.fromkeys(held):
        others = plus(others, tensor.size if tensor.storage is not own.storage else NONE)
    entropy = plus(logits.size, _rows(3 * CHUNK_OF_ENTROPY, logits.shape[-1], logits.dtype))
    reference = logits.size if asked_model(f.run) else NONE
    first = size_of(logits.shape, "bf16" if t.autocast else logits.dtype)
    f.end = {"logits": others, "activations": last}
    f.moments = [
        {"logits": first, "temporary": f.uncast},
        {"logits": plus(others, plus(reference, entropy))},
    ]
    if asked_model(f.run):  # its log-probabilities, of one sequence at work
        f.moments.append({"logits": plus(others, plus(reference, row))})
    f.while_asked, f.head_asked = {"logits": others}, first


def _preference_in_chunks(f, x: Tensor, head: str) -> None:
    """Log-probabilities tile by tile of tokens and words: no logits are kept. The backward pass
    makes each tile again and adds the gradients of hidden state and head up in fp32.

    Every token counts, as it does on a CPU; on a GPU those of the prompt are left out. There a
    Triton kernel turns a tile into its gradient in place; on a CPU torch does it, with seven copies
    of the tile in fp32 and a byte a logit.
    """
    t = f.tape
    weight = f.outer_tensor(head)
    x = t.emit("copy", Tensor(x.shape, x.dtype, "hidden states but the last"), [(x, NEW)])
    words, hidden = weight.shape
    product = "bf16" if t.autocast else x.dtype
    tile = _tokens(f.tokens, CHUNK_OF_WORDS, product)
    for tensor, count in ((x, _tokens(f.tokens, hidden, product)), (weight, NONE)):
        if tensor.dtype != product:  # a chunk of each is cast
            rows = _rows(min(words, CHUNK_OF_WORDS), hidden, product)
            tile = plus(tile, rows if tensor is weight else count)
    wide = _tokens(f.tokens, min(words, CHUNK_OF_WORDS), "fp32")
    byte = _tokens(f.tokens, min(words, CHUNK_OF_WORDS), "bool")
    on_cpu = t.device == "cpu"
    ahead = plus(times(3, wide), byte) if on_cpu else NONE
    back = plus(times(7, wide), byte) if on_cpu else NONE
    sums = size_of(x.shape, "fp32")
    narrow = NONE
    if weight.grad:
        sums = plus(sums, size_of(weight.shape, "fp32"))
        narrow = weight.size if weight.dtype != "fp32" else NONE
    narrow = plus(narrow, x.size if x.dtype != "fp32" else NONE)
    made = plus(x.size, weight.size if weight.grad else NONE)
    # a tile at work on a CPU; on a GPU the last moment, the sums beside what is handed on
    scratch = plus(plus(sums, tile), plus(back if on_cpu else narrow, times(-1, made)))
    number = Tensor(("b", "s"), "fp32", "normalisation", grad=False)
    entropy = Tensor(("b", "s"), "fp32", "entropy", grad=False)
    index = Tensor(("b", "s"), "int64", "targets", grad=False)
    saved = [(x, "input of the loss"), (number, "sums"), (entropy, "sums"), (index, "targets")]
    out = Tensor(("b", "s"), "fp32", "log-probabilities of tokens")
    _tail(t, t.emit("chunked head", out, [(x, NEW), (weight, NEW)], saved, scratch=scratch))
    f.end = {"activations": NONE}
    at_work = plus(tile, ahead)
    f.moments = [{"logits": at_work, "temporary": f.uncast, "activations": x.size}]
    f.while_asked, f.head_asked = {}, plus(at_work, times(2, x.size))


def _tokens(tokens: int, width: int, dtype: str) -> Size:
    """Bytes of a row for each token of a chunk."""
    if tokens <= CHUNK_OF_TOKENS:
        return size_of(("b", "s", width), dtype)
    return _rows(CHUNK_OF_TOKENS, width, dtype)


def _rows(rows: int, width: int, dtype: str) -> Size:
    return size_of((rows, width), dtype)


def _tail(t: Tape, log_probabilities: Tensor) -> None:
    t.emit("dpo loss", Tensor((1,), "fp32", "loss"), [(log_probabilities, NEW)])


# -- distillation


def _distilled(f, x: Tensor, head: str) -> None:
    """Divergence of the student's distribution from the teacher's, over the whole vocabulary."""
    t = f.tape
    if t.autocast and t.device == "cpu":
        raise ValueError(
            "objective: a Distillation given; allowed under autocast: device='cuda', because the "
            "CPU's list of operators is not known here for its loss"
        )
    logits, held = make_logits(f, x, head)
    logits.part = "logits"
    scaled = t.scale(logits, "logits / temperature")
    wide = t.cast(scaled, "fp32") if t.autocast and t.device == "cuda" else scaled
    own = t.log_softmax(wide)
    teacher = Tensor(logits.shape, logits.dtype, "the teacher's logits", "logits", grad=False)
    target = Tensor(own.shape, own.dtype, "the teacher's log-probabilities", "logits", grad=False)
    shares = Tensor(own.shape, own.dtype, "the teacher's probabilities", "logits", grad=False)
    less = Tensor(own.shape, own.dtype, "difference of log-probabilities", "logits")
    t.emit("sub", less, [(own, NEW)])
    each = Tensor(own.shape, own.dtype, "divergence by token and word", "logits")
    t.emit("mul", each, [(less, NEW)], [(shares, "the teacher's probabilities")])
    result = Tensor((1,), "fp32", "loss")
    t.emit("sum", result, [(each, SAME)])  # its gradient is one number, seen at every place
    alive = NONE
    for tensor in dict.fromkeys([*held[:-1], logits, teacher, target, less, each]):
        alive = plus(alive, tensor.size)
    last = last_hidden(f, x, head)
    f.end = {"logits": alive, "temporary": f.uncast, "activations": last}
    f.while_asked, f.head_asked = {"logits": logits.size, "temporary": f.uncast}, logits.size
