"""Operators as CUDA runs them, on tensors of the CPU: where the two keep different tensors."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import wraps
from unittest.mock import patch

import torch
from torch.nn import functional

# Operators that autocast runs in fp32 on CUDA and leaves alone on the CPU, of those that the
# models use ("CUDA Ops that can autocast to float32" in torch's automatic mixed precision docs).
_FP32 = ((torch, "pow"), (functional, "softmax"), (functional, "layer_norm"))


@contextmanager
def cuda_operators():
    """Dropout keeps a mask of one byte an element; autocast follows CUDA's list of operators."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(functional, "dropout", _dropout))
        for module, name in _FP32:
            stack.enter_context(patch.object(module, name, _in_fp32(getattr(module, name))))
        # asked without a device it answers for CUDA, which is the CPU here
        enabled = torch.is_autocast_enabled
        stack.enter_context(
            patch.object(torch, "is_autocast_enabled", lambda device="cpu": enabled(device))
        )
        yield


def _in_fp32(operator):
    @wraps(operator)
    def run(*args, **kwargs):
        if torch.is_autocast_enabled("cpu"):
            args = tuple(a.float() if isinstance(a, torch.Tensor) else a for a in args)
        return operator(*args, **kwargs)

    return run


def _dropout(input, p=0.5, training=True, inplace=False):
    if not training or p == 0:
        return input
    return torch.native_dropout(input, p, True)[0]
