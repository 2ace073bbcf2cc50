"""Lab 06, optimizers: what is right, and what each known mistake leads to."""

from dataclasses import replace
from math import prod

from ...footprint.step import memory
from ...footprint.step import model_state as whole_state
from ...hardware import gpu
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise

GPT2_XL = 1_557_611_200
GPT3_LAYERS, GPT3_WIDTH = 96, 12288
PER_RANK = GPT3_LAYERS * 2 * (GPT3_WIDTH + GPT3_WIDTH)  # adapter weights of rank 1

# (precision, optimizer, rank) of the plans for one GPU
PLANS = {
    "master": ("bf16-master", "adamw-fused", 0),
    "8bit": ("bf16-master", "adamw-8bit", 0),
    "bf16": ("bf16", "adamw-fused", 0),
    "lora": ("bf16", "adamw-fused", 16),
}


def zero(full=16, quantized=10, parameters=GPT2_XL, unit=GB):
    return parameters * full / unit, parameters * quantized / unit


def adafactor(shapes):
    return 4 * sum(sum(shape) for shape in shapes)


def adafactor_in_full(shapes):
    return 4 * sum(map(prod, shapes))


def adafactor_elements(shapes):
    return adafactor(shapes) // 4


def adafactor_in_half(shapes):
    return adafactor(shapes) // 2


def adafactor_without_vectors(shapes):
    return adafactor([shape for shape in shapes if len(shape) == 2])


def adafactor_with_momentum(shapes):
    return adafactor(shapes) + adafactor_in_full(shapes)


def adafactor_rows(shapes):
    return 4 * sum(shape[0] for shape in shapes)


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
        "adafactor",
        answer=adafactor,
        tolerance=0,
        inputs=(
            ([(4096, 1024)],),
            ([(4096, 4096), (4096,)],),
            ([(128256, 2048), (8192, 2048), (2048, 8192), (2048,)],),
        ),
        mistakes=(
            (
                adafactor_in_full,
                "That is v in full, an fp32 number an element, as in AdamW. Adafactor keeps only "
                "its row and column means.",
            ),
            (
                adafactor_elements,
                "You counted numbers. Each takes 4 bytes in fp32.",
            ),
            (
                adafactor_in_half,
                "That is 2 bytes a number. The state is fp32, 4 bytes.",
            ),
            (
                adafactor_without_vectors,
                "Vectors are missing: with nothing to factor they keep one number an element.",
            ),
            (
                adafactor_with_momentum,
                "You added a momentum. Adafactor can have one, but it would undo the saving.",
            ),
            (
                adafactor_rows,
                "The columns are missing: a matrix keeps a mean for each of them as well.",
            ),
        ),
        because="m + n numbers for a matrix: next to nothing, at every size.",
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
        answer=0.5,
        tolerance=0,
        mistakes=(
            (
                10.0,
                "That is the sum on paper. A bf16 number has 8 bits and loses what is less than "
                "half a step.",
            ),
            (
                0.25,
                "Between 1/4 and 1/2 neighbours lie 1/512 apart and half of that is 0.00098: "
                "0.001 is just above it, so it goes on.",
            ),
            (
                0.256,
                "256 updates is the rule of thumb. The exact place is a power of two, where the "
                "step between neighbours doubles.",
            ),
            (
                1.0,
                "At 1 the step is 1/128 and 0.001 is long lost. It stops before: look at the step "
                "between 1/2 and 1.",
            ),
            (
                0.0,
                "0 itself is no obstacle: near 0 the numbers lie close together.",
            ),
        ),
        because="From 1/2 on half a step is 0.00195, more than 0.001.",
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
