"""The rubric of the capstone: each criterion counts; the three specimens have their grades."""

from dataclasses import replace

import pytest

from sizing.course import rubric


@pytest.fixture(scope="module")
def handed():
    return rubric.specimens()


def test_the_specimens_span_the_grades(handed):
    assert {name: rubric.grade(one) for name, one in handed.items()} == {
        "A": "poor", "B": "fair", "C": "good",
    }  # fmt: skip
    assert handed["A"].candidate.cost is None  # it does not fit
    assert handed["C"].candidate.cost.days_band[1] <= handed["C"].deadline


@pytest.mark.parametrize(
    ("criterion", "change", "points"),
    [
        ("days", {"deadline": 0.001}, 0),
        ("dollars", {"budget": 0.001}, 0),
        ("start", {"exports": {"torchrun": "torchrun train.py"}}, 1),
        ("start", {"exports": {}}, 0),
        ("why", {"alternatives": {"8 H100s": "dearer", "one GPU": ""}}, 1),
    ],
)
def test_each_criterion_counts(handed, criterion, change, points):
    def of(submission):
        return {mark.criterion: mark.points for mark in rubric.marks(submission)}

    best = handed["C"]
    assert of(best) == dict.fromkeys(("memory", "days", "dollars", "start", "why"), 2)
    assert of(replace(best, **change))[criterion] == points


def test_the_middle_of_the_band_is_worth_one_point(handed):
    best = handed["C"]
    between = sum(best.candidate.cost.days_band) / 2
    assert best.candidate.cost.days < between < best.candidate.cost.days_band[1]
    (days,) = (m for m in rubric.marks(replace(best, deadline=between)) if m.criterion == "days")
    assert days.points == 1
