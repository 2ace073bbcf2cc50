"""Case lab A: a knee that noise made is not praised."""

import pytest

from sizing.course.checks import case_a
from sizing.experiments import REFERENCE, load


def rows(speeds, spread=1.05):
    """Rows as the experiment `batch` has them, from samples per second at 1, 2, 4, ... samples."""
    return [
        {
            "micro_batch": 2**n,
            "seconds": 2**n / speed,
            "seconds_p10": 2**n / speed / spread,
            "seconds_p90": 2**n / speed * spread,
            "peak_bytes": 1e8 * (1 + 2**n),
        }
        for n, speed in enumerate(speeds)
    ]


CURVE = [5, 10, 18, 20, 21, 21, 22]


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (rows([0.5, 0.4, 1.4, 1.7, 1.5, 2.9, 5.0]), "still rise"),  # seen at a load of 9
        (rows([5, 10, 18, 20, 11, 21, 22]), "micro-batch 16"),
        (rows(CURVE, spread=2), "differ so much"),
    ],
)
def test_a_knee_that_noise_made(made, why):
    assert why in case_a.doubt(made)
    assert "do not trust this knee" in case_a.beyond(made)


def test_a_clear_knee_is_described_by_its_rows():
    assert case_a.doubt(rows(CURVE)) == ""
    said = case_a.beyond(rows(CURVE))
    assert "13.0 times" in said and "1.22 times" in said and "trust" not in said
    assert case_a.doubt(load("batch", REFERENCE).ok) == ""
