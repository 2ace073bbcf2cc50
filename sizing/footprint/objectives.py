"""Losses beside cross-entropy, and the frozen models that they ask, on a tape.

Direct preference optimisation as TRL computes it from logits (dpo_trainer.py before the fused head
of TRL 1.0; trl.trainer.utils.selective_log_softmax), distillation as its GKDTrainer does with
beta=0: Kullback-Leibler divergence from the teacher, without a mask.
"""

from __future__ import annotations

from dataclasses import replace

from ..run import Run
from ..settings import sequences_of
from .tape import NEW, NONE, SAME, Size, Tape, Tensor, plus, size_of, times


def as_one_batch(run: Run) -> Run:
    """The run with the sequences that go through the policy together as its micro-batch: DPO's
    chosen and rejected ones are in one forward pass."""
    return replace(run, micro_batch=sequences_of(run.objective) * run.micro_batch)


def preference_loss(t: Tape, logits: Tensor) -> tuple[list[Tensor], Size]:
    """Log-probabilities of the tokens, sequence by sequence.

    Of fp32 logits the loss keeps the logits themselves; backward makes gradients for each sequence,
    stacks them, and adds the target's. Of 16-bit ones it keeps the log-probabilities of each
    sequence, in fp32 where autocast says so.

    Returns:
        What is alive at the end of the forward pass and not saved, and of that what is gone when
        the reference is asked.
    """
    index = Tensor(("b", "s", 1), "int64", "targets", grad=False)
    row = _row(logits)
    if logits.dtype == "fp32":
        sums = Tensor(("b", "s"), "fp32", "log-sum-exp of the logits", grad=False)
        saved = [(logits, "logits"), (sums, "normalisation"), (index, "targets")]
        extra = times(2, logits.size)
        out = Tensor(("b", "s"), "fp32", "log-probabilities of tokens")
        _tail(t, t.emit("logsumexp", out, [(logits, NEW)], saved, extra))
        return [], row
    wide = "fp32" if t.autocast and t.device == "cuda" else logits.dtype
    kept = Tensor(logits.shape, wide, "log-probabilities", "logits", grad=False)
    saved = [(kept, "log-probabilities"), (index, "targets")]
    # a gradient of zeros and the target's, and what the softmax makes of it, of one sequence
    rows = times(2 * 2 if wide == "fp32" else 2, row)
    stacked = plus(times(2, logits.size), times(-1, kept.size))
    extra = rows if wide == "fp32" else stacked
    out = Tensor(("b", "s"), wide, "log-probabilities of tokens")
    _tail(t, t.emit("log_softmax", out, [(logits, NEW)], saved, extra))
    if wide == "fp32":  # a sequence's logits are cast, and their log-probabilities made of that
        cast = Tensor(("s", logits.shape[-1]), "fp32", "logits of a sequence", "logits")
        return [logits, cast], times(4, row)
    return [logits], row


def distillation_loss(t: Tape, logits: Tensor) -> list[Tensor]:
    """Divergence of the student's distribution from the teacher's, over the whole vocabulary.

    Returns:
        What is alive at the end of the forward pass and not saved.
    """
    if t.autocast and t.device == "cpu":
        raise ValueError(
            "objective: a Distillation given; allowed under autocast: device='cuda', because the "
            "CPU's list of operators is not known here for its loss"
        )
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
    loss = Tensor((1,), "fp32", "loss")
    t.emit("sum", loss, [(each, SAME)])  # its gradient is one number, seen at every place
    return [logits, teacher, target, less, each]


def _tail(t: Tape, log_probabilities: Tensor) -> None:
    t.emit("dpo loss", Tensor((1,), "fp32", "loss"), [(log_probabilities, NEW)])


def _row(logits: Tensor) -> Size:
    """Bytes of the logits of one sequence."""
    return size_of(("s", logits.shape[-1]), logits.dtype)


def asked(point_parts: dict[str, Size], end: Size, logits: Size, row: Size) -> dict[str, Size]:
    """The parts of a moment in which the reference has made its logits: the policy's are gone but
    for what its loss keeps."""
    held = plus(point_parts.get("logits", NONE), times(-1, end))
    return {**point_parts, "logits": plus(held, plus(logits, row))}
