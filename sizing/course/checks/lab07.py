"""Lab 07, batch and recompute: what is right, and what each known mistake leads to."""

from ..exercise import Exercise

PALM = ((50e3, 512), (65e3, 1024), (140e3, 2048))  # steps, sequences a step (arXiv:2204.02311)
SECONDS = {"full": 94.42, "selective": 71.49}  # 1T, arXiv:2205.05198, table 5
MFU = 56.3


def shares(stages=PALM):
    """(% of the steps, % of the tokens) of the first stage."""
    steps = sum(n for n, _ in stages)
    sequences = sum(n * b for n, b in stages)
    first, batch = stages[0]
    return 100 * first / steps, 100 * first * batch / sequences


def too_heavy(counts):
    return sum(counts) / (len(counts) * min(counts))


def utilisation(mfu=None, factor=4 / 3):
    mfu = MFU * SECONDS["selective"] / SECONDS["full"] if mfu is None else mfu
    return mfu, mfu * factor


def speed_up(noise, small, large):
    return (1 + noise / small) / (1 + noise / large)


def more_examples(noise, small, large):
    return (1 + large / noise) / (1 + small / noise)


def segments(layers, kept, available):
    """The fewest segments that fit."""
    for k in range(1, layers + 1):
        if k + layers / k * kept <= available:
            return k
    return 0


EXERCISES = (
    Exercise(
        "ramp",
        answer=shares,
        unit="%",
        mistakes=(
            (
                lambda: (100 * 50 / 255, 100 * 50 / 255),
                "The steps are right. A step of the first stage holds a quarter of the last "
                "stage's tokens, so its share of the tokens is smaller.",
            ),
            (lambda: shares()[::-1], "The two are swapped: the steps come first."),
            (
                lambda: shares(((50e3, 512), (115e3, 1024), (255e3, 2048))),
                "The paper says *until* step 115k and 255k: the second stage has 65k steps and "
                "the third 140k.",
            ),
            (
                lambda: tuple(share / 100 for share in shares()),
                "Right, as fractions. Per cent is asked for.",
            ),
        ),
        because="A fifth of the steps for a fifteenth of the tokens: small batches early are "
        "cheap in tokens, dear in steps.",
    ),
    Exercise(
        "weights",
        answer=too_heavy,
        inputs=(([1, 3],), ([512, 512],), ([100, 900, 2000],)),
        mistakes=(
            (
                lambda counts: 1 / too_heavy(counts),
                "Upside down: a token of a short micro-batch weighs more, not less.",
            ),
            (
                lambda counts: max(counts) / min(counts),
                "That compares the shortest micro-batch with the longest. Compare with the right "
                "weight, one over all tokens.",
            ),
            (
                lambda counts: sum(counts) / min(counts),
                "You left out the mean over the micro-batches: each of them also counts only one "
                "part in `len(counts)`.",
            ),
            (
                lambda counts: 1.0,
                "Only for equal counts. The mean of means gives every micro-batch, not every "
                "token, the same weight.",
            ),
        ),
        because="2, 1 and 10. With equal counts both are the same, and no test on packed "
        "sequences would find the bug.",
    ),
    Exercise(
        "utilisation",
        answer=utilisation,
        unit="%",
        tolerance=0.004,  # the right HFU and the other run's MFU are 1 % apart
        mistakes=(
            (
                lambda: utilisation(MFU * SECONDS["full"] / SECONDS["selective"]),
                "Upside down: the slower step does the same model FLOPs in more time, so its MFU "
                "is lower.",
            ),
            (
                lambda: (utilisation()[0], MFU),
                "The MFU is right. The HFU counts the repeated forward as well: 4/3 of the model "
                "FLOPs in the same seconds.",
            ),
            (
                lambda: (utilisation()[0],) * 2,
                "The MFU is right. The HFU counts what is executed: with full recompute 4/3 as "
                "much.",
            ),
            (
                lambda: utilisation(factor=3 / 4),
                "The MFU is right. Recompute executes more than the model needs: multiply by 4/3.",
            ),
        ),
        because="The HFU is that of the faster run, 57.0 %, within a per cent: the GPUs were as "
        "busy, a quarter of it with repeating.",
    ),
    Exercise(
        "speed",
        answer=speed_up,
        inputs=((1e6, 1e5, 2e5), (1e6, 1e6, 2e6), (1e6, 1e7, 2e7)),
        mistakes=(
            (
                lambda noise, small, large: large / small,
                "That is perfect scaling. It holds only while both are far below the noise scale.",
            ),
            (
                lambda noise, small, large: 1 / speed_up(noise, small, large),
                "Upside down: fewer steps with the larger batch, so the ratio is above 1.",
            ),
            (
                more_examples,
                "That is how many more *examples* the larger batch needs. Steps are asked for.",
            ),
        ),
        because="1.83, 1.33 and 1.05 for twice the batch: nearly free below the noise scale, "
        "nearly useless above it.",
    ),
    Exercise(
        "segments",
        answer=segments,
        tolerance=0,
        inputs=((32, 24, 800), (32, 24, 100), (32, 24, 50)),
        mistakes=(
            (
                lambda layers, kept, available: round((layers * kept) ** 0.5),
                "That needs the least memory. Fewer segments may fit as well.",
            ),
            (
                lambda layers, kept, available: layers,
                "A segment a layer is what transformers does. Fewer may fit as well.",
            ),
            (
                lambda layers, kept, available: next(
                    (k for k in range(1, layers + 1) if layers / k * kept <= available), 0
                ),
                "Nearly: the inputs of the segments take memory too, one each.",
            ),
        ),
        because="1, 9 and 0: below 2 √(layers x kept) no number of segments fits.",
    ),
)
