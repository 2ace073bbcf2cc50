"""Lab 10, storage and failure: what is right, and what each known mistake leads to."""

import math
import re

from ...architecture.model import Model
from ...planning.storage import checkpoint, saving
from ...run import Run
from ...units import GB, GIB, HOUR
from ..exercise import Exercise

# 1: what a recipe writes
SMALL = Model("qwen3-4b").parameters.total

# 3: the memo, and what should stand in it
LARGE = Model("olmo-2-13b")
TOKENS, KEPT = 300e9, 3

# 4: an interval that somebody chose, and failures that came
STALL, CHOSEN, FAILED = 30.0, 40 * 60.0, 4 * HOUR

# 5: three offers of storage: (bytes/s, asynchronous, dollars per hour)
OFFERS = {"A": (5 * GB, False, 20.0), "B": (40 * GB, False, 150.0), "C": (5 * GB, True, 120.0)}
GPUS, GPU_PRICE, GPU_HOURS, RESTART = 1024, 3.0, 50_677.0, 600.0


def whole(precision: str) -> float:
    """GB of a checkpoint of the small model with AdamW."""
    run = Run("qwen3-4b", sequence=4096, precision=precision, optimizer="adamw-fused")
    return checkpoint(run, "safetensors").total / GB


def memo(width: float = 4, per: float = 14, folders: int = KEPT + 1, waiting: float = 0.5):
    """TB of tokens, GB of a checkpoint, GB of all, per cent of the time that the GPUs wait."""
    size = per * LARGE.parameters.total / GB
    return (width * TOKENS / 1e12, size, folders * size, 100 * waiting)


def lost(interval: float, mtbf: float, save: float = STALL) -> float:
    """Share of the time that is lost, to first order."""
    return save / interval + interval / (2 * mtbf)


def chosen(factor: float = 2.0) -> tuple[float, float]:
    """Hours between failures that the interval assumes; points lost beyond the best one."""
    best = math.sqrt(2 * STALL * FAILED)
    return CHOSEN**2 / (factor * STALL) / HOUR, 100 * (lost(CHOSEN, FAILED) - lost(best, FAILED))


def offers(mtbf: float = GPU_HOURS / GPUS * HOUR, restart: float = RESTART, rent: bool = True):
    """Dollars per hour that each offer costs: GPUs that lose their time, and its rent."""
    size = 14 * Model("llama-3.1-70b").parameters.total
    found = {}
    for name, (disk, beside, price) in OFFERS.items():
        plan = saving(size, mtbf, disk=disk, gpus=GPUS, asynchronous=beside, restart=restart)
        found[name] = plan.lost * GPUS * GPU_PRICE + price * rent
    return found


def newest(folders):
    """The folder with the highest step among those that hold `.metadata`; None without one."""
    whole = [name for name, files in folders.items() if ".metadata" in files]
    return max(whole, key=lambda name: int(re.search(r"\d+", name)[0]), default="none")


def newest_by_name(folders):
    return max((n for n, files in folders.items() if ".metadata" in files), default="none")


def newest_of_all(folders):
    return max(folders, key=lambda name: int(re.search(r"\d+", name)[0]))


def largest(folders):
    return max(folders, key=lambda name: len(folders[name]))


BOTH = ["__0_0.distcp", "__1_0.distcp"]
EXERCISES = (
    Exercise(
        "size",
        answer=lambda: whole("bf16-mixed"),
        unit="GB",
        tolerance=0.005,
        mistakes=(
            (
                lambda: 14 * SMALL / GB,
                "That is the recipe with bf16 weights and fp32 masters. Under autocast the "
                "weights themselves are fp32, and their bf16 copies live only inside a step.",
            ),
            (
                lambda: 16 * SMALL / GB,
                "Gradients are counted, or bf16 copies beside fp32 masters and gradients. A "
                "step makes its gradients anew: they are not saved.",
            ),
            (
                lambda: 4 * SMALL / GB,
                "That is the weights alone: enough to use the model, not to go on training.",
            ),
            (
                lambda: 6 * SMALL / GB,
                "That is bf16 for all three. Here weights and both moments are fp32.",
            ),
            (
                lambda: whole("bf16-mixed") * GB / GIB,
                "The right bytes, in GiB: GB are asked for, 10^9 bytes.",
            ),
        ),
        because="Weights and two moments of four bytes each.",
    ),
    Exercise(
        "whose",
        answer=("bf16-master", "muon"),
        mistakes=(
            (
                ("bf16-master", "adamw-fused"),
                "AdamW keeps two moments of every weight: with masters the second file would have "
                "12 bytes per parameter.",
            ),
            (
                ("bf16-master", "lion"),
                "Near: Lion has one moment for every weight, so exactly 8.0 bytes per parameter "
                "in the second file. Something has two moments here.",
            ),
            (
                ("bf16-master", "adamw-8bit"),
                "Two moments of a byte each and fp32 masters would be 6.0 in the second file.",
            ),
            (
                ("bf16", "adamw-fused"),
                "Without masters and with bf16 moments the second file would have 4 bytes.",
            ),
            (
                ("bf16", "muon"),
                "The second file holds more than moments can be: there are masters in it.",
            ),
            (
                ("bf16-mixed", "muon"),
                "Look at the first file: how many bytes per parameter does it have? Under "
                "autocast the weights are fp32.",
            ),
            (
                ("bf16-mixed", "adamw-fused"),
                "Look at the first file: how many bytes per parameter does it have? And AdamW "
                "under autocast would have 8 in the second.",
            ),
            (
                ("fp32", "adamw-fused"),
                "Look at the first file: fp32 weights would have 4 bytes per parameter.",
            ),
        ),
        because="4 bytes of masters, 4 of momentum, and 4 more for the embedding alone, which Muon "
        "leaves to AdamW: the remainder counts it.",
    ),
    Exercise(
        "memo",
        answer=memo,
        tolerance=0.01,
        mistakes=(
            (
                lambda: memo(2, 14, KEPT + 1, 0.0),
                "That is the memo as it stands. At least one line is wrong: divide a vocabulary by "
                "2^16, and ask what the GPUs do while the disk writes.",
            ),
            (
                lambda: memo(2),
                "Saving is right. The vocabulary does not fit 16 bits: how wide is a token?",
            ),
            (
                lambda: memo(waiting=0.0),
                "The tokens are right. A disk that needs as long for a checkpoint as lies between "
                "two of them keeps up, but synchronous saves stop the GPUs all that while.",
            ),
            (
                lambda: memo(waiting=1.0),
                "The GPUs do work: half an hour of it, then half an hour of saving.",
            ),
            (
                lambda: memo(per=12),
                "The memo's 14 bytes per parameter are right: 2 + 4 + 8.",
            ),
            (
                lambda: memo(per=16),
                "The memo's 14 bytes per parameter are right: gradients are not saved.",
            ),
            (
                lambda: memo(folders=KEPT),
                "The memo is right here: while the fourth is written, the third must not be "
                "deleted yet.",
            ),
        ),
        because="Two lines of four were wrong: the tokens by a factor of two, and the disk, which "
        "keeps up with saves that nobody waits for, and only with those.",
    ),
    Exercise(
        "assumed",
        answer=chosen,
        tolerance=0.02,
        mistakes=(
            (
                lambda: chosen(1.0),
                "The 2 of Young's rule is lost: the square of the interval is 2 δ M.",
            ),
            (
                lambda: (chosen()[0] * HOUR, chosen()[1]),
                "The time between failures is asked for in hours.",
            ),
            (
                lambda: (chosen()[0], chosen()[1] / 100),
                "The second value is asked for in percentage points: times 100.",
            ),
            (
                lambda: (chosen()[0], 100 * lost(CHOSEN, FAILED)),
                "That is all that was lost. Asked for is what a better interval would have saved.",
            ),
            (
                lambda: (
                    chosen()[0],
                    100 * (lost(CHOSEN, FAILED) - lost(CHOSEN, CHOSEN**2 / (2 * STALL))),
                ),
                "You compare with what they expected. Compare with the best interval for the "
                "failures that really came.",
            ),
        ),
        because="They expected a failure per day and had six. The wrong interval costs three "
        "points of the time: less than one would fear, for the valley is flat.",
    ),
    Exercise(
        "last",
        answer=newest,
        inputs=(
            ({"step-900": [*BOTH, ".metadata"], "step-1000": [*BOTH, ".metadata"]},),
            ({"step-900": [*BOTH, ".metadata"], "step-1000": BOTH},),
            ({"step-100": [".metadata", *BOTH], "step-90": [*BOTH], "step-80": [*BOTH]},),
            ({"step-7": BOTH},),
        ),
        mistakes=(
            (
                newest_by_name,
                "Whole checkpoints alone: right. But as text 'step-900' comes after 'step-1000', "
                "so training would go back: compare numbers.",
            ),
            (
                newest_of_all,
                "The newest folder, whether whole or not: a save that was cut off has files too. "
                "Which file is written last?",
            ),
            (
                largest,
                "The number of files says nothing of their age, and a save that was cut off may "
                "have as many.",
            ),
        ),
        because="Both faults are silent: the first loads what is incomplete, the second repeats "
        "steps that were done.",
    ),
    Exercise(
        "offers",
        answer=offers,
        unit="dollars per hour",
        tolerance=0.02,
        mistakes=(
            (
                lambda: offers(rent=False),
                "The GPUs' lost time is right. Each offer's own rent is missing.",
            ),
            (
                lambda: offers(mtbf=GPU_HOURS * HOUR),
                "That is the failure rate of one GPU. A job on 1024 stops when any of them does.",
            ),
            (
                lambda: offers(restart=0.0),
                "The ten minutes after each failure are missing.",
            ),
            (
                lambda: {
                    name: (value - OFFERS[name][2]) / GPUS + OFFERS[name][2]
                    for name, value in offers().items()
                },
                "You lose the time of one GPU. All 1024 wait.",
            ),
        ),
        because="Eight times the bandwidth costs more than it saves; what pays is not to wait.",
    ),
)
