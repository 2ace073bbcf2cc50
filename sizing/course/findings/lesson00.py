"""The questions under lesson 00's device card."""

from ...hardware import gpu, gpus
from ..finding import Finding


def _ridges() -> dict[str, float]:
    cards = [gpu(name) for name in gpus()]
    return {card.name: card.ridge("bf16") for card in cards if "bf16" in card.peak}


def _highest(_card) -> str:
    ridges = _ridges()
    name = max(ridges, key=ridges.get)
    return (
        f"In bf16: {gpu(name).label}, {ridges[name]:.0f} FLOP per byte. A small model multiplies "
        "small matrices, which have a low intensity: the higher the ridge, the more of the card "
        "waits for its memory."
    )


def _same(_card) -> str:
    a100, h100 = gpu("a100-sxm-80gb"), gpu("h100-sxm")
    low, high = sorted((a100.ridge("bf16"), h100.ridge("bf16")))
    return (
        f"From {high:.0f} FLOP per byte on: both reach 100 % (the A100 from {low:.0f}). Below "
        "that the A100 always reaches the larger fraction of its own, smaller peak, and the H100 "
        f"still does more FLOP/s: its memory is {h100.bandwidth / a100.bandwidth:.2f} times as "
        "fast."
    )


def _sparse(_card) -> str:
    card = gpu("rtx-4090")
    dense = card.peak_flops("bf16") / 1e12
    return (
        f"The box counts with sparsity or with fp16 accumulation, {2 * dense:.0f} TFLOP/s; dense "
        f"products that add up in fp32, as training does, reach {dense:.0f}."
    )


FINDINGS = {
    "00.card": (
        Finding(_highest, {"gpu": max(_ridges(), key=_ridges().get), "dtype": "bf16"}),
        Finding(_same, {"gpu": "a100-sxm-80gb", "dtype": "bf16", "intensity": 256.0}),
        Finding(_sparse, {"gpu": "rtx-4090", "dtype": "bf16"}),
    ),
}
