"""finetune-stacks: what its recording must say, and a step of the real trainers where they are."""

import importlib.util
import subprocess
import sys

import pytest

from sizing import experiments
from sizing.experiments import finetune_stacks, stacks
from sizing.measuring import device
from sizing.measuring.protocol import Unavailable

RECORDED = experiments.load("finetune-stacks", experiments.reference("finetune-stacks"))
GPU = device.Device("cuda", "NVIDIA H100 80GB HBM3", 80 * 2**30, 132)
SMALL = {"sequence": 64, "micro_batch": 1}


def name(row):
    changed = (f"{k} {row[k]}" for k, usual in stacks.FIELDS.items() if row[k] != usual)
    return f"{row['trainer']}: {', '.join(changed)}"


@pytest.mark.parametrize("row", RECORDED.rows, ids=name)
def test_the_formula_is_within_one_per_cent_of_the_real_trainer(row):
    for step, column in (("steady", "peak_bytes"), ("first", "first_bytes")):
        said = stacks.formula(row, step)
        assert said.total == pytest.approx(row[column], rel=0.01)
        assert said.total == sum(said.parts.values())
    assert stacks.formula(row).phase == row["peak_phase"]


@pytest.mark.parametrize("row", RECORDED.rows, ids=name)
def test_parts_by_allocation_are_the_peak(row):
    kinds = ("parameters", "optimizer", "activations", "logits", "gradients", "temporary", "other")
    assert sum(row[f"{kind}_bytes"] for kind in kinds) == row["peak_bytes"]
    assert abs(row["other_bytes"]) < 0.001 * row["peak_bytes"]
    run = stacks.run_of(row)
    assert row["optimizer_bytes"] >= 8 * row["trained_parameters"] * (
        0.5 if run.quantization else 1
    )


def test_trained_parameters_are_those_of_the_run():
    from sizing.run import adapter_parameters

    for row in RECORDED.rows:
        run = stacks.run_of(row)
        count = adapter_parameters(run) if run.lora else run.model.parameters.total
        assert row["trained_parameters"] == count


def test_kernels_of_gpus_are_in_the_grid_of_a_gpu_alone():
    here, there = finetune_stacks.grid(device.cpu()), finetune_stacks.grid(GPU)
    assert {row["kernels"] for row in here} == {"eager"}
    assert {row["kernels"] for row in there} == {"eager", "liger", "compiled"}
    assert {row["micro_batch"] for row in there} == {8}
    assert len(there) == len(here) + len(stacks.KERNELS)


def test_a_missing_library_is_a_row_and_no_error(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda library: None)
    point = next(p for p in finetune_stacks.grid(device.cpu()) if p["quantization"])
    with pytest.raises(Unavailable, match="trl is not installed"):
        finetune_stacks.measure(point, device.cpu())


def test_reading_needs_neither_torch_nor_the_libraries():
    code = (
        "import sys; from sizing.experiments import stacks, load, reference\n"
        "rows = load('finetune-stacks', reference('finetune-stacks')).rows\n"
        "stacks.formula(rows[0])\n"
        "assert not {'torch', 'trl', 'peft', 'bitsandbytes', 'transformers'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_real_step_says_nothing_and_is_met(capfd):
    here = device.cpu()
    point = finetune_stacks.grid(here, **SMALL)[0]  # transformers' own Trainer
    row = finetune_stacks.measure(point, here)
    assert stacks.formula(point).total == pytest.approx(row["peak_bytes"], rel=0.01)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("place", [5, 9, 11])
def test_a_real_step_of_trl_is_met(place, capfd):
    here = device.cpu()
    point = finetune_stacks.grid(here, **SMALL)[place]
    for library in finetune_stacks._libraries(point):
        pytest.importorskip(library)
    row = finetune_stacks.measure(point, here)
    assert stacks.formula(point).total == pytest.approx(row["peak_bytes"], rel=0.01)
    assert capfd.readouterr() == ("", "")
