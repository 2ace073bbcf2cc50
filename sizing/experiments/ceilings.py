"""ceilings: the most FLOP/s and bytes/s that this device gives, by dtype and by size.

A square product of n x n matrices is 2 n^3 FLOPs. A copy of x bytes moves 2 x bytes: x read and x
written. Inputs are random, and copies rotate through buffers larger than any cache. On a GPU the
smallest copies (1 to 4 MiB) and products measure the launch of a kernel rather than its work.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import torch

from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.timing import Timing, timed

DTYPES = {
    "fp32": torch.float32,
    "tf32": torch.float32,  # fp32 in memory, multiplied in tf32: CUDA only
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}
SIZES = tuple(2**k for k in range(6, 15))  # 64 to 16384
LARGEST_ON_CPU = 4096
LONGEST_CALL = 1.5  # seconds: sizes whose product would take longer are left out of the grid
PROBE, PROBE_ON_GPU = 256, 4096  # on a GPU a small product measures how long a launch takes
COPIES = tuple(2**k for k in range(20, 33, 2))  # 1 MiB to 4 GiB
LARGEST_COPY_ON_CPU = 2**28
FOOTPRINT = 2**29  # bytes that copies rotate through: beyond every cache


def grid(
    device: Device,
    dtypes: tuple[str, ...] | None = None,
    sizes: tuple[int, ...] = SIZES,
    copies: tuple[int, ...] | None = None,
) -> list[Row]:
    """Products of each dtype and copies of each size.

    Args:
        dtypes: of fp32, tf32, bf16, fp16; by default those that the device knows.
        sizes: n of the n x n matrices; those too slow here (by a quick probe) are left out.
        copies: bytes of the source; by default 1 MiB to 256 MiB, on a GPU to 4 GiB or
            an eighth of its memory.
    """
    dtypes = dtypes or tuple(dtype for dtype in DTYPES if device.cuda or dtype != "tf32")
    for dtype in dtypes:
        if dtype not in DTYPES:
            raise ValueError(f"dtypes: unknown dtype {dtype!r}; allowed: {', '.join(DTYPES)}")
    copies = copies or tuple(size for size in COPIES if _copyable(size, device))
    products = [
        {"kind": "matmul", "dtype": dtype, "size": size}
        for dtype in dtypes
        for size in sizes
        if _affordable(dtype, size, device)
    ]
    return products + [{"kind": "copy", "dtype": None, "size": size} for size in copies]


def measure(point: Row, device: Device) -> Row:
    """FLOP/s of a product or bytes/s of a copy."""
    if point["kind"] == "copy":
        timing, moved = copy(point["size"], device), 2 * point["size"]
        return {"bytes": moved, **timing.row, "bytes_per_second": moved / timing.median}
    timing = product(point["dtype"], point["size"], device)
    flops = product_flops(point["size"])
    return {"flops": flops, **timing.row, "flops_per_second": flops / timing.median}


def product_flops(size: int) -> int:
    """FLOPs of a product of two size x size matrices, 2 a multiply-add."""
    return 2 * size**3


def product(dtype: str, size: int, device: Device, **limits) -> Timing:
    """Time a product of two random size x size matrices; `limits` are those of `timed`."""
    left, right = (torch.randn(size, size, device=device.kind).to(DTYPES[dtype]) for _ in range(2))
    result = torch.empty_like(left)
    with _fp32_precision(dtype):
        return timed(lambda: torch.matmul(left, right, out=result), device, **limits)


def copy(size: int, device: Device) -> Timing:
    """Time a copy of `size` bytes between buffers that are in no cache."""
    pairs = max(1, math.ceil(FOOTPRINT / (2 * size)))
    device.require(2 * size * pairs)
    buffers = torch.randint(256, (pairs, 2, size), dtype=torch.uint8, device=device.kind)
    turn = itertools.cycle([(pair[0], pair[1]) for pair in buffers])

    def one_copy() -> None:
        source, target = next(turn)
        target.copy_(source)

    return timed(one_copy, device)


@cache
def _probe(dtype: str, device: Device) -> float:
    """FLOP/s of a small product: a low estimate of what larger ones reach."""
    size = PROBE_ON_GPU if device.cuda else PROBE
    return product_flops(size) / product(dtype, size, device, budget=0.01, warm=0.01).median


def _copyable(size: int, device: Device) -> bool:
    return size <= (device.memory // 8 if device.cuda else LARGEST_COPY_ON_CPU)


def _affordable(dtype: str, size: int, device: Device) -> bool:
    if not device.cuda and size > LARGEST_ON_CPU:
        return False
    return size <= PROBE or product_flops(size) / _probe(dtype, device) < LONGEST_CALL


@contextmanager
def _fp32_precision(dtype: str) -> Iterator[None]:
    """Multiply fp32 matrices in tf32, or exactly."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if dtype == "tf32" else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


EXPERIMENT = Experiment("ceilings", grid, measure)
