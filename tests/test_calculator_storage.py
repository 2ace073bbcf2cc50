"""The calculators of storage and of cost against the core and their own pictures."""

import pytest

import sizing
from sizing.calculators import CostCalculator, StorageCalculator
from sizing.calculators.costs import BATCH
from sizing.planning.costs import failure_rate
from sizing.planning.storage import daly, saving


def table(calculator) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in calculator.current.rows}


def test_storage_is_the_checkpoint_of_the_core():
    made = StorageCalculator(model="gpt2", gpus=8, optimizer="adamw", precision="fp32")
    run = sizing.Run("gpt2", precision="fp32", optimizer="adamw", data=8, zero=3, sequence=1)
    size = sizing.checkpoint(run)
    assert made.current.value == size.total
    assert table(made)["weights"][0] == sizing.gb(size.weights)
    assert sum(size.parts.values()) == size.total
    mtbf = 3600 / (failure_rate() * 8)
    plan = saving(size.total, mtbf, disk=2e9, gpus=8)
    assert plan.interval == daly(plan.stall, mtbf)
    assert sizing.duration(plan.interval) in made.current.headline


def test_the_dot_is_the_lowest_point_of_the_curve():
    made = StorageCalculator(model="llama-3.1-8b", gpus=1024)
    curve = made._line.get_ydata()
    (interval,), (lost,) = made._point.get_data()
    assert lost <= min(curve) * 1.01
    assert lost > 0 and interval > 0


def test_more_gpus_fail_more_often():
    made = StorageCalculator(model="pythia-1b", gpus=64)
    few = made._point.get_xdata()[0]
    made.set(gpus=4096)
    assert made.error == ""
    assert made._point.get_xdata()[0] < few
    assert "scaled up" in made.current.accuracy
    whole = made.current.value
    made.set(mode="asynchronous")
    assert made.current.value == whole


@pytest.mark.parametrize("form", ["torch", "safetensors"])
def test_other_formats(form):
    made = StorageCalculator(model="gpt2", format=form)
    assert made.error == "" and made.current.value > 0


def test_cost_is_the_quickest_plan_s():
    made = CostCalculator(model="llama-3.1-8b", gpus=64, price=2.5)
    best = sizing.plan(
        "llama-3.1-8b", {"h100-sxm": 64}, 1e12, counts=(64,), batch=BATCH, rank="time", keep=1,
        prices={"h100-sxm": 2.5},
    ).best  # fmt: skip
    assert made.current.value == best.cost.dollars
    assert best.layout in made.current.notes[0]
    assert [bar.get_width() for bar in made._bars] == [
        best.cost.days_band[0], best.cost.days, best.cost.days_band[1],
    ]  # fmt: skip


def test_what_does_not_fit_says_what_it_takes():
    made = CostCalculator()
    before = made.current
    made.set(model="llama-3.1-405b", gpus=8)
    assert "does not fit" in made.error and "such GPUs" in made.error
    assert made.current is before


def test_twice_the_price_is_twice_the_dollars_for_hours():
    made = CostCalculator(price=2.0)
    hours = table(made)["dollars for them"][0]
    made.set(price=4.0)
    twice = table(made)["dollars for them"][0]
    number = [float(text.replace("$", "").replace(",", "")) for text in (hours, twice)]
    assert number[1] == pytest.approx(2 * number[0], abs=1)


@pytest.mark.parametrize("calculator", [StorageCalculator, CostCalculator])
def test_text_for_those_who_see_no_widget(calculator):
    made = calculator()
    shown = made._repr_mimebundle_()
    assert made.current.headline in shown["text/plain"]
    assert made.title in shown["text/html"]
    assert made._picture.tooltip == made.current.caption
