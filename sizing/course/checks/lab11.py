"""Lab 11, time and money: what is right, and what each known mistake leads to."""

import math

from ...compute import six_nd
from ...hardware import gpu
from ...planning.costs import Cost, cost
from ...run import Run
from ...units import HOUR
from ..exercise import Exercise

# 1: DeepSeek-V3's last run (arXiv:2412.19437, table 1)
HOURS, COUNT, PRICE = 2.788e6, 2048, 2.0

# 2: the memo's 70 B model
SIZE, TOKENS, CARDS = 70.6e9, 1.4e12, 512
DENSE, SPARSE = 989e12, 1979e12

# 3: Llama 2 70B, hours and tokens as published (data/runs.csv)
LLAMA = (68_976_648_192, 2e12, 1_720_320)
GOODPUT = 0.9

# 4: shares of a step, and how many times quicker each change makes its own share
STEP = {"compute": 0.55, "loader": 0.30, "communication": 0.15}

# 5: three offers for the same run: (card, how many, dollars per GPU-hour)
OFFERS = {
    "A": ("h100-sxm", 8, 3.99),
    "B": ("a100-sxm-80gb", 8, 1.39),
    "C": ("h100-sxm", 16, 4.29),
}
DEADLINE, SEEN = 12.0, 50e9

# 6: a plan's terms
RAW = 9.0
TERMS = {"step": (0.95, 1.10), "restarts": (1.0, 1.2), "tokens": (1.0, 1.5)}


def bill(hours: float = HOURS, price: float = PRICE, count: float = COUNT):
    """Days without a pause, and millions of dollars."""
    return hours / count / 24, hours * price / 1e6


def days(flops: float, peak: float = DENSE, mfu: float = 0.4, share: float = GOODPUT) -> float:
    return flops / (CARDS * peak * mfu) / share / (24 * HOUR)


def utilisation(factor: float = 6, goodput: float = GOODPUT):
    """Per cent of the peak by the hours, and while steps were taken."""
    size, tokens, hours = LLAMA
    mfu = factor * size * tokens / (hours * HOUR * gpu("a100-sxm-80gb").peak_flops("bf16"))
    return 100 * mfu, 100 * mfu / goodput


def quicker(compute: float = 1.5, loader: float = 3.0, communication: float = 1.0) -> float:
    """How many times quicker the step becomes."""
    times = {"compute": compute, "loader": loader, "communication": communication}
    return 1 / sum(share / times[part] for part, share in STEP.items())


def candidates() -> dict[str, Cost]:
    """What each offer costs."""
    found = {}
    for name, (card, number, price) in OFFERS.items():
        run = Run(
            "llama-3.2-3b",
            sequence=4096,
            micro_batch=2,
            accumulation=128 // number,
            data=number,
            zero=3,
            precision="bf16-master",
            gradients="fp32",
            optimizer="adamw-fused",
        )
        found[name] = cost(run, card, SEEN, price)
    return found


def chosen(deadline: float = DEADLINE) -> str:
    """The least dollars of those that are ready at the high end of their band."""
    found = candidates()
    ready = [name for name, spent in found.items() if spent.days_band[1] <= deadline]
    return min(ready, key=lambda name: found[name].dollars)


def cheapest() -> str:
    """The least dollars of all."""
    found = candidates()
    return min(found, key=lambda name: found[name].dollars)


def budget(terms=TERMS, raw=RAW):
    """Days, low and high end, and the share of the width of the widest term."""
    low = raw * math.prod(ends[0] for ends in terms.values())
    high = raw * math.prod(ends[1] for ends in terms.values())
    widths = [math.log(ends[1] / ends[0]) for ends in terms.values()]
    return low, high, 100 * max(widths) / sum(widths)


def added(terms=TERMS, raw=RAW):
    """The same with deviations added instead of multiplied."""
    low = raw * (1 + sum(ends[0] - 1 for ends in terms.values()))
    high = raw * (1 + sum(ends[1] - 1 for ends in terms.values()))
    return low, high, budget(terms)[2]


FLOPS = six_nd(SIZE, TOKENS)
EXERCISES = (
    Exercise(
        "bill",
        answer=bill,
        tolerance=0.005,
        mistakes=(
            (
                lambda: (bill()[0], bill()[1] * 1e6),
                "The dollars are asked for in millions.",
            ),
            (
                lambda: (bill()[0] * 24, bill()[1]),
                "Those are hours of wall-clock time: 24 of them are a day.",
            ),
            (
                lambda: (HOURS / 24, bill()[1]),
                "Those are GPU-days. 2,048 GPUs work at the same time.",
            ),
            (
                lambda: (bill()[0], bill()[1] * COUNT),
                "GPU-hours count every GPU already: do not multiply by their number again.",
            ),
        ),
        because="Not a word in it of research, failed runs, staff or the cluster's other days.",
    ),
    Exercise(
        "memo",
        answer=lambda: days(FLOPS),
        unit="days",
        tolerance=0.02,
        mistakes=(
            (
                lambda: days(FLOPS, SPARSE, share=1.0),
                "That is the memo. Which peak does NVIDIA's footnote speak of? And a goodput of "
                "0.9 makes a run longer.",
            ),
            (
                lambda: days(FLOPS, SPARSE),
                "Goodput is in. The peak is still the sparse one: dense products have half of it.",
            ),
            (
                lambda: days(FLOPS, share=1.0),
                "The peak is right. What of the tenth of the time in which no step is taken?",
            ),
            (
                lambda: days(FLOPS, share=1 / GOODPUT),
                "You multiplied by the goodput: time that is lost makes the run longer, so divide.",
            ),
            (
                lambda: days(FLOPS / 3),
                "2 N D is the forward pass alone; training has the backward pass of twice that.",
            ),
            (
                lambda: days(FLOPS, share=GOODPUT, mfu=1.0),
                "That is at the peak: the memo's 40 % MFU was right to be there.",
            ),
        ),
        because="Two errors in one direction: the sparse peak halves the days, and the goodput was "
        "left out.",
    ),
    Exercise(
        "implied",
        answer=utilisation,
        tolerance=0.01,
        mistakes=(
            (
                lambda: tuple(value / 100 for value in utilisation()),
                "The right shares, but asked for in per cent.",
            ),
            (
                lambda: (utilisation()[0], utilisation()[0] * GOODPUT),
                "Fewer hours for the same FLOPs: while steps were taken, the utilisation was "
                "higher than the hours say. Divide by the goodput.",
            ),
            (
                lambda: utilisation(2),
                "2 N D is the forward pass alone; training has 6.",
            ),
            (
                lambda: utilisation(8),
                "8 N D counts a recomputed forward pass: that is hardware utilisation, HFU.",
            ),
            (
                lambda: tuple(value * 312 / 989 for value in utilisation()),
                "That is held against an H100's peak. These were A100s, 312 TFLOP/s.",
            ),
        ),
        because="The hours say 43 %: what an engine reaches and what the calendar leaves of it are "
        "two numbers, and a plan needs both.",
    ),
    Exercise(
        "together",
        answer=quicker,
        unit="times",
        tolerance=0.01,
        mistakes=(
            (
                lambda: 1.5 * 3.0,
                "You multiplied them as if each made the whole step quicker. Each acts on its own "
                "share of the time.",
            ),
            (
                lambda: STEP["compute"] * 1.5 + STEP["loader"] * 3 + STEP["communication"],
                "You averaged speeds. Times add up: divide each share by its factor, and only then "
                "take one over the sum.",
            ),
            (
                lambda: 1 / quicker(),
                "That is the time that is left, as a share. Asked for is how many times quicker.",
            ),
            (
                lambda: quicker(loader=1.0),
                "The loader's wait becomes shorter, too.",
            ),
            (
                lambda: quicker(1.5, 3.0, 1.5),
                "Communication does not become quicker with compute.",
            ),
            (
                lambda: quicker(compute=1.0),
                "Compute becomes quicker, too.",
            ),
        ),
        because="And never more than what would be left without any compute and loader: 1 / 0.15.",
    ),
    Exercise(
        "offer",
        answer=chosen,
        mistakes=(
            (
                cheapest,
                "The least dollars, and in time by the prediction. Look at the high end of its "
                "days: nobody should promise that date.",
            ),
            (
                lambda: next(name for name in OFFERS if name not in (chosen(), cheapest())),
                "That one is ready for sure. So is another one, for fewer dollars.",
            ),
        ),
        because="Choose by the end of the band that hurts, and pay for it knowingly.",
    ),
    Exercise(
        "budget",
        answer=budget,
        tolerance=0.01,
        mistakes=(
            (
                added,
                "You added the deviations. Factors on the same days multiply.",
            ),
            (
                lambda: (
                    *budget()[:2],
                    100 * 0.5 / (0.15 + 0.2 + 0.5),
                ),
                "The ends are right. The share is asked for of the logarithms: widths of factors "
                "add up only there.",
            ),
            (
                lambda: (*budget()[:2], budget()[2] / 100),
                "The share is asked for in per cent.",
            ),
            (
                lambda: (
                    RAW * min(low for low, _ in TERMS.values()),
                    RAW * max(high for _, high in TERMS.values()),
                    budget()[2],
                ),
                "That is the widest term alone. The others can go wrong on the same day.",
            ),
        ),
        because="The widest term is a decision and not physics: fix the tokens, and the band is "
        "half as wide.",
    ),
)
