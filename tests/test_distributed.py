"""Several real processes: how they start, work together and fail, and DeepSpeed, FSDP2 and DDP."""

import importlib.util
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist

from sizing import communication, memory
from sizing.experiments import zero
from sizing.measuring import allocations, protocol, recording, workers
from sizing.measuring.device import cpu

CPU = cpu()
DEEPSPEED = importlib.util.find_spec("deepspeed") is not None
needs_deepspeed = pytest.mark.skipif(
    not DEEPSPEED, reason="DeepSpeed is not installed: pip install -r requirements-distributed.txt"
)


# --- The harness ---------------------------------------------------------------------------------


def greet(point, world):
    print("engines are talkative")
    total = torch.tensor([float(world.rank + 1)])
    dist.all_reduce(total)
    return {"rank": world.rank, "total": total.item(), **point}


def fail(point, world):
    """Rank 1 fails in its way while the others wait for it."""
    if world.rank == 1:
        if point["how"] == "raise":
            raise KeyError("a weight that is not there")
        if point["how"] == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if point["how"] == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB")
        time.sleep(60)
    dist.barrier()


def test_every_rank_returns_its_row_and_says_nothing(capfd):
    rows = workers.launch(greet, {"x": 3}, 3, CPU)
    assert rows == [{"rank": rank, "total": 6.0, "x": 3} for rank in range(3)]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("raise", "rank 1 of 2: KeyError: 'a weight that is not there'"),
        ("kill", "rank 1 of 2: killed by SIGKILL"),
        ("memory", "rank 1 of 2: OutOfMemoryError: CUDA out of memory"),
    ],
)
def test_a_rank_that_dies_is_named_and_the_others_do_not_hang(how, message):
    begin = time.monotonic()
    with pytest.raises(workers.WorkerFailed) as caught:
        workers.launch(fail, {"how": how}, 2, CPU)
    assert str(caught.value).startswith(message)
    assert time.monotonic() - begin < workers.PATIENCE / 2
    assert isinstance(caught.value, MemoryError) == (how == "memory")


def test_ranks_that_never_end_are_stopped():
    with pytest.raises(workers.WorkerFailed, match="2 of 2 ranks ran past 4 s"):
        workers.launch(fail, {"how": "sleep"}, 2, CPU, patience=4)


def test_ranks_that_cannot_even_begin_are_explained(monkeypatch):
    """As when the function lives in a module that no process can import."""
    module = type(sys)("nowhere_to_be_found")
    exec("def work(point, world): pass", vars(module))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    with pytest.raises(workers.WorkerFailed, match="ended before they could work"):
        workers.launch(module.work, {}, 2, CPU)


def test_out_of_memory_on_a_rank_is_a_row(tmp_path):
    experiment = protocol.Experiment(
        "failing",
        lambda device: [{"how": "memory"}],
        lambda point, device: workers.launch(fail, point, 2, device),
    )
    points = experiment.points(CPU)
    found = protocol.measure(experiment, CPU, points, tmp_path / "failing.csv", "test")
    (row,) = found.rows
    assert row["status"] == recording.OUT_OF_MEMORY
    assert row["note"].startswith("rank 1 of 2: OutOfMemoryError")


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


def test_torchrun_is_refused_for_an_experiment_of_one_process(tmp_path):
    command = [*TORCHRUN, "-m", "sizing.experiments", "record", "ceilings", "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "torchrun is for experiments of several processes, not 'ceilings'" in done.stderr
    assert not list(tmp_path.rglob("*.csv"))


SCRIPT = """
import sys
from pathlib import Path
import torch.distributed as dist
from sizing.measuring import protocol, workers
from sizing.measuring.device import cpu

def work(point, world):
    if point["fail"] and world.rank == 1:
        raise ArithmeticError("lost")
    if world.ranks > 1:
        dist.barrier()
    return {"rank": world.rank, "of": world.ranks}

experiment = protocol.Experiment(
    "joined",
    lambda device: [{"ranks": n, "fail": sys.argv[2] == "fail"} for n in (1, 2, 3)],
    lambda point, device: workers.launch(work, point, point["ranks"], device),
)
device = cpu()
points = experiment.points(device)
protocol.measure(experiment, device, points, Path(sys.argv[1]), "test", progress=False)
workers.leave()
"""


@pytest.mark.parametrize("fail", [False, True])
def test_torchrun_s_processes_take_the_place_of_our_own(tmp_path, fail):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [*TORCHRUN, str(tmp_path / "script.py"), str(tmp_path / "joined.csv")]
    done = subprocess.run(
        [*command, "fail" if fail else "work"], capture_output=True, text=True, timeout=120
    )
    if fail:
        assert done.returncode != 0
        assert "rank 1 of 2: ArithmeticError: lost" in done.stderr
        return
    assert done.returncode == 0, done.stderr
    rows = recording.read(tmp_path / "joined.csv").rows
    assert [(row["ranks"], row["rank"], row["of"]) for row in rows[:3]] == [
        (1, 0, 1), (2, 0, 2), (2, 1, 2),
    ]  # fmt: skip
    assert rows[3]["status"] == recording.UNAVAILABLE
    assert rows[3]["note"] == "needs 3 processes, torchrun started 2"


# --- The engines ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    """Every engine, live: {(engine, stage): its ranks' rows}."""
    experiment = zero.EXPERIMENT
    path = tmp_path_factory.mktemp("zero") / "zero.csv"
    found = protocol.measure(experiment, CPU, experiment.points(CPU), path, "test", progress=False)
    grouped = {}
    for row in found.rows:
        grouped.setdefault((row["engine"], row["stage"]), []).append(row)
    return {name: ranks for name, ranks in grouped.items() if ranks[0]["status"] == recording.OK}


def state(rows) -> float:
    """Bytes a parameter between steps, the largest of all ranks."""
    return max(row["resident_bytes"] for row in rows) / rows[0]["parameters"]


def test_every_engine_ran_on_every_rank(rows):
    expected = [name for name in zero.ENGINES if name[0] != "deepspeed" or DEEPSPEED]
    assert list(rows) == expected
    for (engine, _), ranks in rows.items():
        assert [row["rank"] for row in ranks] == ([0] if engine == "single" else [0, 1])


def test_every_engine_trains_the_same_model(rows):
    """The loss after eight steps on the same global batch."""
    (single,) = rows["single", 0]
    assert single["loss"] < 5.0 < torch.tensor(single["parameters"]).log()
    for ranks in rows.values():
        for row in ranks:
            assert row["loss"] == pytest.approx(single["loss"], rel=2e-5)


@pytest.mark.parametrize(("engine", "stage"), [("single", 0), ("ddp", 0), ("fsdp2", 3)])
def test_pytorch_s_engines_peak_where_the_formula_says(rows, engine, stage):
    fullest = max(rows[engine, stage], key=lambda row: row["peak_bytes"])
    # when FSDP2 lets go of a reduced gradient is a race of threads
    near = 0.035 if engine == "fsdp2" else 0.005
    assert memory(zero.run_of(fullest), device="cpu").total == pytest.approx(
        fullest["peak_bytes"], rel=near
    )


def test_fsdp2_divides_all_model_state(rows):
    assert state(rows["single", 0]) == pytest.approx(12, rel=1e-3)
    assert state(rows["ddp", 0]) == pytest.approx(12 + 4, rel=1e-3)  # and its buckets
    assert state(rows["fsdp2", 3]) == pytest.approx(12 / 2, rel=1e-3)


def test_fsdp2_and_ddp_send_what_is_counted(rows):
    for engine, stage in (("ddp", 0), ("fsdp2", 3)):
        for row in rows[engine, stage]:
            expected = communication(zero.run_of(row)).total
            assert row["sent_bytes"] == pytest.approx(expected, rel=1e-3)
    kept, gathered_twice = rows["fsdp2", 2][0], rows["fsdp2", 3][0]
    assert gathered_twice["sent_bytes"] / kept["sent_bytes"] == pytest.approx(1.5, rel=1e-3)
    assert gathered_twice["peak_bytes"] < kept["peak_bytes"]


@needs_deepspeed
def test_deepspeed_divides_what_each_stage_says(rows):
    """From stage 1 on its fp32 shard of the weights comes on top: 4/2 bytes a parameter."""
    assert state(rows["deepspeed", 0]) == pytest.approx(12, rel=1e-3)
    for stage in (1, 2):
        assert state(rows["deepspeed", stage]) == pytest.approx(4 + 8 / 2 + 4 / 2, rel=1e-3)
    bucket = 4 * zero.BUCKET
    shards = (4 + 4 + 4 + 8) / 2  # weights, fp32 weights, gradients, moments
    assert state(rows["deepspeed", 3]) == pytest.approx(shards + bucket, rel=1e-3)


@needs_deepspeed
def test_deepspeed_sends_more_than_the_paper_says(rows):
    """Stages 1 and 2 reduce by all-reduce, 2Ψ, and gather, Ψ; stage 3 sends the paper's 3Ψ."""
    sent = {stage: rows["deepspeed", stage][0] for stage in range(4)}
    weights = 4 * sent[0]["parameters"]
    half = 1 / 2  # what a ring of two sends of a payload
    assert sent[0]["sent_bytes"] == pytest.approx(2 * half * weights, rel=1e-3)
    for stage in (1, 2):
        assert sent[stage]["all_reduce_bytes"] == pytest.approx(2 * half * weights, rel=1e-3)
        assert sent[stage]["all_gather_bytes"] == pytest.approx(half * weights, rel=1e-3)
    assert sent[3]["sent_bytes"] == pytest.approx(3 * half * weights, rel=0.02)


def test_without_deepspeed_its_rows_say_so(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    point = next(p for p in zero.grid(CPU) if p["engine"] == "deepspeed")
    with pytest.raises(protocol.Unavailable, match=r"pip install -r requirements-distributed\.txt"):
        zero.measure(point, CPU)


def test_only_precisions_that_all_engines_know_are_taken():
    with pytest.raises(ValueError, match="precision: 'bf16' given"):
        zero.grid(CPU, precision="bf16")


def test_the_grid_follows_the_device(monkeypatch):
    points = zero.grid(CPU, micro_batch=3)
    assert {p["ranks"] for p in points} == {1, 2}
    assert len({p["ranks"] * p["micro_batch"] for p in points}) == 1  # one global batch
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "16")
    assert max(p["ranks"] for p in zero.grid(CPU)) == 16


# --- The instrument ------------------------------------------------------------------------------


def test_live_storages_counts_what_the_allocator_holds():
    with allocations.LiveStorages() as live:
        kept = torch.zeros(1000)
        view = kept[:10]  # noqa: F841
        assert live.bytes == live.peak == 4000
        torch.zeros(500)  # gone at once, but it was there
        assert (live.bytes, live.peak) == (4000, 6000)
        shapes = torch.zeros(10**9, device="meta")  # noqa: F841
        assert (live.bytes, live.peak) == (4000, 6000)
        kept.untyped_storage().resize_(0)
        assert live.bytes == 0
