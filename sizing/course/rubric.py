"""What a poor, a fair and a good plan look like: the capstone's rubric, and its three specimens."""

from __future__ import annotations

from dataclasses import dataclass

from ..planning.search import Candidate, plan

GRADES = ((8, "good"), (4, "fair"), (0, "poor"))  # points from which on
TOOLS = ("torchrun", "DeepSpeed", "sbatch")


@dataclass(frozen=True)
class Submission:
    """A plan that is handed in.

    Attributes:
        candidate: the run, its card, memory, time and cost.
        deadline: days that there are.
        budget: dollars that there are.
        exports: {tool: what starts the run with it}.
        alternatives: {another plan: why not that one}.
    """

    candidate: Candidate
    deadline: float
    budget: float
    exports: dict[str, str]
    alternatives: dict[str, str]


@dataclass(frozen=True)
class Mark:
    """Points of one criterion, 0 to 2, and why."""

    criterion: str
    points: int
    why: str


def marks(handed: Submission) -> tuple[Mark, ...]:
    """A submission by the five criteria of the rubric.

    2 points for memory that fits with a margin, 1 if it is tight; for days and for dollars 2 if the
    high end of the band keeps the limit, 1 if the middle does; 2 for all of TOOLS, 1 for some; 2
    for two alternatives refused with a reason, 1 for one.
    """
    one = handed.candidate
    memory = {"fits": 2, "tight": 1}.get(one.fits, 0)
    found = [Mark("memory", memory, one.fits)]
    for name, limit in (("days", handed.deadline), ("dollars", handed.budget)):
        if one.cost is None:
            found.append(Mark(name, 0, "a run that does not fit takes no time"))
            continue
        middle, high = getattr(one.cost, name), getattr(one.cost, f"{name}_band")[1]
        points = (middle <= limit) + (high <= limit)
        found.append(Mark(name, points, f"{middle:,.3g}, at worst {high:,.3g}, of {limit:,.3g}"))
    given = [tool for tool in TOOLS if handed.exports.get(tool)]
    points = 2 if len(given) == len(TOOLS) else bool(given)
    found.append(Mark("start", int(points), ", ".join(given) or "nothing that starts it"))
    refused = [what for what, why in handed.alternatives.items() if why]
    found.append(Mark("why", min(2, len(refused)), f"{len(refused)} alternatives refused"))
    return tuple(found)


def grade(handed: Submission) -> str:
    """ "poor", "fair" or "good"."""
    points = sum(mark.points for mark in marks(handed))
    return next(word for least, word in GRADES if points >= least)


def specimens() -> dict[str, Submission]:
    """Three plans for the same job, llama-3.2-1b on 25 B tokens within 14 days and $2,000."""
    job = {"tokens": 25e9, "deadline_days": 14, "budget": 2000, "batch": 2**20}

    def of(card: str, number: int) -> Candidate:
        found = plan("llama-3.2-1b", {card: number}, counts=(number,), keep=1, **job)
        return (found.runs or found.rejected)[0]

    started = dict.fromkeys(TOOLS, "...")
    return {
        "A": Submission(of("rtx-4090", 1), 14, 2000, {}, {}),
        "B": Submission(of("a100-sxm-80gb", 2), 14, 2000, {"torchrun": "..."}, {}),
        "C": Submission(
            of("a100-sxm-80gb", 8), 14, 2000, started,
            {"1 GPU": "late", "8 H100s": "dearer, and the deadline does not need them"},
        ),
    }  # fmt: skip
