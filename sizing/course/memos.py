"""What a poor, a fair and a good memo look like: the case labs' rubric, and three specimens each.

A memo is text, so nobody but a reader can mark it. The marks here are such a reader's, criterion by
criterion with the reason; figures in the memos are computed by the checks of the case.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .exercise import Exercise

CRITERIA = {
    "decision": "says what to do, so that somebody else could do it",
    "evidence": "rests on figures that were computed or measured, and says how",
    "units": "each figure has a unit, and says per what and at which moment",
    "old memo": "says which claim falls and why, and which stands",
    "doubt": "says what is not known, and what would change the decision",
}
GRADES = ((8, "good"), (4, "fair"), (0, "poor"))  # points from which on


@dataclass(frozen=True)
class Memo:
    """A memo of a few lines, and its marks: {criterion: (0 to 2 points, why)}."""

    lines: tuple[str, ...]
    marks: dict[str, tuple[int, str]]

    @property
    def points(self) -> int:
        return sum(points for points, _ in self.marks.values())

    @property
    def grade(self) -> str:
        """ "poor", "fair" or "good"."""
        return next(word for least, word in GRADES if self.points >= least)

    def __str__(self) -> str:
        return "\n".join(self.lines)


def rubric() -> str:
    """The criteria, for one's own memo: 2 points for yes, 1 for partly, 0 for no."""
    lines = [f"{name:10s} {what}" for name, what in CRITERIA.items()]
    grades = ", ".join(f"{word} from {least}" for least, word in GRADES)
    return "\n".join([*lines, f"2 points each for yes, 1 for partly: {grades}"])


def _memo(lines: tuple[str, ...], *marks: tuple[int, str]) -> Memo:
    return Memo(lines, dict(zip(CRITERIA, marks, strict=True)))


def _batch() -> dict[str, Memo]:
    from .checks import case_a  # here and below: the checks ask this module for the grades

    zero, state = case_a.line()[1], case_a.state()
    return {
        "X": _memo(
            (
                "Batch 9 uses 90 % of the memory, so the GPUs are finally busy.",
                "The price per hour is the same. Use batch 9 from now on.",
            ),
            (2, "use batch 9"),
            (0, "memory in use is taken for work done"),
            (0, "90 % of what, read when, by which tool?"),
            (0, "repeats the claims"),
            (0, "none"),
        ),
        "Y": _memo(
            (
                f"A line through 14 and 43 GB leaves {zero:.1f} GB for batch 0: one reading errs.",
                "30,000 steps at batch 9 see three times the samples and may take three times as "
                "long, so the run is not cheaper.",
                "We should look into it.",
            ),
            (0, "nobody knows what to do on Monday"),
            (2, "a line through two readings, and the count of samples"),
            (1, "GB, but not whether reserved or allocated"),
            (2, "two claims fall, with the reason"),
            (1, "says that a reading is wrong, not which measurement would tell"),
        ),
        "Z": _memo(
            (
                f"14 and 43 GB per GPU imply {zero:.1f} GB of state; weights, gradients and "
                f"moments are {state:.1f} GB. Read torch's peak allocated again.",
                "Measure samples per second at 1, 2 and 3 samples per GPU for 200 steps, and take "
                "the smallest within 25 % of the best.",
                "At 30,000 steps batch 9 costs 1 to 3 times the dollars of batch 3 and sees 3 "
                "times the samples: compare losses at equal samples, with the rate tuned again.",
                "Right in the old memo: the hour costs the same, and 2 samples leave one of 3 GPUs "
                "idle.",
                "If samples per second still rise at 3 per GPU, batch 9 is the better one.",
            ),
            (2, "what to measure and which batch to take"),
            (2, "computed state, computed cost; what is missing is to be measured"),
            (2, "per GPU, per run, peak allocated"),
            (2, "what falls, and what was right"),
            (2, "the measurement that would change the choice"),
        ),
    }


def _gpus() -> dict[str, Memo]:
    from . import bridge

    frozen = bridge.FROZEN / 1e9
    ddp = bridge.per_gpu(4, False)
    return {
        "X": _memo(
            (
                "Four GPUs are wasteful: efficiency is only 75 %.",
                "Memory per GPU falls to 8.5 GB, so smaller cards would do. Use one GPU.",
            ),
            (2, "use one GPU"),
            (0, "8.5 GB is 34 / 4; nobody measured it"),
            (1, "GB per GPU, of an unnamed moment"),
            (0, "repeats the wrong division"),
            (0, "none"),
        ),
        "Y": _memo(
            (
                f"The frozen models are {frozen:.1f} GB in bf16 and DDP copies them: about "
                f"{ddp:.0f} GB on each GPU, however many.",
                "The trained parts have 2.2 M parameters, so the 2 GB of optimizer are wrong.",
                "Perhaps use more GPUs, perhaps not.",
            ),
            (0, "no decision"),
            (2, "counted parameters and bytes"),
            (2, "GB on each GPU, bf16"),
            (2, "two claims fall, with the reason"),
            (0, "does not say what an hour of waiting is worth"),
        ),
        "Z": _memo(
            (
                f"DDP holds {ddp:.0f} GB on each of 1, 2 or 4 GPUs: it fits 80 GB, so shard "
                "nothing.",
                "Profile one GPU first: 2 samples per second are 2 % MFU. Then try batch 16 there.",
                "1 GPU: 5.6 GPU-hours in 5.6 h; 4 GPUs: 7.4 in 1.9 h. Four pay if an hour of "
                "waiting is worth more than half a GPU-hour.",
                "Right in the old memo: the hours follow from the speeds, and one GPU takes the "
                "fewest GPU-hours.",
                "Unknown: the length of a sample, and what the first profile shows.",
            ),
            (2, "profile, then batch 16, then count the price of waiting"),
            (2, "computed from counts and from the memo's own speeds"),
            (2, "GB on each GPU, GPU-hours, hours"),
            (2, "what falls, and what was right"),
            (2, "what is unknown, and the price at which four GPUs pay"),
        ),
    }


def _laptop() -> dict[str, Memo]:
    from .checks import case_c

    low, high = 8 * case_c.PARAMETERS / 1e9, 16 * case_c.PARAMETERS / 1e9
    copy = case_c.logits()[1]
    return {
        "X": _memo(
            (
                "Training uses 24 % of the card, so there are 6 GB of safety.",
                "448 tokens fail because of fragmentation. Restart and try again.",
            ),
            (1, "something to do, without a reason to expect that it helps"),
            (0, "fragmentation is a guess"),
            (0, "24 % at which moment?"),
            (0, "repeats the margin"),
            (0, "none"),
        ),
        "Y": _memo(
            (
                f"AdamW needs {low:.1f} to {high:.1f} GB of state for 341.8 M parameters, so "
                "1.9 GB was no training peak.",
                f"One fp32 copy of the logits at 16 x 448 is {copy:.1f} GB: that is the wall.",
                "The memo is wrong.",
            ),
            (0, "says what is wrong and not what to do"),
            (2, "computed from parameters and vocabulary"),
            (2, "GB of state, GB per copy"),
            (2, "two claims fall, with the reason"),
            (1, "knows the wall, not what it does not know"),
        ),
        "Z": _memo(
            (
                f"22 to 24 % was read between spikes: state alone is {low:.1f} to {high:.1f} GB.",
                f"The wall is the vocabulary: {copy:.1f} GB for one fp32 copy of the logits at "
                "16 x 448.",
                f"Run {case_c.largest()} x 128 as it is, or chunk the loss for more; keep the "
                "tokens per step, not the sequences.",
                "Right in the old memo: the weights load in 0.7 GB, and 448 does fail.",
                "Unknown: the config (268 M are published), and torch's peak allocated. If that is "
                f"below {low:.1f} GB, the optimizer is not AdamW.",
            ),
            (2, "a setting that fits, and what to change for more"),
            (2, "computed, with the formula's reason"),
            (2, "GB, per copy, allocated"),
            (2, "what falls, and what was right"),
            (2, "what is unknown, and what a reading would mean"),
        ),
    }


CASES: dict[str, Callable[[], dict[str, Memo]]] = {
    "case_a": _batch,
    "case_b": _gpus,
    "case_c": _laptop,
}


def specimens(case: str) -> dict[str, Memo]:
    """Three memos about one case; ValueError for a case without."""
    if case not in CASES:
        raise ValueError(f"case: {case!r} given; allowed: {', '.join(CASES)}")
    return CASES[case]()


def grades(case: str, **said: str) -> dict[str, str]:
    """{memo: its grade}; `said` replaces some, for a known mistake."""
    return {name: memo.grade for name, memo in specimens(case).items()} | said


def exercise(case: str) -> Exercise:
    """The exercise that grades the specimens of a case."""
    return Exercise(
        "memos",
        answer=lambda: grades(case),
        mistakes=(
            (
                lambda: grades(case, Y="good"),
                "Y knows what is wrong and does not say what to do: a reader cannot act on it.",
            ),
            (
                lambda: grades(case, X="fair"),
                "X decides, and rests on nothing: no figure of it was computed or measured.",
            ),
            (
                lambda: grades(case, Y="poor"),
                "Y has computed figures with units, and names what falls: that earns half of the "
                "points.",
            ),
            (
                lambda: grades(case, Z="fair"),
                "Z decides, shows its figures, keeps what was right and says what it does not "
                "know: which criterion do you miss?",
            ),
        ),
        because="A good memo can be acted on, checked, and dropped when it no longer holds.",
    )
