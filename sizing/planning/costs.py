"""Time and money of a training run."""

from __future__ import annotations

from ..hardware import GPU
from ..hardware import gpu as find_gpu


def training_time(
    flops: float, gpu: GPU | str, count: int = 1, mfu: float = 0.4, dtype: str = "bf16"
) -> float:
    """Seconds that `count` GPUs need for a number of model FLOPs.

    time = FLOPs / (count x dense peak FLOP/s x MFU): the definition of model FLOPs utilisation
    solved for time (PaLM, arXiv:2204.02311, section 4.1).

    Args:
        flops: model FLOPs of the whole training (forward and backward, without recompute).
        gpu: a `GPU`, or its name in data/gpus.csv.
        count: number of GPUs.
        mfu: model FLOPs utilisation, above 0 and at most 1.
        dtype: which dense peak to hold it against: "bf16", "fp16", "tf32", "fp32" or "fp8".

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if not flops > 0:
        raise ValueError(f"flops: {flops!r} given; allowed: a number above 0")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count: {count!r} given; allowed: a whole number >= 1")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu: {mfu!r} given; allowed: above 0 and at most 1, as 0.4 for 40 %")
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    return flops / (count * device.peak_flops(dtype) * mfu)
