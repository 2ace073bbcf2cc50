"""The forward passes of objectives beside cross-entropy, as TRL's trainers take them."""

from __future__ import annotations

from contextlib import nullcontext

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
    if run.loss_kernel == "chunked":
        raise ValueError(
            "loss: 'chunked' given; allowed in a traced step of DPO: 'eager' (TRL's own step: "
            "`sizing.trace.trainers`)"
        )
    labels = batch.roll(-1, 1)
    logits = _logits(run, model, batch)
    policy = selected(logits, labels).sum(1)
    if other is None:
        reference = torch.zeros_like(policy)  # from before the training
    else:
        with torch.no_grad():
            others = _logits(run, other, batch)
            reference = selected(others, labels).sum(1)
    better, worse = (policy - reference).chunk(2)
    result = -functional.logsigmoid(0.1 * (better - worse)).mean()
    _entropy(logits.detach())  # TRL logs it with every step
    return result


def _logits(run: Run, model, batch: torch.Tensor) -> torch.Tensor:
    """Under autocast accelerate casts a model's outputs, once autocast has ended; see
    `Run.outputs`."""
    recipe = run.recipe
    products = build.DTYPES[recipe.products]
    with torch.autocast(batch.device.type, products) if recipe.autocast else nullcontext():
        logits = model(input_ids=batch, use_cache=False).logits
    return logits.float() if recipe.autocast or run.outputs == "fp32" else logits


def _entropy(logits: torch.Tensor, rows: int = 128) -> None:
    """Of a copy of the logits, whose last token is cut off, some rows at a time."""
    for some in logits[:, :-1].reshape(-1, logits.shape[-1]).split(rows):
        own = functional.log_softmax(some, -1)
        (torch.exp(own) * own).sum(-1)


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
