"""Operators as CUDA runs them, on tensors of the CPU: where the two keep or allocate others.

What is said of CUDA's kernels here and in `footprint.kernels` is held against torch's CUDA
allocator in data/cuda_error.csv (`sizing.evidence.cuda`).
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import wraps
from math import prod
from unittest.mock import patch

import torch
from torch.nn import functional

from ..footprint import kernels
from ..footprint.optimizer import CHUNK
from . import build, optimizers

_aten = torch.ops.aten

# Operators that autocast runs in fp32 on CUDA and leaves alone on the CPU, of those that the
# models use ("CUDA Ops that can autocast to float32" in torch's automatic mixed precision docs).
_FP32 = (
    (torch, "pow"),
    (torch.Tensor, "pow"),
    (torch.Tensor, "__pow__"),
    (torch, "square"),  # which is a power
    (torch, "expm1"),
    (torch, "logsumexp"),
    (functional, "softmax"),
    (functional, "softplus"),
    (functional, "log_softmax"),
    (functional, "layer_norm"),
)


@contextmanager
def cuda_operators():
    """Dropout keeps a mask of one byte an element; autocast follows CUDA's list of operators;
    fused attention lays its output out, and allocates, as CUDA's kernels do."""
    fused = "scaled_dot_product_attention"
    with ExitStack() as stack:
        stack.enter_context(patch.object(build, "on_cuda", lambda tensor: True))
        stack.enter_context(patch.object(functional, "dropout", _dropout))
        stack.enter_context(patch.object(functional, fused, _attention))
        for module, name in _FP32:
            stack.enter_context(patch.object(module, name, _in_fp32(getattr(module, name))))
        # asked without a device it answers for CUDA, which is the CPU here
        enabled = torch.is_autocast_enabled
        stack.enter_context(
            patch.object(torch, "is_autocast_enabled", lambda device="cpu": enabled(device))
        )
        yield


def scratch(operator, args) -> int:
    """Bytes that an operator allocates on CUDA beside its results, and frees when it returns."""
    if operator is _aten._softmax_backward_data.default:
        return args[0].nbytes  # gradient x output
    if operator is _aten.embedding_dense_backward.default:
        grad, numbers, rows = args[:3]
        return _bytes(numbers.numel(), kernels.embedding(numbers.numel(), rows, grad.shape[-1]))
    if operator is _aten.sum.dim_IntList:
        matrix, over = args[:2]
        if sorted(d % matrix.ndim for d in over) == list(range(matrix.ndim - 1)):
            columns = matrix.shape[-1]
            rows = matrix.numel() // columns
            return _bytes(rows, kernels.summed(rows, columns))
    if operator is _aten.linalg_vector_norm.default:
        tensor, over = args[0], (*args, None, None)[2]
        if over and tensor.ndim > 1 and over[0] % tensor.ndim == tensor.ndim - 2:
            return kernels.norm_of_columns(tensor.shape)
    if operator is optimizers.ADAMW_8BIT:
        return 5 * 4 * min(args[0].numel(), CHUNK)
    return 0


def _bytes(rows: int, size: kernels.Scratch) -> int:
    return int(rows * size[0] + size[1])


def _attention(query, key, value, attn_mask=None, *args, **kwargs):
    if torch.is_autocast_enabled("cpu"):
        lower = torch.get_autocast_dtype("cpu")
        query, key, value = (x.to(lower) for x in (query, key, value))
    wide = query.shape[-1] > kernels.WIDEST
    efficient = wide or attn_mask is not None or query.dtype == torch.float32
    bias = attn_mask  # made anew where it has another dtype than the scores
    if bias is not None and bias.dtype != query.dtype:
        bias = torch.zeros_like(attn_mask, dtype=query.dtype)
    return _Fused.apply(query, key, value, bias, efficient)


class _Fused(torch.autograd.Function):
    """A fused attention kernel's allocations, and none of its arithmetic."""

    @staticmethod
    def forward(ctx, query, key, value, bias, efficient):
        batch, heads, length, width = query.shape
        if efficient:
            out = query.new_empty(batch, length, heads, width).transpose(1, 2)
        else:
            out = torch.empty_like(query)
        sums = query.new_empty(batch, heads, length, dtype=torch.float32)
        ctx.efficient = efficient
        ctx.save_for_backward(query, key, value, bias, out, sums)
        return out

    @staticmethod
    def backward(ctx, gradient):
        query, key, value, _, out, _ = ctx.saved_tensors
        heads, width = query.shape[1], query.shape[-1]
        by_token = [x.transpose(1, 2).contiguous() for x in (gradient, out)]
        gradients = [torch.empty_like(x) for x in (query, key, value)]
        dtype = "fp32" if query.dtype == torch.float32 else "bf16"
        size = kernels.attention(width, dtype, ctx.efficient, key.shape[1] != heads)
        held = query.new_empty(_bytes(prod(query.shape[:3]), size), dtype=torch.uint8)
        del held, by_token
        return (*gradients, None, None)


def _in_fp32(operator):
    @wraps(operator)
    def run(*args, **kwargs):
        # autocast leaves alone what names its dtype (policy fp32_set_opt_dtype)
        if torch.is_autocast_enabled("cpu") and kwargs.get("dtype") is None:
            args = tuple(a.float() if isinstance(a, torch.Tensor) else a for a in args)
        return operator(*args, **kwargs)

    return run


def _dropout(input, p=0.5, training=True, inplace=False):
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]
