"""The isoflop experiment on a tiny grid: budgets are kept, text is not mixed, models learn."""

import math

import pytest
import torch

import sizing
from sizing import experiments
from sizing.experiments import isoflop
from sizing.measuring.device import Device

CPU = Device("cpu", "", 8 * 10**9, 2)
GPU = Device("cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30, 132)


@pytest.mark.parametrize("device", [CPU, GPU], ids=["cpu", "gpu"])
def test_each_run_spends_its_budget(device):
    points = isoflop.grid(device)
    for point in points:
        one = isoflop.model(point["width"], point["layers"])
        run = sizing.Run(one, sequence=point["sequence"])
        spent = sizing.flops(run).model * point["tokens"] / point["sequence"]
        assert spent == pytest.approx(point["compute"], rel=0.05)
        assert point["parameters"] == one.parameters.total
    budgets = {point["compute"] for point in points}
    assert len(budgets) == 3
    for budget in budgets:  # three constants of a parabola, and more sizes than that
        assert sum(point["compute"] == budget for point in points) >= 5


def test_the_grid_is_two_minutes_on_a_cpu_and_eight_on_a_gpu():
    """Some 4 ms of launches per step and 40 GFLOP/s: 31 462 steps took the reference CPU 215 s."""
    points = isoflop.grid(CPU)
    steps, work = (sum(point[key] for point in points) for key in ("steps", "compute"))
    assert 4e-3 * steps + work / 40e9 < 110
    former = 4e-3 * 31_462 + 2.6e12 / 40e9
    assert former == pytest.approx(215, rel=0.15)
    assert sum(point["compute"] for point in isoflop.grid(GPU)) < 1e15


def test_validation_text_is_apart_and_nothing_is_lost():
    train, unseen = isoflop.windows(64)
    assert train.shape[1] == unseen.shape[1] == 64
    assert len(unseen) / (len(train) + len(unseen)) == pytest.approx(1 / 20, rel=0.02)
    size = isoflop.TEXT.stat().st_size
    assert train.numel() + unseen.numel() > size - isoflop.BLOCK
    first = isoflop.TEXT.read_bytes()[:64]
    assert bytes(isoflop.alphabet()[place] for place in train[0]) == first
    assert int(train.max()) < len(isoflop.alphabet())


def test_each_piece_comes_once_before_any_comes_again():
    order = isoflop._order(10, seed=0, count=25)
    assert sorted(order[:10].tolist()) == list(range(10)) == sorted(order[10:20].tolist())
    assert torch.equal(order, isoflop._order(10, seed=0, count=25))
    assert not torch.equal(order, isoflop._order(10, seed=1, count=25))


def test_the_learning_rate_rises_and_falls():
    rates = [isoflop.schedule(step / 200) for step in range(201)]
    peak = rates.index(max(rates))
    assert 0 < rates[0] < 0.3 and max(rates) == pytest.approx(1, abs=0.02)
    assert peak == 10 and rates[peak:] == sorted(rates[peak:], reverse=True)
    assert rates[-1] == pytest.approx(isoflop.LAST)


def test_a_tiny_run_learns_and_leaves_the_threads_alone():
    point = isoflop.grid(CPU, budgets=(1.5e9,), shapes=((16, 1),))[0]
    before = torch.get_num_threads()
    first, again = (isoflop.measure(point, CPU) for _ in range(2))
    assert torch.get_num_threads() == before
    assert 1.5 < first["loss"] < 0.85 * math.log(len(isoflop.alphabet()))
    assert first == again  # seeded, in one thread
    assert 0 < first["epochs"] < 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"budgets": (1e6,)}, r"budgets: 1e\+06 FLOPs given; allowed: two steps or more"),
        ({"shapes": ((20, 1),)}, "width: 20 given; allowed: a multiple of 8"),
    ],
)
def test_what_cannot_be_trained_is_said(options, words):
    with pytest.raises(ValueError, match=words):
        isoflop.grid(CPU, **options)


def test_it_is_registered():
    assert experiments.experiment("isoflop") is isoflop.EXPERIMENT
