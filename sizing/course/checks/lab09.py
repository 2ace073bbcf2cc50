"""Lab 09, beyond one node: what is right, and what each known mistake leads to."""

from ..exercise import Exercise

# 405B in its last stage (arXiv:2407.21783, table 4)
GPUS, TENSOR, CONTEXT, PIPELINE, SEQUENCE, BATCH = 16384, 8, 16, 16, 131072, 16 * 2**20


def fewest(p, idle):
    """The fewest micro-batches that keep the bubble of 1F1B within a share of the step."""
    m = 1
    while (p - 1) / (m + p - 1) > idle:
        m += 1
    return m


def of_the_work(p, idle):
    """The same where the bubble is taken over the time of work and not of the step."""
    m = 1
    while (p - 1) / m > idle:
        m += 1
    return m


def llama(context=CONTEXT, batch=BATCH, tokens=SEQUENCE // CONTEXT):
    """(data degree, sequences per rank, tokens of a sequence on a GPU)."""
    data = GPUS / (TENSOR * context * PIPELINE)
    return data, batch / SEQUENCE / data, tokens


def layer(tokens, h, t, collectives=10, width=2):
    return collectives * width * tokens * h * (t - 1) / t


def held(whole, p, m, rank):
    return whole / p * min(p - rank, m)


def efficiency(seconds, m):
    step = sum(seconds) + (m - 1) * max(seconds)
    return m * sum(seconds) / (len(seconds) * step)


EXERCISES = (
    Exercise(
        "bubble",
        answer=fewest,
        tolerance=0,
        inputs=((8, 0.12), (16, 0.07), (2, 0.3)),
        mistakes=(
            (
                of_the_work,
                "That is the bubble over the time of *work*, (p - 1) / m, as some papers print it. "
                "The share of the step has m + p - 1 below the line.",
            ),
            (
                lambda p, idle: fewest(p, idle) - 1,
                "One too few: round up, or stop at the first m that is within the share.",
            ),
            (
                lambda p, idle: fewest(p + 1, idle),
                "A pipeline of p stages waits for p - 1 others, not for p.",
            ),
            (
                lambda p, idle: 4 * p,
                "Four times the stages is the rule of thumb for a fifth. Here the share is given.",
            ),
        ),
        because="52, 200 and 3: halving the bubble doubles the micro-batches.",
    ),
    Exercise(
        "llama",
        answer=llama,
        tolerance=0,
        mistakes=(
            (
                lambda: llama(context=1),
                "Context ranks share a sequence too: divide the GPUs by all of tensor, context "
                "and pipeline.",
            ),
            (
                lambda: llama(batch=16e6),
                "16 Mi is 16 x 2^20, which is 128 sequences of 131,072.",
            ),
            (
                lambda: (llama()[0], BATCH / SEQUENCE, llama()[2]),
                "The second is the whole batch. Divide it by the data-parallel ranks.",
            ),
            (
                lambda: (*llama()[:2], SEQUENCE),
                "The third is the whole sequence. Each of the context ranks has a part of it.",
            ),
            (
                lambda: (*llama()[:2], SEQUENCE // CONTEXT // TENSOR),
                "Tensor ranks have the same tokens and divide the matrices: only context divides "
                "the sequence here.",
            ),
        ),
        because="8, 16 and 8192: with context 16 a GPU has as many tokens at once as in the runs "
        "on sequences of 8192.",
    ),
    Exercise(
        "tensor",
        answer=layer,
        unit="bytes",
        inputs=((8192, 6144, 8), (4096, 4096, 2), (2048, 20480, 8)),
        mistakes=(
            (
                lambda tokens, h, t: 20 * tokens * h,
                "A rank keeps its own part: a collective over t ranks sends (t - 1) / t of the "
                "bytes.",
            ),
            (
                lambda tokens, h, t: layer(tokens, h, t, collectives=8),
                "Eight without sequence parallelism. With it the inputs of attention and MLP are "
                "gathered once more in backward, for the weights' gradients: ten.",
            ),
            (
                lambda tokens, h, t: layer(tokens, h, t, collectives=4),
                "An all-reduce is two of them, a reduce-scatter and an all-gather, and there is "
                "one more gathering of each input in backward.",
            ),
            (
                lambda tokens, h, t: layer(tokens, h, t, collectives=5),
                "That is forward or one half. Attention and MLP each have their collectives in "
                "forward and again in backward: ten in all.",
            ),
            (
                lambda tokens, h, t: layer(tokens, h, t, width=4),
                "Twice too much: activations of 16 bits have 2 bytes.",
            ),
            (
                lambda tokens, h, t: layer(tokens, h, t) / t,
                "What is sent is not divided by t again: every rank takes part in moving the "
                "whole tensor.",
            ),
        ),
        because="From 2 to 64 ranks it does not even double, while the computation of a rank falls "
        "32 times.",
    ),
    Exercise(
        "in-flight",
        answer=held,
        unit="GB",
        inputs=((80, 8, 32, 0), (80, 8, 32, 7), (80, 8, 2, 0), (80, 8, 32, 1)),
        mistakes=(
            (
                lambda whole, p, m, rank: whole / p,
                "That is one micro-batch. Under 1F1B a stage starts several before the first comes "
                "back.",
            ),
            (
                lambda whole, p, m, rank: whole / p * m,
                "That is GPipe, which sends all micro-batches forward first. 1F1B starts going "
                "backward as soon as it can.",
            ),
            (
                lambda whole, p, m, rank: whole / p * min(p, m),
                "Right for the first stage. Those after it wait less for their first gradient and "
                "hold fewer.",
            ),
            (
                lambda whole, p, m, rank: whole / p * (p - rank),
                "Nearly: there are never more in flight than the step has micro-batches.",
            ),
            (
                lambda whole, p, m, rank: whole / p * min(p - rank - 1, m),
                "One too few: the micro-batch that the stage turns around on is alive too.",
            ),
        ),
        because="80, 10, 20 and 70 GB: the first stage has an eighth of the layers of eight "
        "micro-batches.",
    ),
    Exercise(
        "stages",
        answer=efficiency,
        inputs=(([8, 8, 8, 8], 14), ([8, 8, 8, 10.5], 14), ([1, 1, 1, 2.5], 128)),
        mistakes=(
            (
                lambda seconds, m: m / (m + len(seconds) - 1),
                "Right for equal stages alone. Where one is slower, all others wait for it in "
                "every micro-batch.",
            ),
            (
                lambda seconds, m: sum(seconds) / len(seconds) / max(seconds),
                "That is the waiting for the slowest stage. Filling and draining the pipeline "
                "comes on top.",
            ),
            (
                lambda seconds, m: 1 - efficiency(seconds, m),
                "That is the idle share. The share of work is asked for.",
            ),
            (
                lambda seconds, m: len(seconds) * efficiency(seconds, m),
                "All GPUs are there for the whole step: divide by the number of stages too.",
            ),
        ),
        because="Equal stages lose to the bubble alone; where a stage is slow, no number of "
        "micro-batches makes up for it.",
    ),
)
