"""Lab 07, batch and recompute: what is right, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache

from ...footprint import memory
from ...run import Run
from ...speed import step_time
from ..exercise import Exercise

PALM = ((50e3, 512), (65e3, 1024), (140e3, 2048))  # steps, sequences a step (arXiv:2204.02311)
SECONDS = {"full": 94.42, "selective": 71.49}  # 1T, arXiv:2205.05198, table 5
MFU = 56.3
LOOPS = {  # weight of a token: of its micro-batch's tokens, their number, all tokens, the longest
    "A": lambda own, m, whole, longest: 1 / own / m,
    "B": lambda own, m, whole, longest: 1 / whole,
    "C": lambda own, m, whole, longest: 1 / own,
    "D": lambda own, m, whole, longest: 1 / own * own / whole,
    "E": lambda own, m, whole, longest: 1 / (m * longest),
}
LOG = Run("llama-3.2-1b", sequence=4096, optimizer="adamw-fused")
PEAK = 55.8e9  # what the log of exercise 3 says
TWO_RUNS = ((0.5, 40_000), (2.0, 16_000))  # M tokens per step, steps to the same loss
PLANS = {  # ZeRO stage, micro-batch, recompute
    "A": (1, 1, "none"),
    "B": (1, 1, "selective"),
    "C": (1, 1, "full"),
    "D": (2, 1, "none"),
    "E": (3, 2, "selective"),
    "F": (3, 2, "none"),
}


def shares(stages=PALM):
    """(% of the steps, % of the tokens) of the first stage."""
    steps = sum(n for n, _ in stages)
    sequences = sum(n * b for n, b in stages)
    first, batch = stages[0]
    return 100 * first / steps, 100 * first * batch / sequences


def is_right(loop, counts):
    """Whether a loop gives each token of these micro-batches one over all tokens as weight."""
    given = (len(counts), sum(counts), max(counts))
    return all(abs(loop(own, *given) * sum(counts) - 1) < 1e-12 for own in counts)


def loops(**said):
    """When each loop is right; `said` replaces some verdicts, for a known mistake."""
    found = {}
    for name, loop in LOOPS.items():
        equal = "equal counts" if is_right(loop, [2, 2]) else "never"
        found[name] = "always" if is_right(loop, [1, 3]) else equal
    return found | said


def at(micro_batch, recompute):
    """The peak of the logged run, bytes, for one way to run it."""
    run = replace(LOG, micro_batch=micro_batch, accumulation=16 // micro_batch)
    return memory(replace(run, recompute=recompute)).total


@cache
def logged():
    """(micro-batch, recompute): the one way within half a per cent of the reading."""
    ways = [(size, how) for size in (1, 2, 4, 8, 16) for how in ("none", "selective", "full")]
    near = [way for way in ways if abs(at(*way) / PEAK - 1) < 0.005]
    (found,) = near  # one reading, one answer
    return found


def nearest(recompute):
    """The micro-batch whose peak is nearest, if one never doubts the recompute."""
    return min((1, 2, 4, 8, 16), key=lambda size: abs(at(size, recompute) / PEAK - 1)), recompute


def claim(mfu=None, factor=4 / 3):
    """(HFU, MFU, per cent fewer tokens) with full recompute."""
    mfu = MFU * SECONDS["selective"] / SECONDS["full"] if mfu is None else mfu
    return mfu * factor, mfu, 100 * (1 - SECONDS["selective"] / SECONDS["full"])


def noise(batch=8.0):
    """(noise scale in M tokens, steps at a batch) through both runs."""
    (small, many), (large, few) = TWO_RUNS
    product = (many - few) / (1 / small - 1 / large)  # least steps x noise scale
    least = many - product / small
    return product / least, least + product / batch


@cache
def plans():
    """{letter: (verdict on an H100, tokens/s)}."""
    base = Run(
        "llama-3.1-8b", sequence=4096, precision="bf16-master", optimizer="adamw-fused", data=8
    )
    found = {}
    for letter, (stage, size, recompute) in PLANS.items():
        run = replace(base, zero=stage, micro_batch=size, accumulation=16 // size)
        run = replace(run, recompute=recompute)
        found[letter] = memory(run).on("h100-sxm").verdict, run.tokens / step_time(run).total
    return found


def chosen(verdicts=("fits",), letter=None):
    """(fastest letter of those verdicts, per cent that the fastest of the others promises)."""
    found = plans()
    safe = {name: speed for name, (verdict, speed) in found.items() if verdict in verdicts}
    letter = letter or max(safe, key=safe.get)
    others = max(speed for verdict, speed in found.values() if verdict != "fits")
    return letter, 100 * (others / found[letter][1] - 1)


EXERCISES = (
    Exercise(
        "ramp",
        answer=shares,
        unit="%",
        mistakes=(
            (
                lambda: (shares()[0],) * 2,
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
            (
                lambda: (..., 100 * 512 / (512 + 1024 + 2048)),
                "The second is the batch's share of three sizes. A stage's tokens are its steps x"
                " its sequences.",
            ),
        ),
        because="A fifth of the steps for a fifteenth of the tokens: small batches early are "
        "cheap in tokens, dear in steps.",
    ),
    Exercise(
        "loops",
        answer=loops,
        mistakes=(
            (
                lambda: loops(A="always"),
                "A is the bug of the lesson: with counts [1, 3] the lone token weighs 1/2 and "
                "should weigh 1/4.",
            ),
            (
                lambda: loops(D="equal counts"),
                "D multiplies the mean by `own`, which gives back the sum: it is B, written "
                "another way.",
            ),
            (
                lambda: loops(E="always"),
                "E divides by m x longest, which is all tokens only if none is padding.",
            ),
            (
                lambda: loops(E="never"),
                "With equal counts m x longest is the number of all tokens: E is right there.",
            ),
            (
                lambda: loops(C="equal counts"),
                "C adds m means and divides by nothing: with equal counts it is m times too large.",
            ),
            (
                lambda: dict.fromkeys(LOOPS, "equal counts") | {"B": "always"},
                "Work out the weight of one token in C and in D with counts [1, 3] before you "
                "answer.",
            ),
            (
                dict.fromkeys(LOOPS, ...) | {"A": "never"},
                "A is right where all counts are equal: then own x m are all tokens.",
            ),
            (
                dict.fromkeys(LOOPS, ...) | {"B": "never"},
                "B gives each token the weight 1 / all_tokens. Is that not what is wanted?",
            ),
            (
                dict.fromkeys(LOOPS, ...) | {"B": "equal counts"},
                "B divides by all tokens, counted once: the counts of single micro-batches play "
                "no part.",
            ),
            (
                dict.fromkeys(LOOPS, ...) | {"C": "always"},
                "C adds m means. With two micro-batches of two tokens each token weighs 1/2, and "
                "should weigh 1/4.",
            ),
            (
                dict.fromkeys(LOOPS, ...) | {"D": "never"},
                "D is a mean, times its tokens, over all tokens. Write the weight of one token.",
            ),
        ),
        choices=("always", "equal counts", "never"),
        because="A weight of one over all tokens, for every token: that is the whole test.",
    ),
    Exercise(
        "log",
        answer=logged,
        tolerance=0,
        mistakes=(
            (
                lambda: nearest("none"),
                "That is the nearest without recompute, and it is some per cent off. Nothing says "
                "that recompute was off.",
            ),
            (
                (16, ...),
                "16 is the number of sequences per step, of which some wait for their turn.",
            ),
            (
                (..., "none"),
                "Without recompute no micro-batch comes near 55.8 GB. The log does not say that "
                "it was off.",
            ),
            (
                (..., "full"),
                "With full recompute no micro-batch comes near 55.8 GB. There is a choice between"
                " none and full.",
            ),
            (
                (2, "selective"),
                "The recompute is right. Two sequences need much less than the log says.",
            ),
            (
                (8, "selective"),
                "The recompute is right. Eight sequences need much more than the log says.",
            ),
        ),
        because="One reading and sixteen sequences leave one pair.",
    ),
    Exercise(
        "claim",
        answer=claim,
        unit="%",
        tolerance=0.004,  # the right HFU and the other run's MFU are 1 % apart
        mistakes=(
            (
                lambda: claim(MFU * SECONDS["full"] / SECONDS["selective"]),
                "Upside down: the slower step does the same model FLOPs in more time, so its MFU "
                "is lower.",
            ),
            (
                lambda: (MFU, *claim()[1:]),
                "The HFU counts the repeated forward as well: 4/3 of the model FLOPs in the same "
                "seconds. 56.3 % is the other run's MFU.",
            ),
            (
                lambda: claim(factor=1),
                "The MFU is right. The HFU counts what is executed: with full recompute 4/3 as "
                "much.",
            ),
            (
                lambda: claim(factor=3 / 4),
                "The MFU is right. Recompute executes more than the model needs: multiply by 4/3.",
            ),
            (
                lambda: (*claim()[:2], 100 * (SECONDS["full"] / SECONDS["selective"] - 1)),
                "The last is how much longer a step takes. Tokens per second are the inverse: "
                "1 - 71.49 / 94.42.",
            ),
            (
                lambda: (claim()[1], claim()[0], claim()[2]),
                "The first two are swapped: the HFU is the larger one and comes first.",
            ),
            (
                (..., MFU, ...),
                "56.3 % is the MFU with selective recompute. The same FLOPs of the model take "
                "longer here.",
            ),
            (
                lambda: (..., ..., claim()[2] / 100),
                "The last as a fraction. Per cent is asked for.",
            ),
            (
                lambda: (..., ..., 100 - claim()[2]),
                "The last is what is left of the tokens per second. By how many are they fewer?",
            ),
        ),
        because="As busy, and a quarter of it with repeating: HFU hides what MFU shows.",
    ),
    Exercise(
        "noise",
        answer=noise,
        mistakes=(
            (
                lambda: (noise()[0], TWO_RUNS[1][1] / 4),
                "The noise scale is right. Four times the batch is a quarter of the steps only far "
                "below it, and 8 M tokens lie above.",
            ),
            (
                lambda: (noise()[0], TWO_RUNS[1][1] / 2.5),
                "The noise scale is right. The second fourfold batch saves less than the first: "
                "use the law, least x (1 + noise / batch).",
            ),
            (
                lambda: (1 / noise()[0], noise()[1]),
                "The steps are right. The noise scale stands above the batch in noise / batch: "
                "you gave its inverse.",
            ),
            (
                lambda: (noise()[0] * 1e6, noise()[1]),
                "Right, in tokens. The noise scale is asked for in million tokens.",
            ),
            (
                (..., 8_000),
                "8,000 are the least steps, those of an endless batch. A batch of 8 M tokens "
                "still needs more.",
            ),
            (
                (8, ...),
                "8 M tokens are the batch that is asked about, not the noise scale.",
            ),
            (
                lambda: (-noise()[0], ...),
                "A noise scale is positive. The smaller batch needs more steps: check the sign of"
                " your difference.",
            ),
        ),
        because="Above the noise scale a batch buys little: two runs were enough to know it.",
    ),
    Exercise(
        "plans",
        answer=chosen,
        tolerance=0.02,
        mistakes=(
            (
                ("A", ...),
                "A does not fit: whole weights and gradients, and all activations.",
            ),
            (
                ("F", ...),
                "F is tight: nobody will restart it when it fails.",
            ),
            (
                ("B", ...),
                "B is tight, and slower than a plan that fits.",
            ),
            (
                ("C", ...),
                "C fits and makes everything again. Is there a faster one that fits?",
            ),
            (
                ("E", ...),
                "E fits, makes activations again and gathers all weights for every micro-batch. "
                "Compare its speed with that of D.",
            ),
            (
                lambda: (chosen()[0], 100 * (1 - 1 / (1 + chosen()[1] / 100))),
                "The plan is right. You gave by how much it is slower than the other: asked is "
                "how much more the other promises.",
            ),
            (
                lambda: (chosen()[0], chosen()[1] / 100),
                "The plan is right; the second is asked for in per cent.",
            ),
        ),
        choices=tuple(PLANS),
        because="Dividing more is here cheaper than making activations again.",
    ),
)
