"""Case lab D, thirty-eight hours on an H100: answers and what each known mistake leads to."""

from dataclasses import replace
from math import prod

from ...experiments import load
from ...hardware import gpu
from ...parallel import communication
from ...run import Run
from ..exercise import Exercise

HOURS, PRICE, TWO = 38, 2.50, 5.00
SAVES, MINUTES = 28, 2
CLAIMS = {
    "batch and workers": (10, 15),
    "local disk": (20, 30),
    "half the saves": (5, 10),
    "compile": (20, 30),
    "tokens before": (5, 10),
}


def added(end: int) -> float:
    """Per cent that the claims save if they add, at their low (0) or high (1) ends."""
    return sum(claim[end] for claim in CLAIMS.values())


def compounded(end: int) -> float:
    """Per cent that they save if each takes its share of what the others have left."""
    return 100 * (1 - prod(1 - claim[end] / 100 for claim in CLAIMS.values()))


def saves(divisor: float = HOURS * 60):
    """Per cent of the time that saving takes, and that half as many would save."""
    share = 100 * SAVES * MINUTES / divisor
    return share, share / 2


def step(compute: float, load: float, workers: int) -> float:
    """Seconds of a step whose data takes `load` seconds of one process to prepare."""
    return compute + load if workers == 0 else max(compute, load / workers)


def stacked(size: str = "tokens_per_second"):
    """Speed-up of the whole stack, and the product of those of its changes alone."""
    rows = load("speed-up-stack").ok
    (plain,) = (row[size] for row in rows if row["kind"] == "plain")
    alone = [row[size] / plain for row in rows if row["kind"] == "alone"]
    last = [row[size] / plain for row in rows if row["kind"] == "stacked"][-1]
    return last, prod(alone)


def fair(low: float = 20, high: float = 24, before: float = 20, price: float = TWO):
    """Hours and dollars of two H100s with what makes one take `low` to `high` hours."""
    hours = [before * end / HOURS for end in (low, high)]
    return (*hours, *(end * price for end in hours))


def cards(column: str = "bf16"):
    """Peak of four A100s over that of an H100, and the MFU that 20 hours need over the H100's."""
    peak = 4 * gpu("a100-sxm-40gb").peak_flops(column) / gpu("h100-sxm").peak_flops(column)
    return peak, HOURS / 20 / peak


def sent(low: int = 0, high: int = 3) -> float:
    """Bytes that a rank sends at one ZeRO stage over those at another."""
    run = Run("llama-3.2-1b", sequence=2048, precision="bf16-master", data=4)
    return total(replace(run, zero=high)) / total(replace(run, zero=low))


def total(run: Run) -> float:
    moved = communication(run)
    return moved.all_reduce + moved.reduce_scatter + moved.all_gather


VERDICTS = {
    "batch and workers": "measure",
    "local disk": "measure",
    "half the saves": "falls",
    "compile": "measure",
    "37 to 58 % in all": "falls",
    "more GPUs save nothing": "falls",
}


def verdicts(**changed: str) -> dict[str, str]:
    return VERDICTS | {key.replace("_", " "): value for key, value in changed.items()}


EXERCISES = (
    Exercise(
        "total",
        answer=lambda: (*(100 * (1 - h / HOURS) for h in (24, 20)), compounded(0), compounded(1)),
        unit="%",
        mistakes=(
            (
                lambda: (*(100 * (1 - h / HOURS) for h in (24, 20)), added(0), added(1)),
                "The first two are right. A change takes its share of the time that the others "
                "have left: multiply what remains.",
            ),
            (
                lambda: (37, 58, compounded(0), compounded(1)),
                "37 to 58 % is what the memo says. Compute it from 38, 24 and 20 hours.",
            ),
            (
                lambda: (
                    *(100 * (HOURS / h - 1) for h in (24, 20)),
                    compounded(0),
                    compounded(1),
                ),
                "That is how much faster it becomes. How many per cent of the 38 hours are gone?",
            ),
        ),
        because="Three different totals, and the memo's 37 to 58 % is none of them.",
    ),
    Exercise(
        "saves",
        answer=saves,
        unit="%",
        mistakes=(
            (
                lambda: saves(HOURS),
                "Minutes over hours: bring both to the same unit.",
            ),
            (
                lambda: (saves()[0], saves()[0]),
                "Half of the saves remain.",
            ),
        ),
        because="The claim was 5 to 10 %. What takes 2.5 % cannot give back more.",
    ),
    Exercise(
        "overlap",
        answer=step,
        inputs=((1.0, 0.5, 0), (1.0, 3.0, 8), (1.0, 3.0, 2), (0.4, 2.0, 4)),
        mistakes=(
            (
                lambda compute, load, workers: compute + load / max(1, workers),
                "With workers the data is prepared while the GPU computes: the step takes the "
                "longer of the two, not their sum.",
            ),
            (
                lambda compute, load, workers: max(compute, load / max(1, workers)),
                "Without workers nothing runs beside the step: the times add.",
            ),
            (
                lambda compute, load, workers: (
                    compute + load if not workers else max(compute, load)
                ),
                "Several workers share the loading.",
            ),
        ),
        because="If the loader hides behind the step, a faster disk or ready tokens save nothing.",
    ),
    Exercise(
        "stack",
        answer=stacked,
        tolerance=0.02,
        mistakes=(
            (
                lambda: stacked()[::-1],
                "The measured stack first, then the product.",
            ),
            (
                lambda: (stacked()[0], 1 + sum_alone()),
                "The stack is right. This adds what each gains; multiply the speed-ups.",
            ),
            (
                lambda: tuple(1 / value for value in stacked("seconds")),
                "A step of more sequences takes longer: compare tokens per second.",
            ),
        ),
        because="They attack the same waits, so the second finds less to take.",
    ),
    Exercise(
        "fair",
        answer=fair,
        mistakes=(
            (
                lambda: (20, 24, 20 * TWO, 24 * TWO),
                "These are the hours of one tuned GPU. Two take 20 hours before they are tuned.",
            ),
            (
                lambda: (20, 20, 100, 100),
                "This is two GPUs without the changes: the comparison that the memo makes.",
            ),
            (
                lambda: fair(price=PRICE),
                "Two H100s cost $5.00 an hour.",
            ),
        ),
        because="The same dollars and half the wait: the price of waiting decides.",
    ),
    Exercise(
        "cards",
        answer=cards,
        mistakes=(
            (
                lambda: (cards()[0] / 4, HOURS / 20 / (cards()[0] / 4)),
                "There are four A100s.",
            ),
            (
                lambda: (cards()[0], HOURS / 20),
                "The peak is right. The 1.9 times are peak and MFU together: divide by the peak.",
            ),
            (
                lambda: (624 / 989 * 4, HOURS / 20 / (624 / 989 * 4)),
                "624 TFLOP/s is the A100's peak with sparsity.",
            ),
        ),
        because="Nobody said why an A100 should use its peak one and a half times as well.",
    ),
    Exercise(
        "sent",
        answer=sent,
        mistakes=(
            (
                1,
                "ZeRO-1 and 2 send as much as plain data parallelism. ZeRO-3 gathers the weights "
                "twice.",
            ),
            (
                lambda: 2,
                "An all-reduce is already a scatter and a gather: two parts become three.",
            ),
        ),
        because="Half as much again is sent, for memory that an 80 GB card did not lack.",
    ),
    Exercise(
        "verdict",
        answer=verdicts,
        mistakes=(
            (
                lambda: verdicts(half_the_saves="measure"),
                "No measurement is needed: saving takes 2.5 % of the time.",
            ),
            (
                lambda: verdicts(local_disk="falls"),
                "It falls only if the loader hides behind the step, and the memo does not say. "
                "Measure where the time goes first.",
            ),
            (
                lambda: verdicts(local_disk="stands", batch_and_workers="stands"),
                "A range without the waits behind it stands on nothing yet.",
            ),
            (
                lambda: verdicts(more_GPUs_save_nothing="stands"),
                "The comparison was of tuned against untuned.",
            ),
        ),
        because="Two totals and a save fall by arithmetic; the rest asks for one measurement.",
    ),
)


def sum_alone() -> float:
    """What the changes alone gain, added."""
    rows = load("speed-up-stack").ok
    (plain,) = (row["tokens_per_second"] for row in rows if row["kind"] == "plain")
    return sum(r["tokens_per_second"] / plain - 1 for r in rows if r["kind"] == "alone")
