"""The compute-optimal calculator against the core, published figures, and its own picture."""

import pytest

import sizing
from sizing.calculators import ComputeOptimal
from sizing.calculators.compute_optimal import FITS, SIZES, TOKENS
from sizing.units import count


def table(of):
    return {row[0]: row[1:] for row in of.current.rows}


def test_value_is_the_core_s():
    made = ComputeOptimal(compute=1e21)
    best = sizing.optimal(1e21)
    assert made.current.value == best.parameters
    assert f"{count(best.parameters)} parameters on {count(best.tokens)} tokens" in (
        made.current.headline
    )
    assert "besiroglu-2024" in made.current.notes[0]


def test_data_that_is_short_is_repeated():
    made = ComputeOptimal(compute=1e22, unique=1e10)
    best = sizing.optimal(1e22, "besiroglu-2024", unique=1e10)
    assert made.current.value == best.parameters < sizing.optimal(1e22).parameters
    assert f"{best.epochs:.1f} epochs" in made.current.notes[1]
    assert table(made)["with the data there is"][1] == count(best.tokens)
    assert "epochs" not in " ".join(made.set(unique=1e14).current.notes)


def test_serving_asks_for_a_smaller_model():
    made = ComputeOptimal(compute=1e22, served=1e13)
    free = sizing.optimal(1e22)
    small = sizing.scaling.for_serving(free.loss, 1e13)
    assert table(made)["for serving"][0] == count(small.parameters)
    assert small.parameters < free.parameters
    assert "fewer FLOPs" in made.current.notes[1]
    assert table(made.set(served=0.0))["for serving"][:2] == table(made)["optimal, no limit"][:2]


def test_marks_lie_where_the_table_says():
    made = ComputeOptimal(compute=1e23, unique=1e11, served=1e13)
    free = sizing.optimal(1e23)
    best = sizing.optimal(1e23, "besiroglu-2024", unique=1e11)
    assert list(made._free.get_xdata()) == [free.parameters]
    assert list(made._best.get_ydata()) == [best.tokens]
    xs, ys = made._line.get_xdata(), made._line.get_ydata()
    assert [6 * x * y for x, y in zip(xs, ys, strict=True)] == pytest.approx([1e23] * 2)


def test_every_fit_draws_its_own_surface():
    made, pictures = ComputeOptimal(), set()
    for name in FITS:
        assert made.set(fit=name).error == ""
        pictures.add(made._picture.value)
        assert made.current.source
    assert len(pictures) == len(FITS)
    assert made.set(fit=FITS[0])._picture.value in pictures


@pytest.mark.parametrize("compute", [1e17, 1e22, 1e27])
@pytest.mark.parametrize("fit", FITS)
def test_the_choice_is_in_the_picture(compute, fit):
    made = ComputeOptimal(compute=compute, fit=fit)
    for mark in (made._free, made._best, made._small):
        assert SIZES[0] <= mark.get_xdata()[0] <= SIZES[1]
        assert TOKENS[0] <= mark.get_ydata()[0] <= TOKENS[1]


def test_moving_a_control_says_what_changed():
    made = ComputeOptimal()
    before = made._picture.value
    made.set(compute=1e23)
    assert "compute" in made._changed.value and "→" in made._changed.value
    assert made._picture.value != before
    with pytest.raises(ValueError, match="fit: 'hoffmann' given; allowed: besiroglu-2024"):
        made.set(fit="hoffmann")


def test_bundle_reads_without_widgets():
    bundle = ComputeOptimal(unique=1e10)._repr_mimebundle_()
    assert "parameters on" in bundle["text/plain"]
    assert "<td>for serving</td>" in bundle["text/html"]
