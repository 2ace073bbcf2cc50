"""sequence-length: attention alone and a whole training step, from 256 tokens up to what fits.

Attention alone is its forward and backward pass over one layer's heads, causal, as three kernels
compute it: "eager" writes the s x s scores to memory, "efficient" (memory-efficient attention,
arXiv:2112.05682) and "flash" (arXiv:2205.14135) never do. The products are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from ..measuring.allocations import peak, storage_bytes
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.timing import timed
from ..measuring.training import (
    BYTES_MODEL,
    as_run,
    default_precision,
    describe,
    measure_step,
    named,
)
from ..run import Run

HEAD_DIM = 64
CPU_MOST = {"eager": 1024, "flash": 2048}  # longer steps of the whole model take seconds each
_BACKENDS = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "flash": SDPBackend.FLASH_ATTENTION}


def grid(
    device: Device,
    model: str | None = None,
    sequences: tuple[int, ...] | None = None,
    heads: int | None = None,
) -> list[Row]:
    """Attention alone, then the whole model, for each kernel and length.

    Args:
        model: name of a preset; by default pythia-410m on a GPU, a byte-level model on a CPU.
        sequences: lengths in tokens; by default 256 to 65536 on a GPU, on a CPU 256 to 4096 for
            attention alone and to `CPU_MOST` for the model.
        heads: of attention alone, 64 wide; by default 16 on a GPU, 4 on a CPU.
    """
    lengths = sequences or [2**k for k in range(8, 17 if device.cuda else 13)]
    # The CPU build of torch has no memory-efficient kernel.
    kernels = ("eager", "efficient", "flash") if device.cuda else ("eager", "flash")
    alone = [
        {
            "part": "attention",
            "kernel": kernel,
            "sequence": length,
            "heads": heads or (16 if device.cuda else 4),
            "precision": "bf16" if device.cuda else "fp32",
        }
        for kernel in kernels
        for length in lengths
    ]
    whole = [
        {"part": "model", "kernel": attention, **describe(_whole(model, attention, length, device))}
        for attention in ("eager", "flash")
        for length in lengths
        if sequences or device.cuda or length <= CPU_MOST[attention]
    ]
    return alone + whole


def measure(point: Row, device: Device) -> Row:
    """Time and peak memory; for attention alone also its FLOPs, all s x s pairs counted."""
    if point["part"] == "model":
        return measure_step(as_run(point), device, budget=1.0)
    return _attention(point, device)


def _whole(model: str | None, attention: str, sequence: int, device: Device) -> Run:
    return Run(
        named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)),
        sequence=sequence,
        precision=default_precision(device),
        attention=attention,
    )


def _attention(point: Row, device: Device) -> Row:
    heads, length = point["heads"], point["sequence"]
    element = 2 if device.cuda else 4
    device.require(6 * element * heads * length**2 if point["kernel"] == "eager" else 0)
    shape = (1, heads, length, HEAD_DIM)
    dtype = torch.bfloat16 if device.cuda else torch.float32
    inputs = [
        torch.randn(shape, device=device.kind, dtype=dtype, requires_grad=True) for _ in range(3)
    ]
    outward = torch.randn(shape, device=device.kind, dtype=dtype)
    kernel = _kernel(point["kernel"])

    def forward_and_backward() -> None:
        torch.autograd.grad(kernel(*inputs), inputs, outward)

    timing = timed(forward_and_backward, device, most=20)
    # Two products forward, four backward, of 2 s s d FLOPs a head each.
    flops = 6 * 2 * heads * length**2 * HEAD_DIM
    return {
        **timing.row,
        "flops": flops,
        "flops_per_second": flops / timing.median,
        **peak(forward_and_backward, device, storage_bytes(*inputs, outward)),
    }


def _kernel(name: str) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    if name == "eager":
        return eager_attention

    def fused(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        with sdpa_kernel(_BACKENDS[name]):
            return scaled_dot_product_attention(query, key, value, is_causal=True)

    return fused


def eager_attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Causal attention that holds its scores: softmax(q k^T / sqrt(d)) v."""
    length = query.shape[-2]
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    future = torch.ones(length, length, dtype=torch.bool, device=query.device).triu(1)
    return scores.masked_fill(future, float("-inf")).softmax(-1) @ value


EXPERIMENT = Experiment("sequence-length", grid, measure)
