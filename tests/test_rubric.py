"""The rubrics of plans and memos: each criterion counts; three specimens have their grades."""

from dataclasses import replace

import pytest

from sizing.course import memos, rubric


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


@pytest.mark.parametrize("case", memos.CASES)
def test_three_memos_of_each_case_span_the_grades(case):
    found = memos.specimens(case)
    assert {name: memo.grade for name, memo in found.items()} == {
        "X": "poor", "Y": "fair", "Z": "good",
    }  # fmt: skip
    for memo in found.values():
        assert list(memo.marks) == list(memos.CRITERIA)
        assert all(points in (0, 1, 2) and why for points, why in memo.marks.values())


def test_a_memos_figures_are_the_cases():
    assert "-0.5 GB of state; weights, gradients and moments are 2.9 GB" in str(
        memos.specimens("case_a")["Z"]
    )
    assert "7.5 GB for one fp32 copy" in str(memos.specimens("case_c")["Z"])
    assert all(what in memos.rubric() for what in memos.CRITERIA.values())
    with pytest.raises(ValueError, match="case: 'case_x' given; allowed: case_a, case_b, case_c"):
        memos.specimens("case_x")
