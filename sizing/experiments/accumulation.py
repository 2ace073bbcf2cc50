"""accumulation: is the gradient of 8 sequences at once that of 8 micro-batches of one?

In exact arithmetic yes, as long as every token weighs the same; rounding differs with the order of
the sums. Where sequences hold different numbers of tokens, the mean of the micro-batches' means is
another gradient; dividing each sum by the tokens of the whole batch is right again.
"""

from __future__ import annotations

import torch

from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import TINY_MODEL
from ..run import Run
from ..trace import build

SEQUENCES, LENGTH = 8, 64
DTYPES = {"fp64": torch.float64, "fp32": torch.float32, "bf16": torch.bfloat16}
IGNORED = -100  # the label that transformers' loss leaves out


def grid(device: Device, micro_batches: tuple[int, ...] = (1, 2, 4)) -> list[Row]:
    """Each way to split the batch, in each precision, with equal and unequal token counts.

    Args:
        micro_batches: sequences in a micro-batch; divisors of 8, which itself is the whole batch.
    """
    for size in micro_batches:
        if size < 1 or SEQUENCES % size:
            raise ValueError(f"micro_batches: {size} given; allowed: divisors of {SEQUENCES}")
    cases = [
        ("equal", "mean of means"),
        ("unequal", "mean of means"),
        ("unequal", "tokens of the batch"),
    ]
    return [
        {
            "labels": labels,
            "divided_by": divided_by,
            "precision": precision,
            "micro_batch": size,
            "accumulation": SEQUENCES // size,
        }
        for labels, divided_by in cases
        for precision in DTYPES
        for size in micro_batches
    ]


def measure(point: Row, device: Device) -> Row:
    """Distance of the accumulated gradient from that of the whole batch, in the same precision."""
    torch.manual_seed(0)
    with torch.device(device.kind):
        model = build.model(Run(TINY_MODEL, sequence=LENGTH, precision="fp32"))
        tokens = torch.randint(TINY_MODEL.vocab, (SEQUENCES, LENGTH))
    model.to(DTYPES[point["precision"]])
    labels = _labels(tokens, point["labels"] == "equal")
    by_tokens = point["divided_by"] != "mean of means"
    whole, _ = gradient(model, tokens, labels, SEQUENCES, by_tokens)
    parts, loss = gradient(model, tokens, labels, point["micro_batch"], by_tokens)
    return {
        "loss": loss,
        "relative_difference": ((parts - whole).norm() / whole.norm()).item(),
        "largest_difference": (parts - whole).abs().max().item(),
        "rounding": torch.finfo(DTYPES[point["precision"]]).eps,
    }


def gradient(
    model: torch.nn.Module,
    tokens: torch.Tensor,
    labels: torch.Tensor,
    micro_batch: int,
    by_tokens: bool,
) -> tuple[torch.Tensor, float]:
    """Gradient of the loss, accumulated over micro-batches, and the loss.

    Args:
        tokens, labels: of shape (sequences, length).
        micro_batch: sequences in a micro-batch.
        by_tokens: divide each micro-batch's summed loss by the labels in the whole batch;
            otherwise average the means of the micro-batches.

    Returns:
        The gradient of all weights in one fp64 vector, and the loss.
    """
    model.zero_grad(set_to_none=True)
    counted = (labels[:, 1:] != IGNORED).sum()  # the first token predicts, but is not predicted
    total = 0.0
    batches = zip(tokens.split(micro_batch), labels.split(micro_batch), strict=True)
    for inputs, targets in batches:
        items = {"num_items_in_batch": counted} if by_tokens else {}
        loss = model(input_ids=inputs, labels=targets, use_cache=False, **items).loss
        loss = loss if by_tokens else loss * micro_batch / len(tokens)
        loss.backward()
        total += loss.item()
    return torch.cat([p.grad.double().flatten() for p in model.parameters()]), total


def _labels(tokens: torch.Tensor, equal: bool) -> torch.Tensor:
    """All tokens, or ever fewer of each sequence, from all down to an eighth."""
    if equal:
        return tokens
    lengths = torch.arange(LENGTH, 0, -LENGTH // SEQUENCES, device=tokens.device)
    beyond = torch.arange(LENGTH, device=tokens.device) >= lengths[:, None]
    return tokens.masked_fill(beyond, IGNORED)


EXPERIMENT = Experiment("accumulation", grid, measure)
