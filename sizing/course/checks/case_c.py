"""Case lab C, the laptop that runs out at 24 %: answers and what each known mistake leads to."""

from functools import cache

from ...architecture.model import Model
from ...footprint.step import memory
from ...hardware import gpu
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise
from ..memos import exercise

VOCAB, PARAMETERS = 262_144, 341.8e6
LENGTHS = (128, 192, 256, 320, 384)
REPORTED = (19.6, 20.5, 22.4, 23.1, 24.2)


def line(lengths=LENGTHS, reported=REPORTED):
    """Least squares: (slope, intercept)."""
    n = len(lengths)
    x, y = sum(lengths) / n, sum(reported) / n
    slope = sum((a - x) * (b - y) for a, b in zip(lengths, reported, strict=True)) / sum(
        (a - x) ** 2 for a in lengths
    )
    return slope, y - slope * x


def curve():
    slope, start = line()
    return slope * 448 + start, (100 - start) / slope


def through_the_ends():
    slope = (REPORTED[-1] - REPORTED[0]) / (LENGTHS[-1] - LENGTHS[0])
    return REPORTED[-1] + slope * 64, LENGTHS[-1] + (100 - REPORTED[-1]) / slope


def proportional():
    return REPORTED[-1] * 448 / 384, 384 * 100 / REPORTED[-1]


def logits(unit=GB, width=4, batch=16):
    return tuple(batch * s * VOCAB * width / unit for s in (384, 448))


@cache
def largest(optimizer="adamw-fused", precision="bf16", limit=None):
    """The largest micro-batch of 128 tokens, a power of two, that fits the laptop."""
    wider = Model("gemma-3-270m").replace(hidden_size=768, num_hidden_layers=21)
    available = limit or gpu("rtx-4070-laptop").memory
    fitting = [
        b
        for b in (1, 2, 4, 8, 16, 32)
        if memory(
            Run(
                wider,
                sequence=128,
                micro_batch=b,
                accumulation=2,
                precision=precision,
                optimizer=optimizer,
                recompute="full",
            )
        ).total
        <= available
    ]
    return max(fitting)


EXERCISES = (
    Exercise(
        "tokens",
        answer=(131_072, 262_144, 393_216),
        unit="tokens",
        tolerance=0,
        mistakes=(
            (
                (1024, 1024, 1024),
                "These are sequences. A sequence of 384 tokens holds three times the predictions "
                "of one of 128.",
            ),
            (
                (4096, 4096, 6144),
                "These are the tokens of one micro-batch. The optimizer steps after all 1024 "
                "sequences.",
            ),
            (
                (128, 256, 384),
                "These are the tokens of one sequence; 1024 of them go into a step.",
            ),
            (
                lambda: (1024 * 128,) * 3,
                "That is the first for all three. The sequences have other lengths.",
            ),
            (
                lambda: (4096 * 64, 4096 * 64, 6144 * 64),
                "Accumulation 64 belongs to micro-batch 16. The effective batch is 1024 sequences"
                " in each row.",
            ),
        ),
        because="The 'same' batch grew threefold.",
    ),
    Exercise(
        "curve",
        answer=curve,
        mistakes=(
            (
                through_the_ends,
                "This line runs through the first and the last reading only. Least squares uses "
                "all five: np.polyfit(lengths, reported, 1).",
            ),
            (
                proportional,
                "This scales the last reading by the length, as if nothing were there at length "
                "0. The readings start near 17 %.",
            ),
            (
                lambda: (curve()[0], 448 * 100 / curve()[0]),
                "The first is right. For the second solve slope x s + intercept = 100; the "
                "intercept does not grow with s.",
            ),
            (
                (..., 448),
                "448 is where it failed. The line reaches 100 % much later.",
            ),
            (
                (..., 384),
                "384 is the last reading. The line reaches 100 % much later.",
            ),
            (
                (0.255, ...),
                "The first as a fraction. Per cent is asked for.",
            ),
        ),
        because="A smooth curve gives 25.5 % at 448, so the failure there is no part of it.",
    ),
    Exercise(
        "logits",
        answer=logits,
        unit="GB",
        mistakes=(
            (
                lambda: logits(GIB),
                "That is in GiB. A GB is 1e9 bytes.",
            ),
            (
                lambda: logits(width=2),
                "That is a bf16 copy. The loss is computed in fp32, 4 bytes per logit.",
            ),
            (
                lambda: logits(batch=1),
                "That is one sequence. A micro-batch holds 16.",
            ),
            (
                lambda: tuple(12 * 16 * s * 262144 / 1e9 for s in (384, 448)),
                "That is the peak of a library's loss, 12 bytes per logit. One fp32 copy is asked"
                " for.",
            ),
            (
                lambda: tuple(8 * 16 * s * 262144 / 1e9 for s in (384, 448)),
                "Two copies, or 8 bytes per logit. One fp32 copy has 4.",
            ),
            (
                lambda: tuple(16 * s * 262144 / 1e9 for s in (384, 448)),
                "One byte per logit. fp32 has 4.",
            ),
            (
                lambda: tuple(4 * 16 * s * 262144 / 1e6 for s in (384, 448)),
                "Right, in MB. GB are asked for.",
            ),
        ),
        because="One copy alone is most of the card.",
    ),
    Exercise(
        "floor",
        answer=(8 * PARAMETERS / GB, 16 * PARAMETERS / GB),
        unit="GB",
        mistakes=(
            (
                (6 * PARAMETERS / GB, 12 * PARAMETERS / GB),
                "These lack the gradients, or one of AdamW's two moments: weights, gradients, "
                "first and second moment are four copies.",
            ),
            (
                (8 * PARAMETERS / GIB, 16 * PARAMETERS / GIB),
                "That is in GiB. A GB is 1e9 bytes.",
            ),
            (
                (4 * PARAMETERS / GB, 8 * PARAMETERS / GB),
                "These are weights and gradients alone. AdamW keeps two moments more.",
            ),
            (
                (2 * PARAMETERS / GB, 4 * PARAMETERS / GB),
                "These are the weights alone: what loading takes, not training.",
            ),
            (
                lambda: (4 * 341.8e6 / 1e9, ...),
                "The first is weights and gradients alone. Two moments are missing.",
            ),
            (
                lambda: (..., 12 * 341.8e6 / 1e9),
                "The second has one moment or the gradients missing: weights, gradients and two "
                "moments in fp32 are 16 bytes.",
            ),
            (
                lambda: (..., 18 * 341.8e6 / 1e9),
                "18 bytes are weights in bf16 with a master copy and fp32 gradients. In "
                "bf16-mixed it is 4 + 4 + 8.",
            ),
            (
                lambda: (5.4688, 2.7344),
                "The two are swapped.",
            ),
        ),
        because="1.9 GB lies below both: it cannot be a training peak.",
    ),
    Exercise(
        "model",
        answer="wider",
        mistakes=(
            (
                "untied",
                "An untied head adds a second table of 262,144 x 640: 435.9 M in all.",
            ),
            (
                "deeper",
                "27 layers give 318.3 M: a layer of this model holds 5.6 M, and 73.7 M are "
                "missing.",
            ),
        ),
        because="341,780,736. It is a guess that fits, and other shapes fit too.",
    ),
    Exercise(
        "fits",
        answer=largest,
        tolerance=0,
        mistakes=(
            (
                lambda: 16,
                "sizing.memory says 9.3 GB for 16: more than the card's 8.59 GB.",
            ),
            (
                lambda: 32,
                "This is the memo's setting. sizing.memory says 15.8 GB for it.",
            ),
            (
                lambda: 4,
                "This fits, but it is not the largest: try the next power of two.",
            ),
            (
                1024,
                "1024 is the effective batch. The micro-batch is what is on the card at once.",
            ),
            (
                2,
                "2 fits, but it is not the largest.",
            ),
        ),
        because="None of the memo's settings fits with this loss.",
    ),
    Exercise(
        "chunks",
        answer=True,
        mistakes=(
            (
                False,
                "The gradients differ. Does each part's loss add its share of the average over "
                "all tokens: a sum over the part, divided by len(labels)?",
            ),
        ),
        because="The same gradients from an eighth of the logits at a time.",
    ),
    exercise("case_c"),
)
