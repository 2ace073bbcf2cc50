"""Lab 08, data parallel and ZeRO: what is right, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache

from ...footprint import memory
from ...parallel import communication
from ...run import Run
from ...speed import step_time
from ..exercise import Exercise

GIB = 2**30
PRINTED, PARAMETERS = 15.93, 2851e6  # t5-3b on 8 GPUs, stage 2, DeepSpeed's documentation
OFFER = {0: (208.3, 51.2), 1: (105.8, 51.2), 2: (28.9, 51.2), 3: (3.3, 615.0)}
LOG = Run(
    "llama-3.1-8b", sequence=4096, recompute="full", precision="bf16-master",
    optimizer="adamw-fused", data=16, zero=3,
)  # fmt: skip
READ = (17.1, 29.6)  # GB: of stage 3, and of 16 GPUs
TOO_LARGE = replace(LOG, micro_batch=4, recompute="none")
CHANGES = {
    "A": {"data": 64},
    "B": {"recompute": "full"},
    "C": {"recompute": "selective"},
    "D": {"micro_batch": 1, "accumulation": 4},
    "E": {"optimizer": "adamw-8bit"},
    "F": {"loss": "fused"},
}
HIDDEN, FLOPS, FASTER = 8000, 400e12, 640e12  # tokens, FLOP/s in 16 bits and with fp8 products


def printed(unit=GIB):
    """GB of 10^9 bytes, and bytes per parameter."""
    size = PRINTED * unit
    return size / 1e9, size / PARAMETERS


def thirteen(stage, accumulation=8):
    """(GB of model state, GB sent per step) of a GPU in exercise 2."""
    run = Run(
        "llama-2-13b", precision="bf16-master", data=64, zero=stage, accumulation=accumulation
    )
    m = memory(run)
    return (m.parameters + m.gradients + m.optimizer) / 1e9, communication(run).total / 1e9


@cache
def offer():
    """((stage, GB) of the wrong state, (stage, GB) of the wrong bytes sent)."""
    found = []
    for column in (0, 1):
        right = {stage: thirteen(stage)[column] for stage in OFFER}
        off = {stage: OFFER[stage][column] / right[stage] for stage in OFFER}
        (wrong,) = [stage for stage, ratio in off.items() if abs(ratio - 1) > 0.05]
        found.append((wrong, right[wrong]))
    return tuple(found)


@cache
def peak(**changed):
    return memory(replace(LOG, **changed)).total / 1e9


@cache
def whose():
    """(GPUs, stage) whose peaks are within half a per cent of what was read."""
    (gpus,) = [n for n in (2**k for k in range(1, 10)) if abs(peak(data=n) / READ[0] - 1) < 0.005]
    (stage,) = [stage for stage in (1, 2, 3) if abs(peak(zero=stage) / READ[1] - 1) < 0.005]
    return gpus, stage


def state_alone():
    """The GPUs whose model state alone, 16 bytes per parameter, is nearest to the first reading."""
    state = 16 * LOG.model.parameters.total / 1e9
    return min((2**k for k in range(1, 10)), key=lambda n: abs(state / n / READ[0] - 1)), whose()[1]


@cache
def judged():
    """({letter: whether it fits}, {letter: tokens per second and GPU})."""
    runs = {letter: replace(TOO_LARGE, **change) for letter, change in CHANGES.items()}
    fits = {
        name: memory(run).on("h100-sxm").verdict != "does not fit" for name, run in runs.items()
    }
    return fits, {name: run.tokens / run.gpus / step_time(run).total for name, run in runs.items()}


def remedy(fastest=None, **said):
    """(what fits, the fastest of it); `said` replaces some of the former, for a known mistake."""
    fits, speed = judged()
    best = max((name for name in fits if fits[name]), key=speed.get)
    return fits | said, fastest or best


def network(faster=FASTER):
    """(GB/s, tokens from which it is hidden with faster products, their share at the old bound)."""
    link = FLOPS / HIDDEN
    compute = [2 * HIDDEN / faster, 4 * HIDDEN / faster]
    step = sum(max(pair) for pair in zip(compute, (2 / link, 4 / link), strict=True))
    return link / 1e9, faster / link, 100 * sum(compute) / step


EXERCISES = (
    Exercise(
        "printed",
        answer=printed,
        tolerance=0.005,
        mistakes=(
            (
                lambda: printed(1e9),
                "That takes the print at its word. The code divides by 2**30: they are GiB.",
            ),
            (
                lambda: (PRINTED * 1e9 / GIB, PRINTED * 1e18 / GIB / PARAMETERS),
                "The other way round: a GiB is larger than a GB, so the figure in GB is larger.",
            ),
            (
                lambda: (printed()[0], printed(1e9)[1]),
                "The first is right. Take the bytes per parameter from the same bytes.",
            ),
            (
                (PRINTED, ...),
                "15.93 is the printed figure, in GiB. In GB it is larger.",
            ),
            (
                lambda: (..., 8 * printed()[1]),
                "The second is in bits. Bytes are asked for.",
            ),
        ),
        because="17.1 GB, exactly 6 bytes per parameter: 4 + 16/8. The unit that makes a round "
        "number is the one that was meant.",
    ),
    Exercise(
        "offer",
        answer=offer,
        mistakes=(
            (
                lambda: ((1, thirteen(3)[0]), offer()[1]),
                "That divides all 16 bytes. Stage 1 divides the optimizer's 12 and leaves weights "
                "and gradients whole.",
            ),
            (
                lambda: (offer()[0], (3, thirteen(3, accumulation=1)[1])),
                "Stage 3 is right as printed: it gathers twice and scatters once for each of 8 "
                "micro-batches.",
            ),
            (
                lambda: (offer()[0], (2, 8 * thirteen(2, accumulation=1)[1])),
                "Stage 2 scatters gradients for every micro-batch, but gathers its new weights "
                "once per step: 8 + 1 passes, not 16.",
            ),
            (
                lambda: (offer()[0], (2, thirteen(3)[1])),
                "That is stage 3's. Stage 2 keeps its weights whole and gathers them once.",
            ),
            (
                ((0, ...), (..., ...)),
                "Stage 0 holds all 16 bytes: 208.3 GB is right as printed.",
            ),
            (
                ((2, ...), (..., ...)),
                "Stage 2 holds 2 + 14/64 bytes: 28.9 GB is right as printed.",
            ),
            (
                ((3, ...), (..., ...)),
                "Stage 3 holds 16/64 bytes: 3.3 GB is right as printed.",
            ),
            (
                ((1, OFFER[2][0]), (..., ...)),
                "The stage is right. 28.9 GB is stage 2's: stage 1 keeps the gradients whole.",
            ),
            (
                ((1, OFFER[1][0]), (..., ...)),
                "The stage is right. 105.8 GB is what the offer says: is the fp32 copy of the "
                "weights divided there?",
            ),
            (
                ((..., ...), (0, ...)),
                "Stage 0 all-reduces once per step, after the last micro-batch: 51.2 GB is right "
                "as printed.",
            ),
            (
                ((..., ...), (1, ...)),
                "Stage 1 can wait for the last micro-batch, as it keeps whole gradients: 51.2 GB "
                "is right as printed.",
            ),
            (
                ((..., ...), (3, ...)),
                "Stage 3 sends three passes for each of 8 micro-batches: 615.0 GB is right as "
                "printed.",
            ),
            (
                lambda: ((..., ...), (2, thirteen(0, 1)[1] * 4)),
                "The stage is right, and so are the 8 scatters. The new weights are gathered as "
                "well, once.",
            ),
            (
                ((..., ...), (2, OFFER[2][1])),
                "The stage is right. 51.2 GB is what one micro-batch would send.",
            ),
        ),
        because="The master copy is optimizer state, and stage 2 cannot wait for the last "
        "micro-batch.",
    ),
    Exercise(
        "whose",
        answer=whose,
        tolerance=0,
        mistakes=(
            (
                state_alone,
                "That divides the model state and forgets what is not divided: activations, "
                "logits and the gathered layers.",
            ),
            (
                (..., 3),
                "Stage 3 on 16 GPUs has 17.1 GB: that is the first log.",
            ),
            (
                (..., 1),
                "Stage 1 keeps whole gradients as well: look at its peak.",
            ),
            (
                (32, ...),
                "With stage 3, 32 GPUs hold less than 17.1 GB each.",
            ),
        ),
        because="One stage more is worth more than eight times the GPUs.",
    ),
    Exercise(
        "remedy",
        answer=remedy,
        mistakes=(
            (
                lambda: remedy(A=True),
                "More GPUs divide the model's state, and that is small already. The activations of "
                "four sequences stay on every GPU.",
            ),
            (
                lambda: remedy(E=True),
                "The optimizer's state is divided by 16 already: a quarter of it saves 3 GB of "
                "142.",
            ),
            (
                lambda: remedy(F=True),
                "The fused loss removes the logits, and the activations of 32 layers remain.",
            ),
            (
                lambda: remedy(fastest="D"),
                "What fits is right. D gathers all weights four times per step: there is a faster "
                "one.",
            ),
            (
                lambda: remedy(fastest="B"),
                "What fits is right. B makes the most again: there is a cheaper choice.",
            ),
            (
                (dict.fromkeys(CHANGES, ...) | {"B": False}, ...),
                "Full recompute keeps one input per layer: the activations nearly vanish. Look at"
                " its verdict.",
            ),
            (
                (dict.fromkeys(CHANGES, ...) | {"C": False}, ...),
                "Per operation, recompute drops two thirds of the activations. Look at its "
                "verdict.",
            ),
            (
                (dict.fromkeys(CHANGES, ...) | {"D": False}, ...),
                "A quarter of the micro-batch has a quarter of activations and logits. Look at "
                "its verdict.",
            ),
            (
                (dict.fromkeys(CHANGES, ...), "A"),
                "A is faster, but it does not fit.",
            ),
            (
                (dict.fromkeys(CHANGES, ...), "E"),
                "E is fast, but it does not fit: the fastest *that fits* is asked for.",
            ),
            (
                (dict.fromkeys(CHANGES, ...), "F"),
                "F is the fastest of all, but it does not fit.",
            ),
        ),
        choices=tuple(CHANGES),
        because="What follows the GPU's own sequences must shrink; make again what costs least.",
    ),
    Exercise(
        "network",
        answer=network,
        mistakes=(
            (
                lambda: (8 * network()[0], *network()[1:]),
                "The first is in Gbit/s. GB/s are asked for, an eighth of it.",
            ),
            (
                lambda: (network()[0], HIDDEN * FLOPS / FASTER, network()[2]),
                "Upside down: faster products finish sooner, so it takes more tokens to cover the "
                "sending.",
            ),
            (
                lambda: (network()[0], HIDDEN, network()[2]),
                "The bound is F/W: when F grows and W stays, it moves.",
            ),
            (
                lambda: (*network()[:2], 100.0),
                "At 8,000 tokens sending now takes longer than computing in both passes.",
            ),
            (
                lambda: (network()[0] / 1.5, *network()[1:]),
                "You let the whole step hide all three passes. Each pass hides its own: F/W.",
            ),
            (
                lambda: (..., ..., network()[2] / 100),
                "The last as a fraction. Per cent is asked for.",
            ),
            (
                lambda: (..., ..., 100 - network()[2]),
                "The last is the share of the time in which the GPU waits. How much of its rate "
                "is reached?",
            ),
            (
                lambda: (..., ..., 1e4 / network()[2]),
                "The last is upside down: no GPU reaches more than its rate.",
            ),
            (
                lambda: (network()[0] / 2, ..., ...),
                "Half of it: in the forward pass 2 FLOPs per token stand beside 2 bytes, so it is"
                " F / tokens.",
            ),
            (
                lambda: (2 * network()[0], ..., ...),
                "Twice as much: in the backward pass two passes of 2 bytes stand beside 4 FLOPs "
                "per token, so it is F / tokens.",
            ),
        ),
        because="What the network sets, faster products do not move.",
    ),
)
