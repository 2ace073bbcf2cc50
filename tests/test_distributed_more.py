"""One rank of many and scaling, against shares counted by hand, the formulas, and recordings."""

from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from sizing import communication, experiments, memory
from sizing.experiments import data_parallel_scaling as scaling
from sizing.experiments import one_rank_of_many as one_rank
from sizing.measuring import training, workers
from sizing.measuring.device import Device, cpu

CPU = cpu()
GPU = Device("cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30, 132)


# --- One rank of many ----------------------------------------------------------------------------


def share(model, ranks: int) -> int:
    """Parameters of a rank that holds equally many rows of every weight, some of them filled up."""
    weights = one_rank.build.model(training.Run(model, precision="fp32")).parameters()
    return sum(-(-len(w) // ranks) * w[0].numel() for w in weights)


def measured(how: str, stage: int, ranks: int) -> dict:
    run = training.Run(
        training.TINY_MODEL,
        sequence=32,
        micro_batch=1,
        precision="fp32",
        optimizer="adamw-fused",
    )
    engine = "fsdp2" if stage else "single"
    point = {"how": how, "engine": engine, "stage": stage, "ranks": ranks}
    point |= training.describe(run)
    return point | one_rank.measure(point, CPU)


@pytest.mark.parametrize(("stage", "gathers"), [(3, 2), (2, 1)])
def test_a_rank_of_48_holds_and_sends_its_share(stage, gathers):
    """48 divides none of the model's widths of 64 and 176: every weight is filled up."""
    row = measured(one_rank.REAL, stage, 48)
    own = share(training.TINY_MODEL, 48)
    assert own > 1.2 * training.TINY_MODEL.parameters.total / 48
    # fp32 weights and Adam's moments; beside them the batch and a scalar for each weight
    assert row["resident_bytes"] == pytest.approx(12 * own, rel=0.05)
    assert row["resident_bytes"] > 12 * own
    whole = 4 * 48 * own
    assert row["all_gather_bytes"] == gathers * whole * 47 / 48
    assert row["reduce_scatter_bytes"] == whole * 47 / 48
    assert row["sent_bytes"] == (gathers + 1) * whole * 47 / 48
    assert row["collectives"] == (gathers + 1) * 3  # two layers, and what lies outside


@pytest.mark.parametrize(("stage", "ranks"), [(3, 8), (2, 8), (0, 1)])
def test_fake_tensors_weigh_what_real_ones_do(stage, ranks):
    real, fake = (measured(how, stage, ranks) for how in (one_rank.REAL, one_rank.FAKE))
    for column in ("resident_bytes", "peak_bytes", "sent_bytes", "collectives"):
        assert real[column] == fake[column]


def test_nothing_of_the_fake_world_stays_here():
    measured(one_rank.REAL, 3, 8)
    assert not dist.is_initialized()
    assert not torch.utils._python_dispatch._get_current_dispatch_mode_stack()


@pytest.fixture
def recorded():
    return experiments.load("one-rank-of-many", experiments.REFERENCE).where(model="llama-3.2-1b")


def divided(row: dict) -> int:
    """Parameters of llama-3.2-1b with what 1024 ranks make of them: 512 rows of the keys and values
    of 16 layers become 1024, 128 256 of the embedding 126 a rank."""
    filled = 16 * 2 * (1024 - 512) + 1024 * 126 - 128256
    return row["parameters"] + (filled * 2048 if row["ranks"] == 1024 else 0)


@pytest.mark.parametrize(("engine", "stage"), [("single", 0), ("fsdp2", 3), ("fsdp2", 2)])
def test_recorded_ranks_hold_what_the_formula_says(recorded, engine, stage):
    """FSDP2 of stage 2 divides the weights between steps, which ZeRO-2 does not; at the peak it
    has gathered them all."""
    rows = recorded.where(engine=engine, stage=stage).rows
    assert [row["ranks"] for row in rows] == ([1] if stage == 0 else [8, 64, 1024])
    for row in rows:
        run = one_rank.run_of(row)
        assert memory(run, device="cpu").total == pytest.approx(row["peak_bytes"], rel=0.035)
        # The first keeps weights and master copies, the other fp32 weights, both two moments.
        state = (14 if engine == "single" else 12) * divided(row) / row["ranks"]
        assert row["resident_bytes"] == pytest.approx(state, rel=0.01)


def test_recorded_ranks_send_what_the_formula_says(recorded):
    for row in recorded.where(engine="fsdp2").rows:
        filled = divided(row) / row["parameters"]
        formula = communication(one_rank.run_of(row))
        assert row["all_gather_bytes"] == pytest.approx(filled * formula.all_gather, rel=1e-5)
        assert row["reduce_scatter_bytes"] == pytest.approx(
            filled * formula.reduce_scatter, rel=1e-5
        )
        assert row["sent_bytes"] == pytest.approx(filled * formula.total, rel=1e-5)


def test_a_large_gpu_measures_a_rank_of_a_large_model():
    points = one_rank.grid(GPU)
    assert {point["how"] for point in points} == {one_rank.REAL}
    large = [point for point in points if point["model"] == "llama-3.1-70b"]
    assert [point["ranks"] for point in large] == [64, 1024]
    assert all(memory(one_rank.run_of(point)).total < 0.5 * GPU.memory for point in large)
    small = replace(GPU, memory=24 * 2**30)
    assert {point["model"] for point in one_rank.grid(small)} == {"llama-3.2-1b"}


# --- Scaling -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    points = scaling.grid(CPU, model="tiny-llama", sequence=32, micro_batches=(2,), ranks=(1, 2))
    return [point | row for point in points for row in scaling.measure(point, CPU)]


def test_every_rank_reports(rows):
    assert [(row["ranks"], row["rank"]) for row in rows] == [(1, 0), (2, 0), (2, 1)]
    assert {row["tokens"] for row in rows} == {2 * 32}
    assert {row["threads"] for row in rows} == {max(1, CPU.cores // 2)}
    assert {row["gradient_bytes"] for row in rows} == {4 * training.TINY_MODEL.parameters.total}


def test_only_gradients_are_sent(rows):
    """Two ranks of a ring each send as many bytes as there are, and no buffer beside them."""
    assert [row["sent_bytes"] for row in rows] == [0, *2 * [rows[0]["gradient_bytes"]]]
    run = replace(training.as_run(rows[1]), data=2)
    assert communication(run).total == rows[1]["sent_bytes"]


def test_efficiency_is_throughput_over_that_of_ranks_alone(rows):
    alone, *both = rows
    assert alone["efficiency"] == 1 and alone["all_reduce_seconds"] == 0
    assert alone["tokens_per_second"] == 64 / alone["seconds"]
    for row in both:
        one = row["tokens"] / row["alone_seconds"]
        assert row["efficiency"] == pytest.approx(row["tokens_per_second"] / (2 * one))
        assert row["all_reduce_seconds"] > 0 and row["compute_seconds"] > 0
        # The slowest of each round sets the pace of both.
        assert row["tokens_per_second"] <= 2 * row["tokens"] / row["seconds"] * 1.0001
    assert both[0]["tokens_per_second"] == both[1]["tokens_per_second"]


def test_worlds_double_up_to_the_gpus_here(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 6)
    points = scaling.grid(GPU, micro_batches=(1,))
    assert [(point["ranks"], point["threads"]) for point in points] == [
        (1, None),
        (2, None),
        (4, None),
        (6, None),
    ]


def test_torchrun_s_world_is_the_only_one(monkeypatch):
    monkeypatch.setattr(workers, "torchrun", lambda: True)
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert {point["ranks"] for point in scaling.grid(GPU)} == {16}
