"""Accelerators and prices: dense rates only, checked against the chips' own arithmetic."""

import dataclasses
import pickle

import pytest

from sizing.hardware import DTYPES, GPU, Price, gpu, gpus, measured_gpu, prices

# (tensor cores, fused multiply-adds a clock of one, boost clock in MHz): dense, fp32 accumulation.
# Counts and clocks from the vendors' architecture papers and product tables; the datasheets' FLOP/s
# are not used. GeForce cards run fp32 accumulation at half the rate of the professional ones.
TENSOR_CORES = {
    "v100-sxm-32gb": (640, 64, 1530),
    "t4": (320, 64, 1590),
    "a100-sxm-80gb": (432, 256, 1410),
    "a10": (288, 128, 1695),
    "a40": (336, 128, 1740),
    "rtx-a6000": (336, 128, 1800),
    "rtx-3090": (328, 64, 1695),
    "rtx-4090": (512, 64, 2520),
    "rtx-4070-laptop": (144, 64, 2175),
    "rtx-5090": (680, 64, 2407),
    "l40": (568, 64, 2490),
    "l40s": (568, 128, 2520),
    "h100-sxm": (528, 512, 1830),
    "mi300x": (1216, 256, 2100),
}
# (fp32 lanes outside the tensor cores, boost clock in MHz)
FP32_LANES = {
    "t4": (2560, 1590),
    "a100-sxm-40gb": (6912, 1410),
    "a40": (10752, 1740),
    "rtx-3090": (10496, 1695),
    "rtx-4090": (16384, 2520),
    "rtx-4070-laptop": (4608, 2175),
    "rtx-5090": (21760, 2407),
    "l40s": (18176, 2520),
    "h100-sxm": (16896, 1980),
    "mi250x": (14080, 1700),
}
# What datasheets print for 16-bit matmuls with 2:4 sparsity, in TFLOP/s.
WITH_SPARSITY = {
    "a100-sxm-40gb": 624,
    "a100-sxm-80gb": 624,
    "a100-pcie-80gb": 624,
    "a40": 299.4,
    "rtx-a6000": 309.7,
    "l4": 242,
    "l40": 362.1,
    "l40s": 733,
    "h100-pcie": 1513,
    "h100-sxm": 1979,
    "h100-nvl": 1671,
    "h200-sxm": 1979,
    "b200-sxm": 4500,
    "gb200": 5000,
}
NO_BF16 = ("v100-sxm-16gb", "v100-sxm-32gb", "t4")


def test_table_holds_the_devices_that_lessons_name():
    assert len(gpus()) >= 25
    assert len(set(gpus())) == len(gpus())
    named = {"t4", "rtx-4070-laptop", "h100-sxm", "h200-sxm", "b200-sxm", "mi300x", "l4", "a10"}
    assert named <= set(gpus())


@pytest.mark.parametrize("name", TENSOR_CORES)
def test_matmul_peak_is_what_the_tensor_cores_can_do(name):
    cores, per_clock, mhz = TENSOR_CORES[name]
    device = gpu(name)
    assert device.peak_flops("fp16") == pytest.approx(2 * cores * per_clock * mhz * 1e6, rel=0.015)


@pytest.mark.parametrize("name", FP32_LANES)
def test_fp32_peak_is_two_flops_a_lane_and_clock(name):
    lanes, mhz = FP32_LANES[name]
    assert gpu(name).peak_flops("fp32") == pytest.approx(2 * lanes * mhz * 1e6, rel=0.015)


@pytest.mark.parametrize("name", WITH_SPARSITY)
def test_no_peak_counts_sparsity(name):
    assert gpu(name).peak_flops("bf16") == pytest.approx(WITH_SPARSITY[name] * 1e12 / 2, rel=0.015)


@pytest.mark.parametrize("name", gpus())
def test_rates_of_one_device_agree_with_each_other(name):
    """Halving the input's bits doubles a tensor core's rate; a sparse entry breaks it."""
    peak = gpu(name).peak
    assert peak and set(peak) <= set(DTYPES)
    if "fp16" in peak and "bf16" in peak:
        assert peak["fp16"] == peak["bf16"]
    for wide, narrow in (("tf32", "bf16"), ("bf16", "fp8")):
        if wide in peak and narrow in peak:
            assert peak[narrow] / peak[wide] == pytest.approx(2, rel=0.03)
    if "fp32" in peak and "fp16" in peak:
        assert peak["fp32"] < peak["fp16"]


@pytest.mark.parametrize("name", gpus())
def test_sizes_are_plausible(name):
    device = gpu(name)
    assert 8e9 <= device.memory <= 400e9
    assert 200e9 <= device.bandwidth <= 10e12
    assert device.link is None or 10e9 <= device.link <= 1e12
    assert device.power is None or 50 <= device.power <= 1500
    assert 2017 <= device.year <= 2026
    assert 35 <= device.ridge("bf16" if "bf16" in device.peak else "fp16") <= 600
    assert device.source


def test_memory_is_what_the_driver_reports_where_known():
    assert gpu("h100-sxm").memory == 81559 * 2**20
    assert gpu("rtx-4070-laptop").memory == 8188 * 2**20
    assert gpu("mi300x").memory == 201310208 * 1024  # rocminfo's pool, in KB of 1024
    assert gpu("mi250x").memory == 128 * 10**9  # nothing but the label is known


def test_ridge_is_peak_over_bandwidth():
    """295 FLOP per byte: 'How to Scale Your Model' computes it for the H100 (gpus.md, quiz 1)."""
    assert gpu("h100-sxm").ridge("bf16") == pytest.approx(295, abs=1)
    assert gpu("b200-sxm").ridge("bf16") == pytest.approx(281, abs=1)
    assert gpu("h100-sxm").ridge("fp8") == pytest.approx(2 * 295, abs=2)


@pytest.mark.parametrize("name", NO_BF16)
def test_missing_dtype_is_refused_by_name(name):
    with pytest.raises(ValueError, match=r"dtype: 'bf16' given.*allowed: fp32, fp16$"):
        gpu(name).peak_flops("bf16")
    with pytest.raises(ValueError, match="dtype: 'bf16'"):
        gpu(name).ridge("bf16")


def test_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"dtype: 'int4' given.*allowed: fp32, tf32, fp16, bf16"):
        gpu("a100-sxm-80gb").peak_flops("int4")


@pytest.mark.parametrize(
    ("given", "near"), [("h100", "h100-sxm"), ("H100", "h100-pcie"), ("rtx4090", "rtx-4090")]
)
def test_unknown_gpu_names_those_near_it(given, near):
    with pytest.raises(ValueError, match=f"gpu: '{given}' given.*{near}") as error:
        gpu(given)
    assert "t4" not in str(error.value).split(": ")[-1].split(", ")


def test_unknown_gpu_without_neighbours_lists_all():
    with pytest.raises(ValueError) as error:
        gpu("abacus")
    assert all(name in str(error.value) for name in gpus())


def test_a_gpu_is_a_value():
    one, same, other = gpu("l4"), gpu("l4"), gpu("t4")
    assert one is same  # read once
    assert {one: "kept"}[pickle.loads(pickle.dumps(one))] == "kept"
    assert one != other
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.memory = 1


def test_measured_gpu_takes_the_learners_ceilings():
    mine = measured_gpu("my laptop", {"bf16": 9e11, "fp32": 4.5e11}, bandwidth=30e9, memory=2**34)
    assert isinstance(mine, GPU)
    assert (mine.name, mine.label, mine.link, mine.power) == ("measured", "my laptop", None, None)
    assert list(mine.peak) == ["fp32", "bf16"]
    assert mine.ridge("fp32") == pytest.approx(15)
    assert prices(mine) == ()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peak": {}}, r"peak: \{\} given; allowed: FLOP/s by dtype"),
        ({"peak": 1e12}, "peak: 1000000000000.0 given"),
        ({"peak": {"int8": 1e12}}, "peak: dtype 'int8' given; allowed: fp32"),
        ({"peak": {"fp32": -1.0}}, r"peak\['fp32'\]: -1.0 given; allowed: a finite number above 0"),
        ({"bandwidth": 0}, "bandwidth: 0 given"),
        ({"bandwidth": float("inf")}, "bandwidth: inf given"),
        ({"memory": "8 GB"}, "memory: '8 GB' given"),
        ({"link": -1}, "link: -1 given"),
        ({"power": True}, "power: True given"),
    ],
)
def test_measured_gpu_refuses_the_impossible(change, message):
    good = {"label": "x", "peak": {"fp32": 1e12}, "bandwidth": 1e10, "memory": 2**30}
    with pytest.raises(ValueError, match=message):
        measured_gpu(**(good | change))


def test_prices_are_cheapest_first_and_filtered():
    listed = prices("h100-sxm", kind="on-demand")
    assert len(listed) >= 5
    assert all(isinstance(price, Price) for price in listed)
    assert {(price.gpu, price.kind) for price in listed} == {("h100-sxm", "on-demand")}
    assert [price.dollars for price in listed] == sorted(price.dollars for price in listed)
    assert prices(gpu("h100-sxm"), kind="on-demand") == listed
    assert set(listed) < set(prices())
    assert prices("tpu-v4") == ()


def test_prices_refuse_the_unknown():
    with pytest.raises(ValueError, match="gpu: 'h10' given"):
        prices("h10")
    with pytest.raises(ValueError, match="kind: 'free' given; allowed: on-demand, spot, reserved"):
        prices(kind="free")


@pytest.mark.parametrize("kind", ["spot", "reserved"])
def test_giving_up_flexibility_is_cheaper_at_the_same_provider(kind):
    pairs = [
        (low, high)
        for low in prices(kind=kind)
        for high in prices(low.gpu, kind="on-demand")
        if high.provider == low.provider
    ]
    assert pairs
    assert all(low.dollars < high.dollars for low, high in pairs)
