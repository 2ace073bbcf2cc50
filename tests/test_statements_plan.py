"""What lessons 10 and 11 say in words of published runs, against what the course computes."""

import json
from pathlib import Path

import pytest

import sizing
from sizing.course.quizzing import questions

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def words(lesson: str) -> str:
    """The lesson's prose in one line."""
    (path,) = NOTEBOOKS.glob(f"{lesson}-*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


def test_lesson_10_reads_blooms_units():
    assert "2.467e12 bytes = 2.24 TiB; 2 bytes are 352.5e9 = 328.3 GiB" in words("10")
    bloom = 176.247e9
    assert 14 * bloom == pytest.approx(2.467e12, rel=1e-3)
    assert 14 * bloom / 2**40 == pytest.approx(2.24, abs=0.005)
    assert 2 * bloom / 2**30 == pytest.approx(328.3, abs=0.05)


def test_the_card_of_llama_2_has_the_facility_of_the_course():
    rate = 31_220 / (184_320 * 0.4)
    facility = sizing.planning.costs._facility
    assert rate == pytest.approx(facility("pue") * facility("carbon"), rel=1e-3)


def test_the_bubble_of_the_quiz():
    idle = [(8 - 1) / (m + 8 - 1) for m in (8, 4)]
    right = next(q for n, q in questions().items() if n == "11.bubble")
    assert "from 7/15 to 7/11" in right.choices[right.right][0]
    assert idle == pytest.approx([7 / 15, 7 / 11])
