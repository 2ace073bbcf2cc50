"""The out-of-memory clinic: public reports of steps that did or did not fit (data/clinic.csv), and
the rubric of a memo about one of them."""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass, replace
from functools import cache

from ..calculators.cures import Cure, cures
from ..evidence.savers import reports as sizes
from ..footprint.step import Memory, memory
from ..run import Lora, Run
from ..units import DATA, GIB
from .rubric import GRADES, Mark

PATH = DATA / "clinic.csv"
RAN, FAILED = "ran", "out of memory"
KINDS = ("allocated", "reserved", "nvidia-smi", "not said")


@dataclass(frozen=True)
class Report:
    """One public report.

    Attributes:
        name, what, source: what it is called here, what was run, and where it was reported.
        run: without the cure that the report names, on a card `gpu`.
        step: of `sizing.memory`: "first" where it failed in its first step.
        happened: "ran", "out of memory", or nothing where the report does not say.
        cure: what was done about it, in words.
        cured: the run with that cure, None where there is none; `then` says what happened.
        sizes: rows of data/memory_reports.csv with the bytes that were reported.
        note: what was assumed, or not said.
    """

    name: str
    what: str
    source: str
    run: Run
    gpu: str
    step: str
    happened: str
    cure: str
    cured: Run | None
    then: str
    sizes: tuple[dict, ...]
    note: str

    @property
    def patient(self) -> Run:
        """The run that is to be made to fit: with what was tried in vain, without what helped."""
        return self.cured if self.then == FAILED else self.run

    def held(self, run: Run | None = None) -> Memory:
        """What the run, or another one instead, holds in the step that the report is of."""
        return memory(run or self.run, step=self.step)

    def verdict(self, run: Run | None = None) -> str:
        return self.held(run).on(self.gpu).verdict


@cache
def reports() -> dict[str, Report]:
    """The ten reports by name."""
    with PATH.open(newline="", encoding="utf-8") as file:
        return {row["case"]: _report(row) for row in csv.DictReader(file)}


def _report(row: dict) -> Report:
    settings = json.loads(row["settings"])
    if isinstance(settings.get("lora"), dict):
        settings["lora"] = Lora(**settings["lora"])
    model = row["model"]
    run = Run(json.loads(model) if model.startswith("{") else model, **settings)
    known = sizes() if row["report"] else []
    return Report(
        name=row["case"],
        what=row["what"],
        source=row["source"],
        run=run,
        gpu=row["gpu"],
        step=row["step"],
        happened=row["happened"],
        cure=row["treatment"],
        cured=replace(run, **json.loads(row["cure"])) if row["cure"] else None,
        then=row["then"],
        sizes=tuple(size for size in known if row["report"] in size["source"]),
        note=row["note"],
    )


def cheapest(report: Report) -> Cure | None:
    """The first cure in order of cost that leaves the training as it is and fits, or None."""
    fitting = (
        cure
        for cure in cures(report.patient)
        if cure.same_training and report.verdict(cure.run) == "fits"
    )
    return next(fitting, None)


@dataclass(frozen=True)
class Memo:
    """What is said about a report.

    Attributes:
        case: the report's name.
        verdict: "fits", "tight" or "does not fit".
        phase, part: of the peak, and its largest part.
        predicted: GiB that tensors hold at the peak.
        kind: of the reported number, one of KINDS; nothing where it is not told apart.
        cure: what to change, as `cures` calls it.
        refused: {another cure: why not that one}.
    """

    case: str
    verdict: str
    phase: str
    part: str
    predicted: float
    kind: str
    cure: str
    refused: dict[str, str]


def marks(memo: Memo) -> tuple[Mark, ...]:
    """A memo by the five criteria of the rubric, of 2 points each.

    Verdict: the right word 2, the right side of "does not fit" 1. Culprit: a point for the phase,
    one for the part. Evidence: a point for a peak within 1 %, one for the kind of number that was
    reported. Cure: 2 for the cheapest that leaves the training as it is, 1 for another that fits.
    Why: two other cures refused with a reason 2, one 1.
    """
    report = reports()[memo.case]
    run = report.patient
    held, verdict = report.held(run), report.verdict(run)
    parts = held.phases[held.peak_phase]
    part = max(parts, key=parts.get)
    side = (memo.verdict == "does not fit") == (verdict == "does not fit")
    near = abs(memo.predicted * GIB / held.total - 1) < 0.01
    best = cheapest(report)
    tried = {cure.what: cure.run for cure in cures(run)}
    helps = memo.cure in tried and report.verdict(tried[memo.cure]) == "fits"
    refused = sum(bool(why) for why in memo.refused.values())
    return (
        Mark("verdict", 2 if memo.verdict == verdict else int(side), verdict),
        Mark("culprit", (memo.phase == held.peak_phase) + (memo.part == part),
             f"{part}, in {held.peak_phase}"),
        Mark("evidence", near + (memo.kind in KINDS), f"{held.total / GIB:.1f} GiB of tensors"),
        Mark("cure", 2 if best and memo.cure == best.what else int(helps),
             best.what if best else "none"),
        Mark("why", min(2, refused), f"{refused} cures refused"),
    )  # fmt: skip


def grade(memo: Memo) -> str:
    """ "poor", "fair" or "good"."""
    points = sum(mark.points for mark in marks(memo))
    return next(word for least, word in GRADES if points >= least)


def specimens() -> dict[str, Memo]:
    """Three memos about the same report."""

    def of(**fields) -> Memo:
        report = reports()["long text"]
        held = report.held(report.patient)
        right = {
            "case": report.name,
            "verdict": report.verdict(report.patient),
            "phase": held.peak_phase,
            "part": "logits",
            "predicted": round(held.total / GIB, 1),
            "kind": "not said",
            "cure": "fused loss",
            "refused": {
                "activations on the host": "the peak is in the loss, which they leave as it is",
                "half the sequence length": "it is another training",
            },
        }
        return Memo(**{**right, **fields})

    return {
        "A": of(phase="layers", part="activations", predicted=37.0, kind="",
                cure="activations on the host", refused={}),
        "B": of(kind="", cure="half the sequence length", refused={}),
        "C": of(),
    }  # fmt: skip
