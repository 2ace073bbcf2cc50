"""Lab 06, optimizers: what is right, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache
from math import floor, log2

from ...footprint.step import memory
from ...footprint.step import model_state as whole_state
from ...hardware import gpu
from ...planning import checkpoint
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise

GPT2_XL = 1_557_611_200
GPT3_LAYERS, GPT3_WIDTH = 96, 12288
PER_RANK = GPT3_LAYERS * 2 * (GPT3_WIDTH + GPT3_WIDTH)  # adapter weights of rank 1

FILES = {"X": 17.30, "Y": 7.42, "Z": 12.36}  # GB
RATE, WEIGHT = 1e-4, 0.02
# distance of neighbours at WEIGHT: numbers between two powers of two, by their bits
FP32, FP16, BF16 = (2.0 ** (floor(log2(WEIGHT)) - bits) for bits in (23, 10, 7))

# (precision, optimizer, rank) of the plans for one GPU
PLANS = {
    "master": ("bf16-master", "adamw-fused", 0),
    "8bit": ("bf16-master", "adamw-8bit", 0),
    "bf16": ("bf16", "adamw-fused", 0),
    "lora": ("bf16", "adamw-fused", 16),
}


def zero(full=16, quantized=10, parameters=GPT2_XL, unit=GB):
    return parameters * full / unit, parameters * quantized / unit


@cache
def files(size=lambda run: checkpoint(run).total):
    """Whose checkpoint each size is, within half a per cent; two may share one."""
    names = {}
    for name in ("adamw", "adamw-8bit", "adafactor", "muon", "lion", "momentum"):
        run = Run("llama-3.2-1b", precision="bf16-master", optimizer=name)
        names[name] = size(run) / GB
    found = {}
    for file, read in FILES.items():
        near = [name for name, gigabytes in names.items() if abs(gigabytes / read - 1) < 0.005]
        found[file] = " or ".join(near)
    return found


def stuck(update=0.3, distance=BF16, **said):
    """(least learning rate that moves the weight, which cures help at the run's rate)."""
    change = update * RATE
    helps = {
        "master": change >= FP32 / 2,
        "stochastic": True,  # it moves now and then, and right on average
        "moments": change >= BF16 / 2,  # the weight is still rounded to bf16
        "accumulate": change >= BF16 / 2,  # Adam divides by the gradient's size
        "fp16": change >= FP16 / 2,
    }
    return distance / 2 / update, helps | said


def lora(rank=8, weights=4 * PER_RANK, width=2, unit=1e6):
    return rank, width * weights / unit


def plans(size):
    """{plan: whether it fits}, by a function of the plan's run and rank that gives bytes."""
    fits = {}
    for name, (precision, optimizer, rank) in PLANS.items():
        run = Run(
            "llama-3.1-8b",
            sequence=2048,
            recompute="full",
            precision=precision,
            optimizer=optimizer,
        )
        fits[name] = size(run, rank) <= gpu("h100-sxm").memory
    return fits


def adapted(run, rank):
    """The run with adapters of a rank; 0 trains all weights."""
    return replace(run, lora=rank or None)


def peak(run, rank):
    return memory(adapted(run, rank)).total


def model_state(run, rank):
    return whole_state(adapted(run, rank)).total


def without_adapters(run, rank):
    return 4 * peak(run, 0) if rank else peak(run, 0)


EXERCISES = (
    Exercise(
        "zero",
        answer=zero,
        unit="GB",
        tolerance=0.005,
        mistakes=(
            (
                lambda: zero(parameters=1.5e9),
                "That is the 1.5 B of the name. The real model has 1.558 B, 4 % more.",
            ),
            (
                lambda: zero(unit=GIB),
                "These are GiB, 2**30 bytes. Asked for are GB, 1e9 bytes.",
            ),
            (
                lambda: zero(full=12, quantized=6),
                "The fp32 master weights are missing, 4 bytes a parameter: fp16 weights alone "
                "would lose small updates.",
            ),
            (
                lambda: zero(full=14, quantized=8),
                "2 bytes are missing: both the weights and the gradients are there in 16 bits.",
            ),
            (
                lambda: zero(full=12, quantized=9),
                "Adam keeps two moments: 8 bytes in fp32, 2 in 8 bits.",
            ),
            (
                lambda: zero(full=18, quantized=12),
                "You took fp32 gradients, as Megatron-LM does. In ZeRO's recipe they are fp16.",
            ),
            (
                lambda: zero(quantized=4),
                "The first is right. In the second only the moments shrink: weights, gradients "
                "and the fp32 master copy stay, 8 bytes.",
            ),
            (
                lambda: zero(quantized=2),
                "The first is right. The second is the moments alone; weights, gradients and the "
                "master copy come with them.",
            ),
        ),
        because="16 bytes a parameter, and 10 with 8-bit moments.",
    ),
    Exercise(
        "files",
        answer=files,
        mistakes=(
            (
                lambda: files() | {"Y": "adamw-8bit"},
                "8-bit moments are 2 bytes per parameter, 2.5 GB. After weights and master copy "
                "nothing is left of Y.",
            ),
            (
                lambda: files() | {"Z": "adamw"},
                "AdamW keeps two fp32 moments, 8 bytes per parameter. Z has 4 left.",
            ),
            (
                lambda: files() | {"Z": "muon"},
                "Muon keeps two moments for the embedding: it would be 1 GB more.",
            ),
            (
                lambda: files() | {"X": "lion or momentum", "Z": "adafactor", "Y": "adamw-8bit"},
                "You forgot the master copy: 2 bytes of weight and 4 of master come off first.",
            ),
        ),
        because="Sizes tell the bytes per parameter, and not more than that.",
    ),
    Exercise(
        "lora",
        answer=lora,
        tolerance=0.005,
        mistakes=(
            (
                lambda: lora(unit=2**20),
                "The rank is right. The second is in MiB, 2**20 bytes; million bytes are asked "
                "for.",
            ),
            (
                lambda: lora(weights=8 * PER_RANK),
                "The rank is right. The second is twice too large: rank 4 is asked for and not 8, "
                "and 16 bits are 2 bytes and not 4.",
            ),
            (
                lambda: lora(width=1),
                "The rank is right. The second is the number of weights in millions; each takes "
                "2 bytes.",
            ),
            (
                lambda: lora(rank=16, weights=2 * PER_RANK),
                "One of the two is missing: two thin matrices for each adapted one (12,288 x r "
                "and r x 12,288), and two adapted matrices a layer.",
            ),
            (
                lambda: lora(rank=4, weights=8 * PER_RANK),
                "You adapted four matrices a layer. Here only queries and values are.",
            ),
            (
                lambda: lora(rank=1),
                "The size is right. Rank 1 is the table's other run, 4.7 M.",
            ),
        ),
        because="4,718,592 weights for each rank; the 35 MB are 36.0 MiB.",
    ),
    Exercise(
        "stuck",
        answer=stuck,
        mistakes=(
            (
                lambda: stuck(distance=2 * BF16),
                "Half of the distance is enough: from there on it is rounded up.",
            ),
            (
                lambda: (BF16 / 2, stuck()[1]),
                "That is the least update. The rate is larger: an update is 0.3 of it.",
            ),
            (
                lambda: stuck(moments=True),
                "Finer moments make a finer update, and the sum with the weight is rounded to bf16 "
                "all the same.",
            ),
            (
                lambda: stuck(accumulate=True),
                "Accumulation changes the gradient, and Adam divides by its size: the update stays "
                "as large.",
            ),
            (
                lambda: stuck(fp16=False),
                "fp16 has three bits more: at 0.02 its numbers lie 2^-16 apart. Compare half of "
                "that with the update.",
            ),
            (
                lambda: stuck(stochastic=False),
                "Rounding at random moves the weight now and then by a whole step, and by the "
                "right amount on average.",
            ),
        ),
        because="What is lost is lost in the last addition; only a finer sum, or chance, keeps it.",
    ),
    Exercise(
        "plans",
        answer=lambda: plans(peak),
        mistakes=(
            (
                lambda: plans(model_state),
                "That is model state alone. At the update the 8-bit plan's bf16 gradients become "
                "fp32 ones, 16 GB more: look at the peak, `.total`.",
            ),
            (
                lambda: dict.fromkeys(PLANS, True),
                "The first plan alone holds 16 bytes a parameter: 128 GB before any activation.",
            ),
            (
                lambda: plans(without_adapters),
                "LoRA keeps the bf16 weights, 16 GB, and gradients and moments of the adapters "
                "alone. `sizing.memory(run)` with lora=16 knows.",
            ),
            (
                lambda: dict.fromkeys(PLANS, False),
                "Two of them fit. Weights, gradients and moments in bf16 are 8 bytes a parameter: "
                "64 GB.",
            ),
            (
                lambda: {name: name == "lora" for name in PLANS},
                "One more fits: weights, gradients and both moments in bf16 are 8 bytes a "
                "parameter, 64 GB, and full recompute leaves little else.",
            ),
        ),
        because="Pure bf16 and LoRA fit. The 8-bit plan fits by its state and fails at its peak.",
    ),
)
