"""The product of grouped rows with their experts' matrices, on fake tensors of any dtype.

torch's own `grouped_mm` has a fake kernel for bf16 alone. transformers' fall-back works for all
dtypes, and keeps and returns the same tensors as long as the experts are trained; of frozen ones it
computes a gradient all the same, and keeps the rows for it, which torch does not.
"""

from __future__ import annotations

import torch

_fallback = torch.ops.transformers


class _Frozen(torch.autograd.Function):
    """Experts that are not trained: for the rows' gradient their matrices are kept, no rows."""

    @staticmethod
    def forward(ctx, rows, weight, offs):
        ctx.save_for_backward(weight, offs)
        return _fallback.grouped_mm_fallback(rows, weight, offs=offs)

    @staticmethod
    def backward(ctx, grad):
        weight, offs = ctx.saved_tensors
        back = _fallback.grouped_mm_fallback(grad, weight.transpose(-2, -1), offs=offs)
        return back, None, None


def product(rows: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    """(rows, K) by groups of `offs` with (experts, K, N): (rows, N)."""
    rows = rows.to(weight.dtype)
    if weight.requires_grad:
        return _fallback.grouped_mm_fallback(rows, weight, offs=offs)
    return _Frozen.apply(rows, weight, offs)
