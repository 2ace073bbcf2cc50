"""What CUDA's kernels allocate inside torch's allocator, beside what they return.

Each function says it as (bytes a row, bytes at once), for rows of the number that it is given. All
of it is freed when the kernel has been launched; where the peak of a step is at such a kernel it
counts. Read in torch 2.13's sources, and held against the allocator in data/cuda_error.csv.
"""

from __future__ import annotations

from math import prod

Scratch = tuple[float, int]
NOTHING: Scratch = (0, 0)

WIDEST = 256  # heads that FlashAttention-2 takes (flash_api.cpp)
THREADS = 132 * 2048  # that an H100 holds at once; an A100 holds 108 * 2048


def attention(width: int, dtype: str, efficient: bool, grouped: bool) -> Scratch:
    """Backward pass of a fused attention, by (sequence, head, token).

    Both kernels add the queries' gradient up in fp32, in heads as wide as their tiles, and keep the
    sum of gradient times output, 4 bytes. FlashAttention-2 (mha_bwd) first makes the gradients of
    grouped keys and values for every query head. Memory-efficient attention (kernel_backward.h)
    keeps 4 bytes more in fp32, and for bf16 heads wider than 128 stages the gradients of at most
    200 tiles of 64 keys and values. cuDNN's plans for an H100 take what FlashAttention-2 takes, to
    256 bytes.
    """
    if efficient:
        tile = 64 if width <= 64 else _up(width, 128)
        staged = 200 * 64 * 2 * 4 * width if dtype == "bf16" and width > 128 else 0
        return 4 * tile + (8 if dtype == "fp32" else 4.25), staged
    tile = _up(width, 32 if width <= 128 else 64)
    return 4 * tile + 4 + (2 * 2 * width if grouped else 0), 0


def embedding(read: int, rows: int, width: int) -> Scratch:
    """Gradient of a table of `rows`, of which `read` are looked up, by row read (Embedding.cu).

    Up to 3072 are added one by one. More are sorted by their number and summed in runs of ten, in
    fp32; then the sums of each different row are put together.
    """
    if read <= 3072:
        return NOTHING
    total = 4 * _up(width, 32) + 8  # a sum, and where it begins
    # numbers, their order, where each different row begins: 8 bytes each
    if read <= rows:
        return total / 10 + total + 24 + 16, 0
    return total / 10 + 24, rows * (total + 16)


def summed(rows: int, columns: int) -> Scratch:
    """Sum of the rows of a matrix, the gradient of a bias or of a norm's weight (Reduce.cuh).

    A thread adds 16 rows or more, and a quarter of a block's threads lie over each other. From 1021
    rows on several blocks share a column, as many as the GPU takes at once or the rows give work,
    and hand over what they have: four fp32 sums a thread, in a buffer 32 times as large as needed.
    """
    if rows <= 4 * 255:
        return NOTHING
    sums, blocks = 4 * 128 * columns, _blocks(columns)
    if rows <= 64 * blocks:
        return sums / 64, 0
    return (0, sums * blocks) if rows <= 1024 * blocks else (sums / 1024, 0)


def _blocks(columns: int) -> int:
    """Blocks of 128 threads that share a column, once there are rows enough for them."""
    return -(-THREADS // 128 // -(-columns // 128))


def norm_of_columns(shape: tuple[int, ...]) -> int:
    """Bytes to norm a matrix, or each of a stack of them, over its rows: Adafactor's columns."""
    rows = shape[-2]
    per_row, once = summed(rows, prod(shape) // rows)
    return int(per_row * _up(rows, 64)) + once


def turning_points(columns: set[int], tables: set[int]) -> tuple[int, ...]:
    """Numbers of rows at which one of the above changes its form."""
    full = {each * _blocks(n) for n in columns for each in (64, 1024)}
    return tuple(sorted({4 * 255, 3072, *tables, *full}))


def _up(number: int, step: int) -> int:
    return -(-number // step) * step
