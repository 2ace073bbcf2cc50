"""The forward passes of objectives beside cross-entropy, as TRL's trainers take them."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..run import Run
from ..settings import Distillation, Dpo
from . import build


def frozen(run: Run) -> torch.nn.Module | None:
    """The model beside the trained one: a reference like it, or the teacher.

    Raises:
        ValueError: the reference is the model without adapters, which these steps do not take.
    """
    if isinstance(run.objective, Distillation):
        other = build.model(Run(run.objective.teacher, precision=run.precision))
    elif isinstance(run.objective, Dpo) and run.objective.reference == "model":
        other = build.model(Run(run.model, precision=run.precision))
    elif isinstance(run.objective, Dpo) and run.objective.reference == "adapters off":
        raise ValueError(
            "reference: 'adapters off' given; allowed in a real or traced step: 'model', "
            "'precomputed'"
        )
    else:
        return None
    return other.requires_grad_(False).eval()


def loss(run: Run, model, other, batch: torch.Tensor) -> torch.Tensor:
    """The loss of one micro-batch; of DPO its first half is chosen and its second rejected."""
    if isinstance(run.objective, Distillation):
        return _distilled(model, other, batch)
    policy = _log_probabilities(model, batch)
    if other is None:
        reference = torch.zeros_like(policy)  # from before the training
    else:
        with torch.no_grad():
            reference = _log_probabilities(other, batch)
    better, worse = (policy - reference).chunk(2)
    return -functional.logsigmoid(0.1 * (better - worse)).mean()


def _log_probabilities(model, batch: torch.Tensor) -> torch.Tensor:
    """Of each sequence, summed over its tokens."""
    logits = model(input_ids=batch, use_cache=False).logits
    return selected(logits, batch.roll(-1, 1)).sum(1)


def selected(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of labels (batch, s) under logits (batch, s, vocabulary), with a loop over
    sequences to hold fewer copies."""
    index = labels.unsqueeze(-1)
    if logits.dtype == torch.float32:
        chosen = torch.gather(logits, -1, index)
        sums = torch.stack([torch.logsumexp(one, -1) for one in logits])
        return (chosen - sums.unsqueeze(-1)).squeeze(-1)
    rows = []
    for one, where in zip(logits, index, strict=True):
        rows.append(functional.log_softmax(one, -1).gather(-1, where))
        del one
    return torch.stack(rows).squeeze(-1)


def _distilled(student, teacher, batch: torch.Tensor) -> torch.Tensor:
    own = student(input_ids=batch, use_cache=False)
    with torch.no_grad():
        given = teacher(input_ids=batch, use_cache=False)
    temperature = 0.9
    log_own = functional.log_softmax(own.logits / temperature, -1)
    log_given = functional.log_softmax(given.logits / temperature, -1)
    each = functional.kl_div(log_own, log_given, reduction="none", log_target=True)
    return each.sum() / batch.numel()
