"""Tensor and pipeline parallelism in real processes, and the recording of the reference CPU."""

import pytest
import torch

from sizing import communication, experiments, memory
from sizing.experiments import tensor_and_pipeline
from sizing.footprint.sharding import in_flight
from sizing.measuring.device import cpu


@pytest.fixture(scope="module")
def measured():
    """The experiment in two processes, with few tokens; one and four micro-batches."""
    return [
        point | row
        for point in tensor_and_pipeline.grid(cpu(), sequence=16, micro_batches=(1, 4), ranks=2)
        for row in tensor_and_pipeline.measure(point, cpu())
    ]


@pytest.fixture(params=[pytest.param("measured", marks=pytest.mark.slow), "recorded"])
def rows(request):
    if request.param == "measured":
        return request.getfixturevalue("measured")
    return experiments.load("tensor-and-pipeline", experiments.REFERENCE).rows


def split(rows, kind):
    """Rows of several ranks."""
    return [row for row in rows if row["kind"] == kind and row["ranks"] > 1]


def test_one_row_a_rank(rows):
    found = [(row["kind"], row["schedule"], row["micro_batches"], row["rank"]) for row in rows]
    numbers = sorted({row["micro_batches"] for row in split(rows, "pipeline")})
    assert numbers in ([1, 4], [1, 2, 4, 8])
    assert found == [
        ("tensor", None, 1, 0),
        ("pipeline", None, numbers[-1], 0),
        ("tensor", None, 1, 0),
        ("tensor", None, 1, 1),
        *(("pipeline", "gpipe", m, rank) for m in numbers for rank in (0, 1)),
        *(("pipeline", "1f1b", m, rank) for m in numbers[1:] for rank in (0, 1)),
    ]
    assert {row["threads"] for row in rows} == {1}


def test_trains_as_one_process_does(rows):
    for row in rows:
        assert row["gradient_difference"] < 1e-4
        if row["kind"] == "pipeline" and row["ranks"] > 1 and row["rank"] == 0:
            assert row["loss"] is None  # the last stage alone knows it
        else:
            assert row["loss_difference"] < 1e-6


def test_what_tensor_parallelism_sends(rows):
    """DTensor keeps gathered inputs; its optimizer adds up the gradient of each of 17 norms."""
    for row in split(rows, "tensor"):
        run = tensor_and_pipeline.run_of(row)
        parts = communication(run).by_purpose
        layers = parts["tensor-parallel forward"] + parts["tensor-parallel backward"]
        assert row["all_gather_bytes"] == pytest.approx(layers / 2, rel=1e-5)
        assert row["reduce_scatter_bytes"] == pytest.approx(layers / 2, rel=1e-5)
        norms = 4 * run.model.parameters.norm
        expected = parts["vocabulary-parallel loss"] + norms
        assert row["all_reduce_bytes"] == pytest.approx(expected, rel=1e-5)
        total = layers + expected
        assert row["sent_bytes"] == pytest.approx(total, rel=1e-5)


def test_what_a_pipeline_sends(rows):
    for row in split(rows, "pipeline"):
        expected = communication(tensor_and_pipeline.run_of(row)).point_to_point
        assert row["point_to_point_bytes"] == pytest.approx(expected, rel=1e-5)
        assert row["sent_bytes"] == row["point_to_point_bytes"]


def test_micro_batches_in_flight(rows):
    for row in split(rows, "pipeline"):
        run = tensor_and_pipeline.run_of(row)
        one_f_one_b = row["schedule"] == "1f1b"
        expected = in_flight(run, row["rank"]) if one_f_one_b else row["micro_batches"]
        assert row["in_flight"] == expected


def test_1f1b_holds_less_than_gpipe(rows):
    peaks = {
        (row["schedule"], row["micro_batches"]): row["peak_bytes"]
        for row in split(rows, "pipeline")
        if row["rank"] == 0
    }
    assert peaks["1f1b", 4] < peaks["gpipe", 4]


def test_what_a_rank_holds(rows):
    """Weights and two moments in fp32, of a half each; and buffers to receive in."""
    for row in rows:
        expected = 12 * row["parameters"] / row["ranks"]
        assert row["resident_bytes"] == pytest.approx(expected, rel=0.03)


def test_peaks_are_what_the_formula_says():
    """Of the fullest rank, for more micro-batches than stages: with as many, the first gradients
    come when one micro-batch of the first stage's is already gone."""
    recording = experiments.load("tensor-and-pipeline", experiments.REFERENCE)
    for row in recording.ok:
        if row["rank"] == 0 and row["schedule"] != "gpipe" and row["micro_batches"] != 2:
            expected = memory(tensor_and_pipeline.run_of(row), device="cpu").total
            assert row["peak_bytes"] == pytest.approx(expected, rel=0.02)


def test_gpipe_bubble(rows):
    """One micro-batch: one stage works at a time. Four: both do, most of the time."""
    bubbles = {}
    for row in split(rows, "pipeline"):
        assert 0 < row["busy_seconds"] < row["seconds"]
        assert row["bubble"] == pytest.approx(1 - row["busy_seconds"] / row["seconds"], abs=1e-4)
        if row["schedule"] == "gpipe":
            bubbles.setdefault(row["micro_batches"], []).append(row["bubble"])
    assert sum(bubbles[1]) / 2 > 0.45
    assert sum(bubbles[4]) < sum(bubbles[1])


def test_the_recorded_bubbles_are_near_the_textbook_s():
    rows = split(experiments.load("tensor-and-pipeline", experiments.REFERENCE).ok, "pipeline")
    for row in rows:
        m, p = row["micro_batches"], row["ranks"]
        same = [r for r in rows if (r["schedule"], r["micro_batches"]) == (row["schedule"], m)]
        assert sum(r["bubble"] for r in same) / p == pytest.approx((p - 1) / (m + p - 1), abs=0.15)


def test_bad_options():
    with pytest.raises(ValueError, match="model: 'gpt2' given; allowed: a Llama"):
        tensor_and_pipeline.grid(cpu(), model="gpt2")
    with pytest.raises(ValueError, match=r"model: 'llama-3\.2-1b' given"):
        tensor_and_pipeline.grid(cpu(), model="llama-3.2-1b")
    with pytest.raises(ValueError, match="tensor: 3 given; allowed: a divisor of heads = 4"):
        tensor_and_pipeline.grid(cpu(), ranks=3)


def test_default_grid():
    points = tensor_and_pipeline.grid(cpu())
    assert {p["micro_batches"] for p in points if p["schedule"] == "gpipe"} == {1, 2, 4, 8}
    assert {p["micro_batches"] for p in points if p["schedule"] == "1f1b"} == {2, 4, 8}
    wide = tensor_and_pipeline.WIDE_MODEL
    assert 0.7e9 < wide.parameters.total < 0.9e9
    four = tensor_and_pipeline.grid(cpu(), model=wide.name, ranks=4)
    assert {p["micro_batches"] for p in four if p["schedule"] == "1f1b"} == {4, 8, 16}


def test_threads_are_given_back():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), tensor_and_pipeline._one_thread():
        assert torch.get_num_threads() == 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
