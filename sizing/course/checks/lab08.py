"""Lab 08, data parallel and ZeRO: what is right, and what each known mistake leads to."""

from ..exercise import Exercise

GIB = 2**30
PRINTED, PARAMETERS = 15.93, 2851e6  # t5-3b on 8 GPUs, stage 2, DeepSpeed's documentation


def state(parameters, gpus, stage, share=(2, 2, 12)):
    weights, gradients, optimizer = share
    return parameters * (
        weights / (gpus if stage >= 3 else 1)
        + gradients / (gpus if stage >= 2 else 1)
        + optimizer / (gpus if stage >= 1 else 1)
    )


def sent(parameters, gpus, stage, accumulation, ring=True):
    passes = {1: 2, 2: accumulation + 1, 3: 3 * accumulation}[stage]
    return passes * 2 * parameters * ((gpus - 1) / gpus if ring else 1)


def printed(unit=GIB):
    """GB of 10^9 bytes, and bytes per parameter."""
    size = PRINTED * unit
    return size / 1e9, size / PARAMETERS


def enough(fixed, divided, memory):
    """The smallest power of two of GPUs, 0 if none."""
    if fixed >= memory:
        return 0
    gpus = 1
    while fixed + divided / gpus > memory:
        gpus *= 2
    return gpus


def hidden(ahead, back, flops, bandwidth, size=2):
    """Tokens from which the forward pass hides `ahead` passes, and the backward pass `back`."""
    forward = ahead * size / bandwidth * flops / 2
    backward = back * size / bandwidth * flops / 4
    return max(forward, backward)


def of_the_whole_step(ahead, back, flops, bandwidth):
    return (ahead + back) * 2 / bandwidth * flops / 6


EXERCISES = (
    Exercise(
        "state",
        answer=state,
        inputs=((7.5e9, 64, 1), (7.5e9, 64, 2), (1e12, 1024, 3)),
        unit="bytes",
        mistakes=(
            (
                lambda parameters, gpus, stage: 16 * parameters / gpus,
                "That divides everything at every stage. Stage 1 divides the optimizer's state "
                "alone, stage 2 the gradients too; only stage 3 divides the weights.",
            ),
            (
                lambda *given: state(*given, share=(2, 0, 12)),
                "You forgot the gradients: 2 bytes per parameter, divided from stage 2 on.",
            ),
            (
                lambda *given: state(*given, share=(2, 2, 8)),
                "Adam's moments are 8 bytes; the optimizer also holds the fp32 copy of the "
                "weights, 4 more.",
            ),
            (
                lambda *given: state(*given) / 1e9,
                "Right, in GB. Bytes are asked for.",
            ),
        ),
        because="31.4, 16.6 and 15.6 GB, the paper's figure 1 and table 1.",
    ),
    Exercise(
        "sent",
        answer=sent,
        inputs=((8e9, 64, 1, 8), (8e9, 64, 2, 8), (8e9, 64, 3, 8), (8e9, 2, 3, 1)),
        unit="bytes",
        mistakes=(
            (
                lambda *given: sent(*given[:3], 1),
                "You left out the accumulation. Stage 2 reduces gradients and stage 3 does all it "
                "does for every micro-batch; stage 1 waits for the last.",
            ),
            (
                lambda parameters, gpus, stage, accumulation: (
                    accumulation * sent(parameters, gpus, stage, 1)
                ),
                "Only what happens for every micro-batch repeats. Stage 1 communicates once per "
                "step, and stage 2 gathers its new weights once.",
            ),
            (
                lambda *given: sent(*given, ring=False),
                "Each GPU has one share already: a ring sends (G - 1)/G of the whole, which for "
                "two GPUs is half.",
            ),
            (
                lambda *given: sent(*given) / 2,
                "Those are elements. In 16 bits each is two bytes.",
            ),
        ),
        because="31.5, 142, 378 and 24 GB: with 8 micro-batches stage 3 sends twelve times what "
        "stage 1 does.",
    ),
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
        ),
        because="17.1 GB, exactly 6 bytes per parameter: 4 + 16/8. The unit that makes a round "
        "number is the one that was meant.",
    ),
    Exercise(
        "enough",
        answer=enough,
        tolerance=0,
        inputs=((35e9, 112e9, 80e9), (134e9, 112e9, 80e9), (9e9, 2e9, 80e9), (70e9, 112e9, 80e9)),
        mistakes=(
            (
                lambda fixed, divided, memory: enough(0, fixed + divided, memory),
                "That divides the activations too. Each GPU has its own sequences: what is not "
                "divided stays, on however many GPUs.",
            ),
            (
                lambda fixed, divided, memory: enough(0, divided, memory),
                "That asks whether the divided part fits alone. The rest is on every GPU as well.",
            ),
            (
                lambda fixed, divided, memory: (
                    0 if fixed >= memory else max(1, -int(-divided // (memory - fixed)))
                ),
                "Enough GPUs, but not a power of two: round up to one.",
            ),
        ),
        because="4, none, 1 and 16. In the second case no cluster helps: fewer tokens per GPU, "
        "recompute or another way to split do.",
    ),
    Exercise(
        "hidden",
        answer=hidden,
        unit="tokens",
        inputs=(
            (1, 2, 400e12, 50e9),
            (0, 2, 400e12, 50e9),
            (0, 1, 400e12, 50e9),
            (1, 1, 100e12, 1.25e9),
        ),
        mistakes=(
            (
                of_the_whole_step,
                "You let the whole step hide all passes. Gradients exist only in the backward "
                "pass, so only its 4 FLOPs per parameter and token can hide them.",
            ),
            (
                lambda *given: 8 * hidden(*given),
                "Eight times too many: the bandwidth is already in bytes per second.",
            ),
            (
                lambda *given: hidden(*given, size=1),
                "An element is 2 bytes in 16 bits; you sent one.",
            ),
            (
                lambda ahead, back, flops, bandwidth: (
                    ahead * 2 / bandwidth * flops / 2 + back * 2 / bandwidth * flops / 4
                ),
                "You added the two passes' tokens. Each pass must hide its own exchange: the "
                "larger number is enough for both.",
            ),
            (
                lambda *given: 1 / hidden(*given),
                "Upside down: a slower network needs more tokens, not fewer.",
            ),
        ),
        because="8,000 tokens for stages 3 and 0 alike: F/W, for a model of any size.",
    ),
)
