"""The protocol of experiments, on a tiny one, and the sanity of what the real ones measure."""

import dataclasses
import math
import os
import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import sizing
from sizing import experiments
from sizing.experiments import __main__ as command_line
from sizing.experiments import (
    ceilings,
    memory_timeline,
    optimizers,
    sequence_length,
    speed_up_stack,
)
from sizing.measuring import allocations, device, protocol, recording, timing, training

HERE = device.Device("cpu", "Test(R) CPU @ 2.00GHz", 8 * 10**9, 2)
CPU = device.Device("cpu", "", 8 * 10**9, os.cpu_count())
SMALL_GPU = device.Device("cuda", "NVIDIA GeForce RTX 4060", 8 * 2**30, 24)
LARGE_GPU = device.Device("cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30, 132)


def fake(measure, points=3):
    """An experiment of a few numbered points."""

    def grid(device):
        return [{"x": x} for x in range(points)]

    return protocol.Experiment("fake", grid, measure, find=lambda: HERE)


def measured(experiment, path, **options):
    points = experiment.points(HERE)
    return protocol.measure(experiment, HERE, points, path, "a command", progress=False, **options)


@pytest.fixture
def learner(tmp_path, monkeypatch):
    """A learner's directory of its own, and live runs."""
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    monkeypatch.delenv("SIZING_RECORDED", raising=False)
    return tmp_path / "measurements"


@pytest.fixture
def fake_registered(learner, monkeypatch):
    """`fake` under its name, on the device `HERE`."""
    chosen = fake(lambda point, device: {"square": point["x"] ** 2})
    monkeypatch.setattr(experiments, "experiment", lambda name: chosen)
    return learner


# The runner


def test_a_row_for_each_point(tmp_path):
    path = tmp_path / "fake.csv"
    result = measured(fake(lambda point, device: {"square": point["x"] ** 2}), path)
    assert result.column("square") == [0, 1, 4]
    assert result.column("status") == ["ok"] * 3
    assert protocol.complete(result)


def test_a_series_gives_several_rows(tmp_path):
    series = fake(lambda point, device: [{"t": t} for t in range(point["x"])])
    rows = measured(series, tmp_path / "fake.csv").rows
    assert [(row["x"], row["t"]) for row in rows] == [(1, 0), (2, 0), (2, 1)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("too much"),
        device.DeviceTooSmall("too much"),
        torch.OutOfMemoryError("too much\nand a long report"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: too much"),
    ],
)
def test_out_of_memory_is_a_row_and_is_survived(tmp_path, error):
    def measure(point, device):
        if point["x"] == 1:
            raise error
        return {"square": point["x"] ** 2}

    result = measured(fake(measure), tmp_path / "fake.csv")
    assert result.column("status") == ["ok", "out of memory", "ok"]
    assert "too much" in result.rows[1]["note"] and "\n" not in result.rows[1]["note"]
    assert [row["x"] for row in result.ok] == [0, 2]


def test_out_of_memory_frees_what_the_point_held(tmp_path):
    alive = []

    class Held:
        def __init__(self):
            self.cycle = self
            alive.append(True)

        def __del__(self):
            alive.pop()

    def measure(point, device):
        assert not alive, "the last point's memory is still held"
        held = Held()
        raise MemoryError(f"{held}")

    assert measured(fake(measure), tmp_path / "fake.csv").column("status") == ["out of memory"] * 3
    assert not alive


def test_a_missing_library_is_a_row(tmp_path):
    def measure(point, device):
        raise protocol.Unavailable("no such library")

    row = measured(fake(measure, points=1), tmp_path / "fake.csv").rows[0]
    assert (row["status"], row["note"]) == ("not available", "no such library")


@pytest.mark.parametrize("error", [ZeroDivisionError("bug"), RuntimeError("bug")])
def test_another_error_is_raised_and_earlier_rows_are_kept(tmp_path, error):
    def measure(point, device):
        if point["x"] == 2:
            raise error
        return {"square": point["x"] ** 2}

    path = tmp_path / "fake.csv"
    with pytest.raises(type(error), match="bug"):
        measured(fake(measure), path)
    kept = recording.read(path)
    assert kept.column("square") == [0, 1]
    assert kept.provenance["points"] == "2 of 3"
    assert not protocol.complete(kept)


def test_the_deadline_keeps_what_was_measured(tmp_path):
    import time

    def measure(point, device):
        time.sleep(0.05)
        return {}

    end = time.monotonic() + 1
    result = measured(fake(measure, points=50), tmp_path / "fake.csv", deadline=end)
    assert 1 <= len(result.rows) < 50 and not protocol.complete(result)
    with pytest.raises(TimeoutError, match="fake"):
        measured(fake(measure), tmp_path / "none.csv", deadline=time.monotonic() - 1)
    assert not (tmp_path / "none.csv").exists()


def test_a_recording_that_was_cut_goes_on(tmp_path):
    path, taken = tmp_path / "fake.csv", []

    def measure(point, device):
        if point["x"] == 2 and len(taken) == 2:
            raise ZeroDivisionError
        taken.append(point["x"])
        return {"square": point["x"] ** 2}

    with pytest.raises(ZeroDivisionError):
        measured(fake(measure), path)
    cut = recording.read(path)
    points = fake(measure).points(HERE)
    assert protocol.goes_on(cut, HERE, points)
    assert not protocol.goes_on(cut, LARGE_GPU, points)
    assert not protocol.goes_on(cut, HERE, points[:2])
    taken.append("again")
    whole = measured(fake(measure), path, before=cut)
    assert taken == [0, 1, "again", 2] and whole.column("square") == [0, 1, 4]
    assert protocol.complete(recording.read(path))
    assert not protocol.goes_on(whole, HERE, points)


def test_parts_are_planned_for_eight_minutes_and_hold_every_experiment_of_one_gpu():
    ones = {
        name for name in experiments.names() if experiments.experiment(name).find is device.find
    }
    assert sorted(name for part in command_line.PARTS for name in part) == sorted(ones)
    planned = [sum(command_line.SECONDS[name] for name in part) for part in command_line.PARTS]
    assert max(planned) < 480
    for part, seconds in enumerate(planned, 1):
        assert f"--part {part}        {seconds} s" in command_line.__doc__


def test_a_cpu_refuses_what_it_cannot_hold():
    HERE.require(1)
    with pytest.raises(device.DeviceTooSmall, match=r"not tried: estimated 1000000\.00 GB"):
        HERE.require(1e15)


# Files


def test_provenance_and_rows_survive_the_file(tmp_path):
    rows = [
        {"x": 1, "name": 'a, "b"', "status": "ok", "note": None, "value": 0.1 + 0.2},
        {"x": 2, "name": "# c", "status": "ok", "note": None, "large": 2**63, "small": 1e-12},
    ]
    facts = device.provenance(HERE, "fake", "run: this")
    path = recording.write(
        recording.Recording("fake", HERE.slug, rows, facts), tmp_path / "fake.csv"
    )
    found = recording.read(path)
    assert found.provenance == facts
    assert found.name == "fake"
    for key in ("x", "name", "note", "value", "large", "small"):
        assert found.column(key) == [row.get(key) for row in rows]
    assert list(found.frame().x) == [1, 2]


def test_provenance_says_how_it_was_made():
    facts = device.provenance(HERE, "fake", "a command")
    for key in ("device", "driver", "cuda", "torch", "transformers", "python", "date", "commit"):
        assert facts[key]
    assert facts["torch"] == torch.__version__
    assert facts["threads"] == str(torch.get_num_threads())
    assert os.path.expanduser("~") not in " ".join(facts.values())


@pytest.mark.parametrize(
    ("kind", "name", "slug"),
    [
        ("cuda", "NVIDIA H100 80GB HBM3", "h100-80gb-hbm3"),
        ("cuda", "NVIDIA GeForce RTX 4070 Laptop GPU", "rtx-4070-laptop"),
        ("cuda", "Tesla T4", "t4"),
        ("cuda", "NVIDIA A100-SXM4-40GB", "a100-sxm4-40gb"),
        ("cpu", "Intel(R) Xeon(R) CPU @ 2.20GHz", "intel-xeon-4-core"),
        ("cpu", "AMD EPYC 7763 64-Core Processor", "amd-epyc-7763-4-core"),
        ("cpu", "", "cpu-4-core"),
    ],
)
def test_slugs(kind, name, slug):
    assert device.Device(kind, name, None, 4).slug == slug


def test_a_learners_runs_are_kept_beside_each_other(fake_registered):
    first, second = experiments.run("fake"), experiments.run("fake")
    files = sorted(fake_registered.glob(f"{HERE.slug}/fake.*.csv"))
    assert len(files) == 2
    assert [recording.read(path).provenance["date"] for path in files] == [
        first.provenance["date"],
        second.provenance["date"],
    ]
    assert experiments.own("fake").column("square") == [0, 1, 4]
    assert experiments.devices("fake") == (HERE.slug,)
    assert experiments.load("fake", HERE.slug[:6]).device == HERE.slug
    assert experiments.load("fake").rows == second.rows


def test_a_run_stopped_before_its_first_row_is_not_read(fake_registered):
    recording.new_file("fake", HERE.slug)
    assert experiments.own("fake") is None
    with pytest.raises(ValueError, match="name: no recording of 'fake'"):
        experiments.load("fake", "test")


def test_recordings_go_before_a_learners_runs(fake_registered, tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "MEASUREMENTS", tmp_path / "shipped")
    for slug, kind in ((HERE.slug, "cpu"), ("h100-pcie", "cuda"), ("h100-80gb", "cuda")):
        path = tmp_path / "shipped" / slug / "fake.csv"
        row = {"square": -1, "status": "ok", "note": None}
        recording.write(recording.Recording("fake", slug, [row], {"kind": kind}), path)
    experiments.run("fake")
    assert experiments.load("fake", HERE.slug).column("square") == [-1]
    assert [r.device for r in experiments.recordings("fake", gpu=True)] == [
        "h100-80gb",
        "h100-pcie",
    ]
    assert [r.device for r in experiments.recordings("fake", gpu=False)] == [HERE.slug]
    assert experiments.load("fake", "h100-p").device == "h100-pcie"
    with pytest.raises(ValueError, match="device: 'h100' is ambiguous; allowed: h100-80gb, h100-p"):
        experiments.load("fake", "h100")
    with pytest.raises(ValueError, match=r"device: .*'a100'; allowed: h100-80gb, h100-pcie, test"):
        experiments.load("fake", "a100")


def test_unknown_names_say_what_is_allowed(learner):
    with pytest.raises(ValueError, match="unknown experiment 'ceiling'; allowed: ceilings, m"):
        experiments.run("ceiling")
    with pytest.raises(ValueError, match=r"option: ceilings has no 'size'; allowed: dtypes, sizes"):
        experiments.run("ceilings", size=3)
    with pytest.raises(ValueError, match=r"name: no recording of 'ceiling'; allowed: .*ceilings"):
        experiments.load("ceiling", "h100")
    with pytest.raises(ValueError, match="dtypes: unknown dtype 'fp64'; allowed: fp32"):
        experiments.run("ceilings", dtypes=("fp64",))
    with pytest.raises(ValueError, match=r"column: 'times' .* allowed: x"):
        recording.Recording("fake", "here", [{"x": 1}]).column("times")


# Recorded mode


@pytest.mark.parametrize("name", experiments.names())
def test_recorded_mode_measures_nothing(name, learner, monkeypatch):
    monkeypatch.setenv("SIZING_RECORDED", "1")
    first, second = experiments.run(name), experiments.run(name)
    assert first == second == experiments.load(name)
    assert first.device == experiments.reference(name)
    assert not learner.exists()


@pytest.mark.parametrize("name", experiments.names())
def test_the_reference_recording_is_whole(name):
    recorded = experiments.load(name, experiments.reference(name))
    assert protocol.complete(recorded)
    assert recorded.provenance["kind"] == "cpu"
    assert "dirty" not in recorded.provenance["commit"]
    assert {row["status"] for row in recorded.rows} <= {"ok", "not available"}


def test_reading_a_recording_needs_no_torch():
    code = (
        "import sys, sizing; sizing.experiments.load('ceilings', sizing.experiments.REFERENCE);"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# The command line


def test_record_goes_on_after_a_failure(tmp_path, monkeypatch, capsys):
    def broken(point, device):
        raise ZeroDivisionError("bug")

    chosen = {
        "ceilings": fake(broken),
        "model-size": fake(lambda point, device: {"square": point["x"] ** 2}),
    }
    monkeypatch.setattr(command_line, "experiment", chosen.get)
    code = command_line.main(["record", "ceilings", "model-size", "--out", str(tmp_path)])
    assert code == 1
    assert "ceilings: ZeroDivisionError: bug" in capsys.readouterr().err
    assert recording.read(tmp_path / HERE.slug / "model-size.csv").column("square") == [0, 1, 4]
    assert command_line.main(["record", "model-size", "--out", str(tmp_path)]) == 0


def test_record_refuses_an_unknown_name(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["record", "ceiling"])
    assert "allowed: ceilings, model-size" in capsys.readouterr().err


# Timing


def test_the_median_and_its_spread():
    found = timing.summary([5.0, 1.0, 2.0, 3.0, 4.0, 100.0, 2.5])
    assert (found.median, found.low, found.high, found.samples) == (3.0, 1.0, 100.0, 7)
    assert timing.summary([1.0] * 4).row["seconds_p90"] == 1.0


def test_short_calls_share_a_sample_and_long_ones_do_not():
    counted = []
    short = timing.timed(lambda: counted.append(1), CPU, budget=0.01, warm=0)
    assert short.calls > 1
    assert len(counted) == 2 + short.samples * short.calls  # a warm-up and an estimate before
    assert timing.timed(lambda: None, CPU, budget=0.01, warm=0, shortest=0, most=7).samples == 7


# Ceilings


def test_product_flops_are_what_torch_counts():
    size = 64
    with FlopCounterMode(display=False) as counter:
        torch.randn(size, size) @ torch.randn(size, size)
    assert ceilings.product_flops(size) == counter.get_total_flops()


def test_ceilings_on_this_cpu(learner):
    points = ceilings.grid(CPU, dtypes=("fp32", "bf16"), sizes=(64, 256), copies=(2**20,))
    assert [(p["kind"], p["dtype"], p["size"]) for p in points] == [
        ("matmul", "fp32", 64),
        ("matmul", "fp32", 256),
        ("matmul", "bf16", 64),
        ("matmul", "bf16", 256),
        ("copy", None, 2**20),
    ]
    product, copy = ceilings.measure(points[1], CPU), ceilings.measure(points[-1], CPU)
    assert product["flops_per_second"] == pytest.approx(product["flops"] / product["seconds"])
    # No core does 32 lanes x 2 units x 2 operations at 8 GHz, none copies at a TB/s.
    assert 1e6 < product["flops_per_second"] < os.cpu_count() * 32 * 2 * 2 * 8e9
    assert copy["bytes"] == 2 * 2**20
    assert 1e6 < copy["bytes_per_second"] < 1e12
    assert product["seconds_p10"] <= product["seconds"] <= product["seconds_p90"]


def test_grids_grow_with_the_gpu(monkeypatch):
    monkeypatch.setattr(ceilings, "_probe", lambda dtype, device: 1e13)
    small, large = ceilings.grid(SMALL_GPU), ceilings.grid(LARGE_GPU)
    assert max(p["size"] for p in small if p["kind"] == "copy") == 2**30
    assert max(p["size"] for p in large if p["kind"] == "copy") == 2**32
    assert {p["dtype"] for p in large} == {"fp32", "tf32", "bf16", "fp16", None}
    sizes = experiments.experiment("model-size")
    assert sizes.points(SMALL_GPU)[-1]["parameters"] < sizes.points(LARGE_GPU)[-1]["parameters"]
    assert {p["micro_batch"] for p in sizes.points(LARGE_GPU)} == {8}


@pytest.mark.parametrize("name", experiments.names())
def test_every_grid_fits_a_gpu_and_a_cpu(name, monkeypatch):
    monkeypatch.setattr(ceilings, "_probe", lambda dtype, device: 1e12)
    chosen = experiments.experiment(name)
    assert chosen.name == name
    for found in (CPU, SMALL_GPU, LARGE_GPU):
        points = chosen.points(found)
        assert points == [dict(t) for t in dict.fromkeys(tuple(p.items()) for p in points)]
        assert not {"status", "note"} & {key for point in points for key in point}


@pytest.mark.parametrize(
    ("name", "listed"),
    [
        ("NVIDIA H100 80GB HBM3", "h100-sxm"),
        ("NVIDIA H100 PCIe", "h100-pcie"),
        ("NVIDIA A100 80GB PCIe", "a100-pcie-80gb"),
        ("NVIDIA A100-SXM4-40GB", "a100-sxm-40gb"),
        ("NVIDIA H200", "h200-sxm"),
        ("NVIDIA GeForce RTX 4090", "rtx-4090"),
    ],
)
def test_a_driver_s_name_finds_the_datasheet(name, listed):
    found = device.Device("cuda", name, 1, 1)
    assert found.datasheet("bf16") == sizing.hardware.gpu(listed).peak["bf16"]


def test_a_device_without_a_datasheet():
    assert CPU.datasheet("bf16") is None
    assert device.Device("cuda", "NVIDIA H200 NVL", 1, 1).datasheet("bf16") is None
    assert device.Device("cuda", "Tesla T4", 1, 1).datasheet("bf16") is None  # has no bf16


def test_the_roofline_is_the_fastest_product_and_the_fastest_copy():
    def product(dtype, rate, status="ok"):
        row = {"kind": "matmul", "dtype": dtype, "size": 64, "status": status}
        return row | {"flops_per_second": rate}

    def copy(size, rate):
        return {"kind": "copy", "size": size, "status": "ok", "bytes_per_second": rate}

    rows = [product("fp32", 1e9), product("fp32", 3e9), product("bf16", 2e9), copy(8, 9e9)]
    rows += [product("bf16", None, "out of memory"), copy(64, 5e9)]
    facts = device.provenance(HERE, "ceilings", "a command")
    found = experiments.roofline(recording.Recording("ceilings", "here", rows, facts))
    assert found.peak == {"fp32": 3e9, "bf16": 2e9}
    assert (found.bandwidth, found.memory) == (9e9, HERE.memory)
    with pytest.raises(ValueError, match="recording: 'batch' given; allowed: 'ceilings'"):
        experiments.roofline(recording.Recording("batch", "here", [], facts))
    with pytest.raises(ValueError, match="lacks one"):
        experiments.roofline(recording.Recording("ceilings", "here", rows[:1], facts))


def test_every_recording_is_held_against_the_ceilings_of_its_own_device(learner):
    def ceilings_of(slug, rate):
        rows = [
            {"kind": "matmul", "dtype": "fp32", "status": "ok", "flops_per_second": rate},
            {"kind": "copy", "size": 8, "status": "ok", "bytes_per_second": 1e9},
        ]
        facts = device.provenance(HERE, "ceilings", "a command")
        return recording.Recording("ceilings", slug, rows, facts)

    reference = experiments.load("model-size", experiments.REFERENCE)
    shipped = experiments.roofline(experiments.load("ceilings", experiments.REFERENCE))
    assert experiments.roofline_of(reference) == shipped
    recording.write(ceilings_of("laptop", 5e9), recording.new_file("ceilings", "laptop"))
    mine = recording.Recording("model-size", "laptop", [], {})
    assert experiments.roofline_of(mine).peak == {"fp32": 5e9}
    assert experiments.roofline_of(reference) == shipped  # though the newest ceilings are others
    with pytest.raises(ValueError, match="of 'elsewhere', where the experiment 'ceilings' was"):
        experiments.roofline_of(recording.Recording("model-size", "elsewhere", [], {}))


# Training steps


@pytest.fixture(scope="module")
def step_row():
    """One measured step of the smallest model."""
    sizes = experiments.experiment("model-size")
    point = sizes.points(CPU, models=("pythia-14m",), sequence=32)[0]
    return {**point, **sizes.measure(point, CPU)}


def test_model_size_measures_a_real_step(step_row):
    run = sizing.Run(sizing.Model("pythia-14m"), sequence=32, precision="fp32")
    assert step_row["tokens"] == 32
    assert step_row["flops"] == sizing.flops(run).total
    assert step_row["tokens_per_second"] == pytest.approx(32 / step_row["seconds"])
    assert not [key for key in step_row if "ceiling" in key]  # that is measured by `ceilings` alone
    assert training.as_run(step_row) == run


def test_the_peak_on_a_cpu_is_what_the_trace_says(step_row):
    from sizing import trace

    assert step_row["peak_source"] == "CPU allocator events"
    expected = trace.memory(training.as_run(step_row), device="cpu").total
    assert step_row["peak_bytes"] == pytest.approx(expected, rel=1e-4)


def test_a_step_returns_all_that_it_allocates():
    run = sizing.Run(sizing.Model("pythia-14m"), sequence=16, precision="fp32")
    step = training.real_step(run, CPU)
    assert 0 < step.batch.max() < run.model.vocab
    before = training.real_step(run, CPU).batch
    assert torch.equal(step.batch, before)  # the same tokens every time
    step()
    events = allocations.cpu_events(step)
    assert sum(event.bytes for event in events) == 0
    # Weights and AdamW's two moments, with a step counter a tensor, and buffers of positions.
    assert math.isclose(allocations.resident(step), 12 * run.model.parameters.total, rel_tol=0.01)


@pytest.fixture
def untimed(monkeypatch):
    """Two calls to warm up in place of a timing."""

    def stand_in(call, *_, **__):
        call()
        call()
        return timing.summary([1.0])

    for module in (training, sequence_length, optimizers):
        monkeypatch.setattr(module, "timed", stand_in)


def rows(name, **options):
    """Live rows of an experiment on this CPU."""
    chosen = experiments.experiment(name)
    found = []
    for point in chosen.points(CPU, **options):
        measured = chosen.measure(point, CPU)
        for row in measured if isinstance(measured, list) else [measured]:
            found.append({**point, **row})
    return found


def test_recompute_trades_flops_for_memory(untimed):
    found = {
        (row["attention"], row["recompute"]): row
        for row in rows("recompute", sequence=512, micro_batch=1)
    }
    none, selective, full = (found["eager", kind] for kind in ("none", "selective", "full"))
    assert none["hardware_flops"] == none["flops"] == full["flops"]
    assert none["flops"] < selective["hardware_flops"] < full["hardware_flops"]
    assert full["peak_bytes"] < selective["peak_bytes"] < none["peak_bytes"]
    assert found["flash", "none"]["peak_bytes"] < none["peak_bytes"]


def test_a_larger_micro_batch_needs_more_memory(untimed):
    one, many = rows("batch", sequence=64, micro_batches=(1, 32))
    assert one["peak_bytes"] < many["peak_bytes"]
    assert many["flops"] == 32 * one["flops"]


def test_attention_kernels_agree_and_eager_holds_its_scores(untimed):
    query, key, value = torch.randn(3, 1, 2, 48, 64, dtype=torch.float64)
    expected = torch.nn.functional.scaled_dot_product_attention(query, key, value, is_causal=True)
    torch.testing.assert_close(sequence_length.eager_attention(query, key, value), expected)
    found = {(row["part"], row["kernel"]): row for row in rows("sequence-length", sequences=(512,))}
    eager, flash = found["attention", "eager"], found["attention", "flash"]
    scores = 4 * eager["heads"] * 512**2
    assert eager["flops"] == flash["flops"] == 6 * 2 * 4 * 512**2 * 64
    assert eager["transient_bytes"] > 2 * scores > flash["transient_bytes"]
    assert found["model", "eager"]["peak_bytes"] > found["model", "flash"]["peak_bytes"]


def test_optimizer_states_weigh_what_their_definition_says(untimed):
    found = {row["optimizer"]: row for row in rows("optimizers", curves=())}
    weights = training.BYTES_MODEL.parameters.total
    counters = 4 * 75  # one fp32 step count for each of the model's tensors
    assert len(list(training.real_step(sizing.Run(training.BYTES_MODEL), CPU).named)) == 75
    exact = {"sgd": 0, "momentum": 4 * weights, "lion": 4 * weights}
    exact |= dict.fromkeys(("adamw", "adamw-loop", "adamw-fused"), 8 * weights + counters)
    for name, expected in exact.items():
        assert found[name]["state_bytes"] == expected, name
    assert found["adafactor"]["state_bytes"] < 0.1 * weights
    assert 2 * weights < found["adamw-8bit"]["state_bytes"] < 2.1 * weights
    assert (
        found["adamw"]["transient_bytes"] > 3.9 * weights > found["adamw-fused"]["transient_bytes"]
    )


H100 = device.Device("cuda", "NVIDIA H100 80GB HBM3", 85_520_809_984, 132)


@pytest.mark.parametrize("where", [HERE, H100], ids=["cpu", "gpu"])
def test_each_row_of_the_speed_up_stack_makes_one_change(where):
    points = [p for p in speed_up_stack.grid(where) if p["kind"] != "job"]
    shape = ("precision", "attention", "optimizer", "micro_batch", "compiled")
    plain = before = points[0]
    for point in points[1:]:
        start = before if point["kind"] == "stacked" else plain
        assert sum(point[key] != start[key] for key in shape) == 1, point["change"]
        before = point
    stacked = [p for p in points if p["kind"] == "stacked"]
    changed = {key for key in shape if stacked[-1][key] != plain[key]}
    assert changed == (set(shape) if where.cuda else {"attention", "optimizer", "micro_batch"})


def test_a_speed_up_is_measured_against_the_datasheet(monkeypatch):
    point = speed_up_stack.grid(HERE, model="tiny-llama", sequence=32)[0]
    assert speed_up_stack.measure(point, HERE)["mfu"] is None
    monkeypatch.setattr(device.Device, "datasheet", lambda self, dtype: 1e12)
    row = speed_up_stack.measure(point, HERE)
    assert row["mfu"] == pytest.approx(row["flops"] / row["seconds"] / 1e12)


def test_without_a_compiler_its_row_is_not_available(monkeypatch):
    points = speed_up_stack.grid(HERE, model="tiny-llama", sequence=32, compiled=True)
    point = next(p for p in points if p["compiled"] and p["kind"] == "stacked")

    def broken(*args, **kwargs):
        raise speed_up_stack.TorchDynamoException("no working C++ compiler was found\nin PATH")

    monkeypatch.setattr(speed_up_stack.Step, "__call__", broken)
    with pytest.raises(protocol.Unavailable, match=r"torch\.compile: no working C\+\+ compiler"):
        speed_up_stack.measure(point, HERE)


@pytest.mark.parametrize("where", [HERE, H100], ids=["cpu", "gpu"])
def test_each_job_makes_one_of_case_d_s_changes(where):
    points = {p["change"]: p for p in speed_up_stack.grid(where) if p["kind"] == "job"}
    first, last = points[speed_up_stack.AS_IT_WAS], points[speed_up_stack.ALL_FIVE]
    assert {key: first[key] for key in speed_up_stack.JOB} == speed_up_stack.JOB
    for name, change in speed_up_stack.FIVE.items():
        assert {key for key in first if points[name][key] != first[key]} - {"change"} == set(change)
        assert {key: last[key] for key in change} == change
    for point in points.values():  # the same work, in whole steps, with the saves at their ends
        steps = point["sequences"] / point["micro_batch"] / point["accumulation"]
        assert steps % point["saves"] == 0


def job(**changed):
    point = next(
        p for p in speed_up_stack.grid(HERE, sequence=16, sequences=32)
        if p["change"] == speed_up_stack.AS_IT_WAS
    )  # fmt: skip
    return speed_up_stack.measure(point | {"workers": 0} | changed, HERE)


def test_a_job_says_where_its_time_goes():
    slow = job()
    parts = [slow[f"{name}_seconds"] for name in ("data", "compute", "save")]
    assert sum(parts) == pytest.approx(slow["seconds"]) and min(parts) > 0
    # without workers each of the 32 sequences' reads is waited for
    assert slow["data_seconds"] > 32 * speed_up_stack.loading.SLOW
    assert slow["tokens"] == 32 * 16
    weights = training.BYTES_MODEL.parameters.total
    assert 12 * weights < slow["saved_bytes"] < 12.1 * weights
    local = job(disk="local")
    assert local["data_seconds"] < slow["data_seconds"] / 2
    hidden = job(workers=4)
    assert hidden["data_seconds"] < slow["data_seconds"]


def test_tokens_cut_before_are_those_cut_on_the_way(tmp_path):
    loading, path = speed_up_stack.loading, tmp_path / "tokens.bin"
    loading.pretokenise(speed_up_stack.TEXT, path)
    text, cut = (
        loading.Pieces(where, tokenised, 64, 10**6, 0.0)
        for where, tokenised in ((speed_up_stack.TEXT, False), (path, True))
    )
    assert path.stat().st_size == 2 * speed_up_stack.TEXT.stat().st_size
    for number in (0, 7, 77_000, 999_999):  # the last two lie beyond the file's end
        assert text[number].tolist() == cut[number].tolist()
        assert len(cut[number]) == 64


def test_torchao_s_eight_bit_state_is_what_the_formula_says():
    pytest.importorskip("torchao", reason="torchao is not installed: pip install torchao==0.18.0")
    model = training.real_step(
        sizing.Run(training.BYTES_MODEL, sequence=1, precision="fp32"), HERE
    ).model
    optimizer = optimizers.torchao_adamw_8bit(model.parameters())
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    with torch.compiler.set_stance("force_eager"):
        optimizer.step()
    held = allocations.storage_bytes(*allocations.optimizer_tensors(optimizer.state))
    run = sizing.Run(training.BYTES_MODEL, precision="fp32", optimizer="adamw-8bit")
    parameters = list(model.parameters())
    quantized = [p for p in parameters if p.numel() >= 4096]
    # beside what the formula counts: two tables of 256 fp32 codes for each, and step counters
    tables = 2 * 256 * 4 * len(quantized) + 4 * len(parameters)
    assert held == sizing.memory(run, device="cpu").optimizer + tables


def test_loss_curves_start_at_chance_and_learn():
    curve = rows("optimizers", optimizers=(), curves=("adamw",), rates=(1e-2,))
    assert [row["step"] for row in curve] == list(range(optimizers.STEPS))
    assert curve[0]["loss"] == pytest.approx(math.log(64), rel=0.02)
    assert curve[0]["entropy"] < curve[-1]["loss"] < 0.9 * curve[0]["loss"]
    with pytest.raises(
        ValueError, match="curves: unknown optimizer 'adam'; allowed: sgd, momentum"
    ):
        rows("optimizers", curves=("adam",))


def test_a_loss_that_is_not_finite_ends_its_curve():
    curve = rows("optimizers", optimizers=(), curves=("sgd",), rates=(1e20,))
    assert len(curve) < optimizers.STEPS
    assert curve[-1]["loss"] is None and "not finite" in curve[-1]["note"]


def test_the_chain_has_the_entropy_that_it_says():
    chain = optimizers.MarkovChain(8)
    text = chain.sample(64, 400)
    pairs = torch.zeros(8, 8)
    pairs.index_put_(
        (text[:, :-1].flatten(), text[:, 1:].flatten()), torch.ones(1), accumulate=True
    )
    seen = pairs / pairs.sum(1, keepdim=True)
    estimate = -(pairs.sum(1) / pairs.sum() * (seen * seen.clamp(min=1e-9).log()).sum(1)).sum()
    assert chain.entropy == pytest.approx(estimate.item(), rel=0.03)
    assert torch.equal(optimizers.MarkovChain(8).sample(64, 400), text)


def test_accumulated_gradients_are_equal_up_to_rounding():
    found = rows("accumulation", micro_batches=(1, 4))
    for row in found:
        same_sum = row["labels"] == "equal" or row["divided_by"] == "tokens of the batch"
        if same_sum:
            assert row["relative_difference"] < 10 * row["rounding"], row
        else:
            assert row["relative_difference"] > 0.1, row
    assert any(row["relative_difference"] > 0 for row in found)
    with pytest.raises(ValueError, match="micro_batches: 3 given; allowed: divisors of 8"):
        rows("accumulation", micro_batches=(3,))


def test_blocks_are_named_for_when_they_live():
    marks = [("forward", 0), ("loss", 10), ("optimizer", 20)]
    Block = memory_timeline.Block

    def names(*blocks):
        return [memory_timeline._category(block, marks, (1000,)) for block in blocks]

    assert names(Block(1, 15, 8), Block(1, 5, 8)) == ["activations", "temporary"]
    assert names(Block(12, 30, 8), Block(12, 18, 8)) == ["gradients", "temporary"]
    assert names(Block(12, None, 8), Block(21, None, 8)) == ["gradients", "temporary"]
    assert names(Block(1, 5, 1000), Block(12, 13, 1000)) == ["logits", "logits"]
    assert names(Block(21, 22, 1000)) == ["temporary"]


def test_blocks_are_paired_by_address():
    events = [
        allocations.Allocation(*event)
        for event in ((1, 7, 64), (2, 9, 32), (3, 7, -64), (4, 7, 16), (5, 5, -8))
    ]
    Block = memory_timeline.Block
    expected = {Block(0, 2, 64), Block(1, None, 32), Block(3, None, 16)}
    assert set(memory_timeline.paired(events)) == expected


def test_the_timeline_reaches_the_peak_of_the_step(monkeypatch):
    monkeypatch.setattr(memory_timeline, "MOMENTS", 10**6)
    found = rows("memory-timeline", models=("pythia-14m",), sequence=64, micro_batch=1)
    for kind in ("none", "full"):
        timeline = [row for row in found if row["recompute"] == kind]
        run = training.as_run(timeline[0])
        step = training.real_step(run, CPU)
        step()
        peak = allocations.peak(step, CPU, allocations.resident(step))["peak_bytes"]
        assert max(row["total"] for row in timeline) == peak
        assert [row["time"] for row in timeline] == sorted(row["time"] for row in timeline)
        gradients = max(row["gradients"] for row in timeline)
        assert gradients == pytest.approx(4 * run.model.parameters.total, rel=0.01)
        assert max(row["logits"] for row in timeline) == 3 * 4 * run.tokens * run.model.vocab
        assert timeline[-1]["activations"] == 0


def test_the_formula_is_measured():
    settings = (
        {},
        {"recompute": "full", "micro_batch": 2},
        {"precision": "bf16-mixed"},
        {"precision": "bf16", "gradients": "fp32"},
    )
    found = rows("formula-vs-device", models=("pythia-14m",), settings=settings)
    assert len(found) == len(settings)
    for row in found:
        run = dataclasses.replace(training.as_run(row), gradients=row["gradients"])
        assert row["predicted_bytes"] == sizing.memory(run, device="cpu").total
        assert row["ratio"] == pytest.approx(1, abs=0.02), row
