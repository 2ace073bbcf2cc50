"""Step time against 710 measured H100 runs, Megatron's published A100 runs, and its own rules."""

import csv
from dataclasses import replace
from statistics import mean, median

import pytest

from sizing import Model, Run
from sizing.compute import megatron
from sizing.evidence import ultrascale
from sizing.evidence.__main__ import main
from sizing.hardware import gpu
from sizing.speed.rates import matmul_time
from sizing.speed.step import step_time

LLAMA = Model("llama-3.1-8b")
RUN = Run(
    LLAMA,
    sequence=4096,
    accumulation=8,
    precision="bf16-master",
    gradients="fp32",
    optimizer="adamw-fused",
)


# --- The measured H100 grid ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows():
    return [ultrascale.compare(row) for row in ultrascale.measured()]


def size(errors) -> float:
    return median(map(abs, errors))


def test_calibration_is_small_and_of_one_size():
    used = [row for row in ultrascale.measured() if row.calibration]
    assert len(used) == len(ultrascale.CALIBRATION) <= 15
    assert {row.size for row in used} == {"1B"}
    assert len(ultrascale.measured()) == 710


def test_throughput_of_held_out_rows(rows):
    held_out = ultrascale.held_out(rows)
    assert not any(row.measured.calibration for row in held_out)
    assert len(held_out) > 340
    assert size(row.throughput_error for row in held_out) < 0.06
    for model in ultrascale.MODELS:  # 8B is a size that nothing was calibrated with
        errors = [row.throughput_error for row in held_out if row.measured.size == model]
        assert size(errors) < 0.06
        assert sum(abs(error) < 0.2 for error in errors) > 0.85 * len(errors)


@pytest.mark.parametrize("group", ["tensor", "pipeline", "zero", "nodes"])
def test_throughput_by_degree(rows, group):
    held_out = ultrascale.held_out(rows)
    key = ultrascale.GROUPS[group]
    for value in {key(row.measured) for row in held_out}:
        errors = [row.throughput_error for row in held_out if key(row.measured) == value]
        limit = 0.25 if (group, value) == ("tensor", 16) else 0.10  # tensor over two nodes: weak
        assert size(errors) < limit, (group, value)


def test_memory_of_all_rows(rows):
    assert size(row.memory_error for row in rows) < 0.10
    for model in ultrascale.MODELS:
        assert size(row.memory_error for row in rows if row.measured.size == model) < 0.11
    judged = [row for row in rows if row.measured.mfu > ultrascale.LEAST_MFU]
    assert size(row.memory_error for row in judged) < 0.09


def test_committed_error_table_is_what_the_code_gives():
    with ultrascale.TABLE.open(newline="", encoding="utf-8") as file:
        committed = list(csv.DictReader(file))
    assert committed == ultrascale.table(), "run python -m sizing.evidence record ultrascale"


def test_command_prints_both_tables(capsys):
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "Throughput: 352 runs above 10 % MFU" in printed
    assert "Memory: all 710 runs" in printed


# --- Megatron on A100s ---------------------------------------------------------------------------

# Narayanan et al. (arXiv:2104.04473), table 1: heads, hidden, layers, tensor, pipeline, GPUs,
# batch, TFLOP/s a GPU; micro-batches from Megatron-LM, examples/sc21/run_table_1.sh.
MEGATRON = [
    (24, 2304, 24, 1, 1, 32, 512, 137, 16),
    (32, 3072, 30, 2, 1, 64, 512, 138, 16),
    (32, 4096, 36, 4, 1, 128, 512, 142, 16),
    (48, 6144, 40, 8, 1, 256, 1024, 135, 8),
    (64, 8192, 48, 8, 2, 512, 1536, 138, 4),
    (80, 10240, 60, 8, 4, 1024, 1792, 140, 2),
    (96, 12288, 80, 8, 8, 1536, 2304, 148, 2),
    (128, 16384, 96, 8, 16, 1920, 2160, 155, 1),
    (128, 20480, 105, 8, 35, 2520, 2520, 163, 1),
    (160, 25600, 128, 8, 64, 3072, 3072, 163, 1),
]


def megatron_error(row) -> float:
    """Predicted over published TFLOP/s a GPU, less one. Selene: 200 Gbit/s for each GPU."""
    heads, hidden, layers, tensor, pipeline, gpus, batch, published, micro_batch = row
    model = Model(
        {
            "model_type": "gpt2",
            "vocab_size": 51200,
            "n_positions": 2048,
            "n_embd": hidden,
            "n_layer": layers,
            "n_head": heads,
        }
    )
    data = gpus // (tensor * pipeline)
    run = Run(
        model,
        sequence=2048,
        micro_batch=micro_batch,
        accumulation=batch // (data * micro_batch),
        precision="bf16-master",
        optimizer="adamw-fused",
        recompute="full",
        attention="eager",
        data=data,
        tensor=tensor,
        pipeline=pipeline,
    )
    seconds = step_time(run, "a100-sxm-80gb", network=25e9).total
    return megatron(model, 2048, run.tokens) / seconds / gpus / (published * 1e12) - 1


def test_megatron_table_1():
    """From 1.7 B to 1 T parameters; the first row set the A100's matmul rate, so the rest count."""
    errors = [abs(megatron_error(row)) for row in MEGATRON[1:]]
    assert max(errors) < 0.09
    assert mean(errors) < 0.04


# Model, recompute, length, micro-batch, tokens a second and GPU: pytorch/torchtitan,
# docs/performance.md of 2024, FSDP2 on 64 A100s. Layers were not compiled (compile = false in
# train_configs/llama3_70b.toml), so kernel by kernel, as the engine "transformers" runs FSDP2.
TORCHTITAN = [
    ("llama-3-8b", "selective", 8192, 1, 2973),
    ("llama-3-70b", "full", 8192, 1, 331),
    ("llama-2-13b", "none", 4096, 2, 2162),
    ("llama-2-13b", "selective", 4096, 2, 1904),
    ("llama-2-70b", "selective", 4096, 1, 355),
    ("llama-2-70b", "full", 4096, 2, 353),
]


def test_torchtitan_fsdp2():
    errors = []
    for model, recompute, sequence, micro_batch, published in TORCHTITAN:
        run = Run(
            model, sequence=sequence, micro_batch=micro_batch, precision="bf16-mixed",
            optimizer="adamw-fused", recompute=recompute, data=64, zero=3, engine="transformers",
        )  # fmt: skip
        rate = step_time(run, "a100-sxm-80gb", network=25e9).tokens_per_second(run)
        errors.append(abs(rate / published - 1))
    assert max(errors) < 0.15 and median(errors) < 0.08


# --- Matmuls -------------------------------------------------------------------------------------


def test_large_matmuls_reach_the_sustained_rate():
    rate = 2 * 16384**3 / matmul_time(16384, 16384, 16384, "h100-sxm")
    assert 0.61 < rate / gpu("h100-sxm").peak["bf16"] < 0.63


def test_small_and_thin_matmuls_fall_off_the_peak():
    peak = gpu("h100-sxm").peak["bf16"]
    rates = [2 * n**3 / matmul_time(n, n, n, "h100-sxm") / peak for n in (256, 1024, 4096, 16384)]
    assert rates == sorted(rates)
    assert rates[0] < 0.05
    # one row: the weights are read once, whatever the arithmetic
    device = gpu("h100-sxm")
    thin = matmul_time(1, 16384, 16384, device)
    assert thin > 2 * 16384**2 / device.bandwidth
    assert matmul_time(1, 16384, 16384, device, "fp32") > 1.8 * thin


# --- Rules ---------------------------------------------------------------------------------------

DEGREES = [
    {},
    {"data": 8, "zero": 1},
    {"data": 64, "zero": 3},
    {"tensor": 8},
    {"pipeline": 4},
    {"context": 4},
    {"data": 4, "tensor": 4, "pipeline": 2},
    {"recompute": "full"},
    {"attention": "eager", "recompute": "selective"},
]


@pytest.mark.parametrize("changes", DEGREES)
def test_parts_sum_to_the_total(changes):
    result = step_time(replace(RUN, **changes))
    assert sum(result.parts.values()) == pytest.approx(result.total)
    assert all(seconds >= 0 for seconds in result.parts.values())
    assert result.tokens_per_second(RUN) == RUN.tokens / result.total


def test_parts_are_there_only_with_their_degree():
    alone = step_time(RUN)
    for field, part in (
        ("tensor", "tensor_parallel"),
        ("pipeline", "pipeline_bubble"),
        ("pipeline", "pipeline_transfer"),
        ("data", "data_parallel"),
    ):
        assert getattr(alone, part) == 0
        assert getattr(step_time(replace(RUN, **{field: 4})), part) > 0
    assert alone.recompute == 0 < step_time(replace(RUN, recompute="full")).recompute


def test_bubble_of_equal_stages():
    """(p - 1) / (m + p - 1) of the time in the pipeline: arXiv:2104.04473, section 2.2.1."""
    model = Model("gpt3-175b")  # its head costs so little that stages are equal but for it
    run = Run(model, sequence=2048, precision="bf16-master", accumulation=16, pipeline=8)
    result = step_time(run)
    outside = ("optimizer", "data_parallel", "pipeline_transfer")
    within = result.total - sum(getattr(result, part) for part in outside)
    assert result.pipeline_bubble / within == pytest.approx(7 / (16 + 7), rel=0.05)


def test_more_micro_batches_shrink_the_bubble():
    shares = []
    for accumulation in (4, 16, 64):
        result = step_time(replace(RUN, pipeline=4, accumulation=accumulation))
        shares.append(result.pipeline_bubble / result.total)
    assert shares == sorted(shares, reverse=True)


def test_better_hardware_is_never_slower():
    run = replace(RUN, data=8, zero=1, tensor=8, pipeline=2)
    usual = step_time(run).total
    assert step_time(run, network=100e9).total <= usual
    assert step_time(run, node=64).total <= usual
    assert step_time(run, host=0).total <= usual
    assert step_time(run, "h200-sxm").total <= usual
    assert step_time(run, "a100-sxm-80gb").total > usual


def test_small_tensor_parallel_batches_wait_for_the_host():
    """1B on 8 tensor-parallel ranks: measured 6.7 % MFU, because Python cannot launch faster."""
    row = next(
        row
        for row in ultrascale.measured()
        if (row.size, row.run.tensor, row.run.micro_batch, row.nodes) == ("1B", 8, 1, 1)
    )
    result = step_time(row.run)
    assert result.host > 0.5 * result.total
    assert row.mfu < 10


# --- Errors --------------------------------------------------------------------------------------


def test_bad_arguments():
    with pytest.raises(ValueError, match="gpu: 'h100-smx' given"):
        step_time(RUN, "h100-smx")
    with pytest.raises(ValueError, match="dtype: 'bf16' given, for which NVIDIA V100"):
        step_time(RUN, "v100-sxm-32gb")
    with pytest.raises(ValueError, match="gpu: 'mi325x' given, whose link is unknown"):
        step_time(replace(RUN, data=8), "mi325x")
    with pytest.raises(ValueError, match="network: 0 given; allowed: bytes/s above 0"):
        step_time(RUN, network=0)
    with pytest.raises(ValueError, match="node: 0 given; allowed: a whole number >= 1"):
        step_time(RUN, node=0)
    with pytest.raises(ValueError, match="host: -1 given; allowed: a number >= 0"):
        step_time(RUN, host=-1)
    with pytest.raises(ValueError, match="tensor: 3 given; allowed: a divisor of heads = 32"):
        step_time(replace(RUN, tensor=3))
