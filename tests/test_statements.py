"""What lessons 00 to 04 say in words, against the data and recordings that they say it of."""

import csv
import json
import re
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import sizing
from sizing.calculators.compute import published_utilisation
from sizing.units import DATA

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
CEILINGS = sizing.experiments.load("ceilings", sizing.experiments.REFERENCE)
PRODUCTS = [row for row in CEILINGS.ok if row["kind"] == "matmul"]
COPIES = [row for row in CEILINGS.ok if row["kind"] == "copy"]


def cells(lesson: str, kind: str) -> list[dict]:
    (path,) = NOTEBOOKS.glob(f"{lesson}-*.ipynb")
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def words(lesson: str) -> str:
    """The lesson's prose in one line."""
    text = " ".join("".join(cell["source"]) for cell in cells(lesson, "markdown"))
    return " ".join(text.split())


def printed(lesson: str, pattern: str) -> tuple[float, ...]:
    """The numbers that the one match of `pattern` in the stored printed output has as groups."""
    outputs = [output for cell in cells(lesson, "code") for output in cell["outputs"]]
    text = "".join("".join(output.get("text", "")) for output in outputs)
    (found,) = re.finditer(pattern, text)
    return tuple(float(group.replace(",", "")) for group in found.groups())


def published_runs() -> list[dict[str, str]]:
    with (DATA / "runs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


# --- lesson 00 ---------------------------------------------------------------------------


def test_the_h100_is_held_against_the_best_product_in_the_same_dtype():
    best = max(PRODUCTS, key=lambda row: row["flops_per_second"])
    rate, dtype = best["flops_per_second"], best["dtype"]
    pattern = (
        rf"best product ([\d.]+) GFLOP/s \({dtype}\); the H100's peak in {dtype}: ([\d,]+) times"
    )
    shown, times = printed("00", pattern)
    assert shown == pytest.approx(rate / 1e9, rel=0.005)
    assert times == pytest.approx(sizing.hardware.gpu("h100-sxm").peak_flops(dtype) / rate, abs=0.5)


@pytest.mark.parametrize("dtype", sorted({row["dtype"] for row in PRODUCTS}))
def test_the_lines_under_the_products_are_the_recording(dtype):
    rate = {row["size"]: row["flops_per_second"] for row in PRODUCTS if row["dtype"] == dtype}
    top = max(rate, key=rate.get)
    line = rf"{dtype}: ([\d.]+) GFLOP/s at n = (\d+); .* reaches (\d+)% of it, the largest (\d+)%"
    best, size, smallest, largest = printed("00", line)
    assert (best, size) == (round(rate[top] / 1e9, 1), top)
    assert smallest == pytest.approx(100 * rate[min(rate)] / rate[top], abs=0.5)
    assert largest == pytest.approx(100 * rate[max(rate)] / rate[top], abs=0.5)


def test_no_copy_size_is_called_faster_than_memory():
    """The experiment leaves none in a cache, and the recording has no order by size."""
    from sizing.experiments import ceilings

    assert ceilings.FOOTPRINT == 512 * 2**20 and "512 MiB of buffers" in words("00")
    rates = [row["bytes_per_second"] for row in COPIES]
    assert not all(small > large for small, large in pairwise(rates))
    assert "look faster" not in words("00") and "look too fast" not in words("00")
    shown, size, _ = printed("00", r"ceiling: ([\d.]+) GB/s, copies of (\d+) MiB; .* (\d+)%")
    assert shown == pytest.approx(max(rates) / 1e9, abs=0.005)
    assert size * 2**20 == COPIES[rates.index(max(rates))]["size"]


def test_the_roofline_has_its_corner(monkeypatch):
    """The drawn line is min(peak, intensity x bandwidth) between its points as well."""
    import matplotlib.pyplot as plt

    monkeypatch.setenv("SIZING_RECORDED", "1")
    plt.switch_backend("agg")
    drawn, names = {}, {}
    monkeypatch.setattr(plt, "show", lambda: drawn.update({(a := plt.gca()).get_title(): a}))
    for cell in cells("00", "code"):
        exec("".join(cell["source"]), names)
        if "The roofline of this machine, fp32" in drawn:
            break
    x, y = drawn["The roofline of this machine, fp32"].lines[0].get_data()
    between = np.geomspace(x[0], x[-1], 500)
    line = np.exp(np.interp(np.log(between), np.log(x), np.log(y)))
    roof = sizing.experiments.roofline(CEILINGS)
    expected = np.minimum(roof.peak_flops("fp32"), between * roof.bandwidth) / 1e9
    assert line == pytest.approx(expected, rel=1e-6)
    plt.close("all")


# --- lesson 01 ---------------------------------------------------------------------------

DENSE = [
    model
    for model in map(sizing.Model, sizing.presets())
    if model.parameters.active == model.parameters.total
]


def tables(model) -> float:
    """Share of token table, position table and head, %."""
    p = model.parameters
    return 100 * (p.embedding + p.head) / p.total


def test_the_four_changes_from_gpt2_to_llama():
    assert "Four changes separate a Llama from a GPT-2" in words("01")
    llamas = [model for model in DENSE if model.name.startswith("llama")]
    for model in llamas:  # one looked-up table: rotary positions have no weights
        assert [w.elements for w in model.outer if w.kind == "lookup"] == [
            model.vocab * model.hidden
        ]
        kinds = {w.kind for block in model.blocks for w in block.weights}
        assert "bias" not in kinds, model.name
    gpt2 = sizing.Model("gpt2")
    assert sum(w.elements for w in gpt2.outer if w.kind == "lookup") == (50257 + 1024) * 768
    assert {m.name for m in llamas if m.tied} == {"llama-3.2-1b", "llama-3.2-3b"}
    first = [m for m in llamas if m.name in ("llama-7b", "llama-13b", "llama-33b", "llama-65b")]
    assert len(first) == 4 and all(m.kv_heads == m.heads for m in first)


def test_shares_of_the_tables_are_as_the_caption_says():
    assert all(tables(m) > 70 for m in DENSE if m.parameters.total < 1e8)
    assert all(tables(m) < 2.1 for m in DENSE if m.parameters.total > 1e11)
    for gemma in (m for m in DENSE if "gemma" in m.name):
        n, shares = gemma.parameters.total, []
        for m in DENSE:
            if "gemma" not in m.name and n / 1.5 < m.parameters.total < n * 1.5:
                shares.append(tables(m))
        assert len(shares) >= 4 and tables(gemma) > np.median(shares), gemma.name


# --- lesson 02 ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "ratio"),
    [
        ("gpt2", 1),
        ("gpt2-xl", 1),
        ("opt-13b", 1),
        ("llama-3.2-1b", 0.87),
        ("llama-3.1-8b", 0.93),
        ("qwen2.5-7b", 0.70),
    ],
)
def test_megatrons_formula_is_that_of_a_gpt(name, ratio):
    exact = sizing.flops(sizing.Run(name, sequence=1024)).total
    ours = sizing.megatron(sizing.Model(name), 1024, 1024, recompute=False) / exact
    assert ours == pytest.approx(ratio, abs=1e-12 if ratio == 1 else 0.005)


def test_lesson_and_calculator_have_the_same_spread_of_published_runs():
    pattern = r"(\d+) runs: median (\d+)%, eight in ten between (\d+)% and (\d+)%"
    runs, middle, low, high = printed("02", pattern)
    count, *quantiles = published_utilisation("6ND")
    assert runs == count
    assert [low, middle, high] == [round(100 * u) for u in quantiles]


def test_the_mfu_of_lesson_02_is_of_the_ceiling_of_lesson_00():
    """And the revealed ratio of the speeds is the recording's."""
    ceiling = max(row["flops_per_second"] for row in PRODUCTS if row["dtype"] == "fp32")
    steps = sizing.experiments.load("model-size", sizing.experiments.REFERENCE).ok
    (mfu,) = printed("02", r"pythia-160m reaches ([\d.]+) % of the best product")
    (slower,) = printed("02", r"02\.slower: it is ([\d.]+) times")
    speeds = [step["tokens_per_second"] for step in steps]
    assert slower == pytest.approx(speeds[0] / speeds[-1], abs=0.005)
    assert mfu == pytest.approx(100 * steps[-1]["flops_per_second"] / ceiling, abs=0.005)
    (roof,) = printed("00", r"fp32: ([\d.]+) GFLOP/s at n")
    assert roof == pytest.approx(ceiling / 1e9, abs=0.05)


# --- lesson 04 ---------------------------------------------------------------------------


def test_published_batches_are_those_of_whole_runs():
    batches = {
        row["name"]: float(row["batch_tokens"])
        for row in published_runs()
        if row["batch_tokens"] and row["kind"] == "run"
    }
    pattern = r"(\d+) published runs: ([\d,]+) tokens per step .* to ([\d,]+) .*median ([\d,]+)"
    count, low, high, middle = printed("04", pattern)
    assert (count, low, high) == (len(batches), min(batches.values()), max(batches.values()))
    assert middle == np.median(list(batches.values()))
    smallest, next_one, *_ = sorted(batches.values())
    assert (
        3 < np.log10(smallest / 256) < 3.5 < np.log10(next_one / 256)
    )  # "three orders of magnitude"
    h100 = sizing.hardware.gpu("h100-sxm")
    assert 1 / 7 < 256 / (256 + 28 / 6 * h100.ridge("bf16")) < 1 / 6  # "a sixth of the peak"


@pytest.mark.parametrize(
    ("name", "sequences"),
    [("DeepSeek-V3", 15_360), ("PaLM 540B", 2_048), ("Pythia 12B", 1_024), ("BLOOM 176B", 2_048)],
)
def test_batches_are_sequences_times_their_length(name, sequences):
    (row,) = [row for row in published_runs() if row["name"] == name]
    assert float(row["batch_tokens"]) == sequences * float(row["sequence"])


def test_the_405b_by_both_conventions():
    model = sizing.Model("llama-3.1-405b")
    one, two = (
        {
            way: sizing.flops(sizing.Run(model, sequence=s), attention=way).total / s
            for way in ("full", "causal")
        }
        for s in (8192, 131072)
    )
    (full,) = printed("04", r"04\.longer: it is ([\d.]+)\.")
    causal, slower = printed("04", r"causal: ([\d.]+) times .* (\d+)% of the tokens")
    assert full == pytest.approx(two["full"] / one["full"], abs=5e-4)
    assert causal == pytest.approx(two["causal"] / one["causal"], abs=5e-3)
    assert slower == round(95 * one["causal"] / two["causal"])
    assert f"fell to {95 / full:.0f} %" in words("04")


def test_packed_documents_cost_what_their_length_costs():
    def work(s, document=None):
        run = sizing.Run("llama-3.1-8b", sequence=s, document=document)
        return sizing.flops(run, attention="causal").total / s

    shown = [printed("04", rf"documents of +{n}: (\d+) GFLOP")[0] for n in ("131,072", "4,096")]
    assert shown == [round(work(131072) / 1e9), round(work(131072, 4096) / 1e9)]
    assert work(131072, 4096) == pytest.approx(work(4096), rel=1e-9)  # "what a run at 4 k costs"


def test_all_pairs_flatter_by_what_the_lesson_says():
    def ratio(name, s):
        run = sizing.Run(name, sequence=s)
        return sizing.flops(run).total / sizing.flops(run, attention="causal").total

    assert "all pairs give 12 % more than causal pairs" in words("04")
    assert ratio("llama-3.1-8b", 8192) == pytest.approx(1.12, abs=0.006)
    assert ratio("gemma-3-4b", 131072) == pytest.approx(4, abs=0.2)


# --- power, and what kernels save -----------------------------------------------------------


def test_the_best_products_are_those_of_the_table_of_rates():
    from sizing.speed.rates import sustained_rates

    with (DATA / "rates.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["name"] == "matmul_rate"]
    source = {row["gpu"]: row["source"] for row in rows}
    assert "best single matmul 0.87" in source["a100"]
    assert "best single matmul 0.80" in source["h100"]
    assert "0.87 of the dense peak on an A100, and 0.80 on an H100" in words("00")
    h100 = sizing.hardware.gpu("h100-sxm")
    capped = sustained_rates(replace(h100, power=500)).matmul / sustained_rates(h100).matmul
    assert h100.power == 700 and capped == pytest.approx((500 / 700) ** (1 / 3))
    assert "(500/700)^{1/3} = 0.89" in words("00") and round(capped, 2) == 0.89


def test_what_compiled_and_liger_kernels_save_of_a_layer():
    def kept(precision, kernels):
        run = sizing.Run("llama-3.1-8b", sequence=4096, precision=precision, kernels=kernels)
        return sizing.memory(run).activations

    gone = [
        1 - kept(precision, kernels) / kept(precision, "eager")
        for precision in ("bf16", "bf16-mixed")
        for kernels in ("compiled", "liger")
    ]
    assert "a quarter to two fifths of the layer is gone" in words("05")
    assert min(gone) == pytest.approx(0.25, abs=0.01) and max(gone) == pytest.approx(0.4, abs=0.02)
    model = sizing.Model("llama-3.1-8b")
    h, f, a, k, d = model.hidden, model.ffn, model.heads, model.kv_heads, model.head_dim
    numbers = 2 * (2 * h + 1) + h + (2 * a * d + 2 * k * d + a) + h + 4 * f
    assert numbers / h == pytest.approx(22.5, abs=0.05)
