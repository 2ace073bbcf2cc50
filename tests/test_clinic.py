"""The clinic: the formula is on the side of every report, and each criterion of a memo counts."""

from dataclasses import replace

import pytest

from sizing.calculators.cures import SAME_TRAINING, cures
from sizing.course import clinic
from sizing.hardware import gpu

REPORTS = clinic.reports()


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_formula_is_on_the_side_of_what_happened(report):
    told = [(report.run, report.happened), (report.cured, report.then)]
    assert any(word for _, word in told)
    for run, word in told:
        if word == clinic.RAN:
            assert report.verdict(run) != "does not fit"
        elif word:
            assert word == clinic.FAILED and report.verdict(run) != "fits"
    assert report.source and gpu(report.gpu)


def test_sizes_that_were_reported_are_those_of_the_table():
    known = {name: len(report.sizes) for name, report in REPORTS.items() if report.sizes}
    assert known == {"first update": 2, "small card": 1, "four bits": 3, "eight cards": 2}
    (size,) = REPORTS["small card"].sizes
    held = REPORTS["small card"].held(REPORTS["small card"].cured)
    assert size["predicted"] == held.total / 1e9


@pytest.mark.parametrize("report", REPORTS.values(), ids=REPORTS)
def test_the_cheapest_cure_is_the_first_that_fits(report):
    tried = cures(report.patient)
    best = clinic.cheapest(report)
    assert best.costs in SAME_TRAINING and report.verdict(best.run) == "fits"
    before = tried[: [cure.what for cure in tried].index(best.what)]
    assert all(not c.same_training or report.verdict(c.run) != "fits" for c in before)


def points(memo):
    return {mark.criterion: mark.points for mark in clinic.marks(memo)}


def test_the_specimens_span_the_grades():
    found = {name: clinic.grade(memo) for name, memo in clinic.specimens().items()}
    assert found == {"A": "poor", "B": "fair", "C": "good"}


@pytest.mark.parametrize(
    ("criterion", "change", "expected"),
    [
        ("verdict", {"verdict": "tight"}, 0),
        ("culprit", {"part": "gradients"}, 1),
        ("culprit", {"part": "gradients", "phase": "forward"}, 0),
        ("evidence", {"predicted": 200.0}, 1),
        ("evidence", {"predicted": 200.0, "kind": ""}, 0),
        ("cure", {"cure": "half the sequence length"}, 1),
        ("cure", {"cure": "AdamW in 8 bits"}, 0),
        ("cure", {"cure": "more memory"}, 0),
        ("why", {"refused": {"one": "dear", "another": ""}}, 1),
    ],
)
def test_each_criterion_counts(criterion, change, expected):
    best = clinic.specimens()["C"]
    assert points(best) == dict.fromkeys(("verdict", "culprit", "evidence", "cure", "why"), 2)
    assert points(replace(best, **change)) == points(best) | {criterion: expected}
