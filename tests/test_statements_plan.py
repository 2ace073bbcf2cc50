"""What lessons 10 and 11 say in words, against what their calculators and formulas compute."""

import json
from pathlib import Path

import pytest

import sizing
from sizing.calculators import CostCalculator, PlanDashboard, StorageCalculator
from sizing.calculators.storage import saved

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def words(lesson: str) -> str:
    """The lesson's prose in one line."""
    (path,) = NOTEBOOKS.glob(f"{lesson}-*.ipynb")
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    text = " ".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")
    return " ".join(text.split())


def result(calculator, **settings):
    """The result of a calculator at these settings, the others as it opens."""
    return calculator.result(**{k: c.value for k, c in calculator.controls.items()} | settings)


def lost(**settings) -> float:
    """Per cent of the time lost, at the calculator's dot."""
    settings = {"model": "llama-3.1-405b", "gpus": 16_384, "mode": "synchronous"} | settings
    return result(StorageCalculator(), **settings).data[2]


def test_lesson_10_answers_its_calculator():
    text = words("10")
    assert "14.0 against 8.0: six bytes per parameter less" in text
    n = sizing.Model("llama-3.1-8b").parameters.total
    plain, small = (
        saved("llama-3.1-8b", "bf16-master", name, "distributed", 64).total / n
        for name in ("adamw-fused", "adamw-8bit")
    )
    assert plain == pytest.approx(14.0, abs=0.1) and small == pytest.approx(8.0, abs=0.1)
    assert "Between 200 and 500 GB/s" in text
    assert lost(disk=200e9) > 10 > lost(disk=500e9)
    assert "from minutes to milliseconds" in text
    assert lost(disk=50e9, mode="asynchronous") < lost(disk=50e9) / 2


def test_lesson_10_reads_blooms_units():
    assert "2.467e12 bytes = 2.24 TiB; 2 bytes are 352.5e9 = 328.3 GiB" in words("10")
    bloom = 176.247e9
    assert 14 * bloom == pytest.approx(2.467e12, rel=1e-3)
    assert 14 * bloom / 2**40 == pytest.approx(2.24, abs=0.005)
    assert 2 * bloom / 2**30 == pytest.approx(328.3, abs=0.05)


def test_lesson_11_answers_its_calculators():
    text, calculator = words("11"), CostCalculator()

    def spent(**settings):
        found = result(calculator, model="llama-3.1-8b", tokens=1e12, **settings)
        return found.value, found.data[1]

    few, many = spent(gpus=64, price=4.0), spent(gpus=512, price=4.0)
    assert "An eighth of the days for the same dollars, to about one per cent" in text
    assert many[0] == pytest.approx(few[0], rel=0.02)
    assert many[1] == pytest.approx(few[1] / 8, rel=0.02)
    before, after = spent(gpus=1024, price=4.0), spent(gpus=2048, price=4.0)
    assert "From 1,024 to 2,048: hardly quicker, nearly twice the dollars" in text
    assert after[1] > 0.85 * before[1] and after[0] > 1.7 * before[0]
    assert "Between $1.50 and $1.75" in text
    cheap, dear = (spent(gpu="a100-sxm-80gb", gpus=64, price=p) for p in (1.50, 1.75))
    assert cheap[0] < few[0] < dear[0]
    assert cheap[1] / few[1] == pytest.approx(2.5, abs=0.2)


def test_lesson_11_answers_its_planner():
    assert "the band's high end is twice the days" in words("11")
    planner = PlanDashboard(
        model="llama-3.2-3b", tokens=1e11, gpu="h100-sxm", other="", gpus=8, batch=2**20,
        deadline=14, budget=15_000,
    )  # fmt: skip
    eight, four = (result(planner, look=look).data[2] for look in (8, 4))
    assert 1.9 < eight.cost.days_band[1] / eight.cost.days < 2.3
    assert four.cost.days == pytest.approx(2 * eight.cost.days, rel=0.03)
    assert four.cost.dollars == pytest.approx(eight.cost.dollars, rel=0.02)
    assert four.memory > eight.memory


def test_the_card_of_llama_2_has_the_facility_of_the_course():
    rate = 31_220 / (184_320 * 0.4)
    facility = sizing.planning.costs._facility
    assert rate == pytest.approx(facility("pue") * facility("carbon"), rel=1e-3)
