"""data/: every figure has a source, and what is published agrees with itself."""

import csv
import json
import re
from datetime import date
from pathlib import Path

import pytest

import sizing.speed
from sizing import Model, presets
from sizing.choices import ENGINES
from sizing.hardware import KINDS, gpu, gpus
from sizing.speed.engines import PLAIN
from sizing.units import DATA

TABLES = ("gpus", "prices", "runs", "scaling_laws", "chinchilla_tables")
SCALE = {"": 1, "M": 10**6, "million": 10**6, "B": 10**9}


def rows(table: str) -> list[dict[str, str]]:
    with (DATA / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def number(row: dict[str, str], column: str) -> float | None:
    return float(row[column]) if row[column] else None


def config(name: str) -> dict:
    return json.loads((DATA / "models" / f"{name}.json").read_text(encoding="utf-8"))


RUNS = {row["name"]: row for row in rows("runs")}
CARDS = {name: config(name)["_card"] for name in presets() if "_card" in config(name)}


def hours(row: dict[str, str]) -> float | None:
    """Accelerator-hours: as reported, else accelerators x days."""
    reported, count, days = (number(row, key) for key in ("gpu_hours", "gpus", "days"))
    if reported is not None:
        return reported
    return count * days * 24 if count and days else None


def peak(row: dict[str, str]) -> float:
    return gpu(row["gpu"]).peak_flops(row["peak_dtype"])


def flops_per_token(row: dict[str, str]) -> float:
    return 6 * (number(row, "active_params") or number(row, "params"))


def over_the_whole_run(row: dict[str, str]) -> float:
    """6 N D over what the hours at peak would have done."""
    return flops_per_token(row) * number(row, "tokens") / (hours(row) * 3600 * peak(row))


TIMED = [name for name, row in RUNS.items() if row["tokens"] and hours(row)]


# ---- all tables


@pytest.mark.parametrize("table", TABLES)
def test_every_row_has_a_source_and_clean_cells(table):
    for row in rows(table):
        assert len(row["source"]) > 10, row
        assert None not in row, f"too many cells: {row}"
        for column, cell in row.items():
            assert cell is not None, f"too few cells: {row}"
            assert cell == cell.strip(), (column, cell)


@pytest.mark.parametrize("table", ["gpus", "runs"])
def test_names_are_unique(table):
    names = [row["name"] for row in rows(table)]
    assert len(set(names)) == len(names)


def test_readme_explains_every_file_and_column():
    readme = (DATA / "README.md").read_text(encoding="utf-8")
    for table in (*TABLES, "ultrascale_h100", "rates", "engines", "published", "step_time_error"):
        assert f"## {table}.csv" in readme
        for column in rows(table)[0]:
            assert f"`{column}`" in readme, f"{table}.csv: {column}"
    for path in DATA.iterdir():
        assert path.name in readme or path.name == "README.md", path.name


# ---- rates.csv


def test_every_constant_says_where_it_comes_from():
    for row in rows("rates"):
        assert row["origin"] in ("calibrated", "measured", "published", "assumed"), row
        assert float(row["value"]) >= 0 and row["unit"] and row["source"], row
        if row["origin"] == "calibrated" and not row["source"].startswith("as "):
            assert "CALIBRATION" in row["source"] or "arXiv" in row["source"], row
    named = [(row["name"], row["gpu"]) for row in rows("rates")]
    assert len(set(named)) == len(named)
    for _, card in named:  # the beginning of one accelerator's name, or of several
        assert any(name.startswith(card) for name in (*gpus(), "measured"))


def test_every_engine_says_where_its_figures_come_from():
    assert {row["engine"] for row in rows("engines")} == set(ENGINES) - {None} | {PLAIN}
    for row in rows("engines"):
        for column, text in row.items():
            assert text, (row["engine"], column)
            if column.endswith("_source"):
                assert len(text) > 12, (row["engine"], column)
                if text.startswith("calibrated"):
                    assert "CALIBRATION" in text, text


def test_every_constant_is_used():
    room = Path(sizing.speed.__file__).parent
    code = "".join(path.read_text(encoding="utf-8") for path in room.glob("*.py"))
    for row in rows("rates"):
        assert f'"{row["name"]}"' in code, row


# ---- gpus.csv


def test_gpu_slugs_say_what_the_labels_say():
    for row in rows("gpus"):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["name"])
        assert row["name"].split("-")[0].upper() in row["label"].upper().replace(" V", "-V")
        assert re.fullmatch(r"2026-\d\d-\d\d", row["accessed"])


def test_label_and_driver_mean_the_same_memory():
    """'80 GB' is neither GB nor GiB: the driver's figure lies between the label in each."""
    known = [row for row in rows("gpus") if row["memory_mib"]]
    assert len(known) >= 12
    for row in known:
        reported = int(row["memory_mib"]) * 2**20
        assert 0.98 * int(row["memory_gb"]) * 10**9 < reported <= int(row["memory_gb"]) * 2**30, row
        assert row["memory_source"], row


# ---- prices.csv


def test_prices_are_dated_and_plausible():
    listed = rows("prices")
    assert len(listed) >= 15
    assert {row["kind"] for row in listed} == set(KINDS)
    for row in listed:
        assert row["gpu"] in gpus()
        assert 0.05 <= float(row["dollars_per_gpu_hour"]) <= 20
        assert date(2020, 1, 1) <= date.fromisoformat(row["date"])
        assert row["provider"] and row["product"]


def test_a_faster_gpu_of_the_same_provider_costs_more():
    """A price per instance entered as a price per GPU would break this order."""
    ladder = ("a100-sxm-80gb", "h100-sxm", "h200-sxm", "b200-sxm")
    for provider in ("Hyperstack", "Akash"):
        listed = {
            row["gpu"]: float(row["dollars_per_gpu_hour"])
            for row in rows("prices")
            if row["provider"] == provider and row["kind"] == "on-demand"
        }
        steps = [listed[name] for name in ladder]
        assert steps == sorted(steps)


# ---- runs.csv


@pytest.mark.parametrize("name", RUNS)
def test_run_fields_are_within_their_ranges(name):
    row = RUNS[name]
    assert row["kind"] in ("run", "benchmark")
    assert 2019 <= int(row["year"]) <= 2026
    assert 5e7 <= number(row, "params") <= 2e12
    assert row["kind"] == "benchmark" or row["tokens"] or row["gpu_hours"]
    if row["gpu"]:
        assert peak(row) > 0
    mfu, hfu = number(row, "mfu"), number(row, "hfu")
    for share in (mfu, hfu):
        assert share is None or (0 < share < 0.75 and row["convention"])
    if mfu and hfu:
        assert mfu < hfu  # recomputation is work, but not the model's


@pytest.mark.parametrize("name", TIMED)
def test_six_n_d_over_the_hours_is_a_possible_utilisation(name):
    """Off by ten in size, tokens, hours or peak, a run leaves this window."""
    assert 0.10 < over_the_whole_run(RUNS[name]) < 0.60


@pytest.mark.parametrize("name", [name for name in TIMED if RUNS[name]["mfu"]])
def test_no_whole_run_beats_its_own_mfu(name):
    """MFU is read while it runs well; restarts, evaluation and attention's FLOPs come off it."""
    row = RUNS[name]
    assert 0.6 * number(row, "mfu") < over_the_whole_run(row) <= number(row, "mfu")


def test_gpu_hours_are_gpus_times_days():
    both = [row for row in RUNS.values() if row["gpu_hours"] and row["gpus"] and row["days"]]
    assert len(both) >= 2
    for row in both:
        assert number(row, "gpus") * number(row, "days") * 24 == pytest.approx(
            number(row, "gpu_hours"), rel=0.15
        )


def test_throughput_times_time_is_the_tokens():
    complete = [row for row in RUNS.values() if row["tokens_per_s_gpu"] and row["days"]]
    assert len(complete) >= 2
    for row in complete:
        seen = number(row, "tokens_per_s_gpu") * number(row, "gpus") * number(row, "days") * 86400
        assert seen == pytest.approx(number(row, "tokens"), rel=0.05)


def test_throughput_times_six_n_is_the_published_mfu():
    both = [row for row in RUNS.values() if row["tokens_per_s_gpu"] and row["mfu"]]
    assert len(both) >= 2
    for row in both:
        without_attention = flops_per_token(row) * number(row, "tokens_per_s_gpu") / peak(row)
        assert 0.88 * number(row, "mfu") < without_attention < number(row, "mfu")


def test_hardware_flops_are_a_third_more_than_model_flops():
    """Full recomputation: four passes' worth for three, a little more with attention's FLOPs."""
    recomputed = [row for row in RUNS.values() if row["tokens_per_s_gpu"] and row["tflops_per_gpu"]]
    assert len(recomputed) == 3
    for row in recomputed:
        model = flops_per_token(row) * number(row, "tokens_per_s_gpu")
        assert number(row, "tflops_per_gpu") * 1e12 / model == pytest.approx(4 / 3, rel=0.03)


def test_printed_share_of_peak_is_tflops_over_our_peak():
    printed = [row for row in RUNS.values() if row["tflops_per_gpu"] and row["hfu"]]
    assert len(printed) >= 2
    for row in printed:
        share = number(row, "tflops_per_gpu") * 1e12 / peak(row)
        assert share == pytest.approx(number(row, "hfu"), abs=0.01)


def test_pythia_is_143_000_equal_batches():
    pythia = [row for name, row in RUNS.items() if name.startswith("Pythia")]
    assert len(pythia) == 8
    for row in pythia:
        assert number(row, "tokens") == 143_000 * number(row, "batch_tokens")


@pytest.mark.parametrize(
    ("run", "preset"),
    [
        ("LLaMA 65B", "llama-65b"),
        ("Llama 2 70B", "llama-2-70b"),
        ("Llama 3.1 405B", "llama-3.1-405b"),
        ("Pythia 6.9B", "pythia-6.9b"),
        ("TinyLlama 1.1B", "tinyllama-1.1b"),
        ("SmolLM2 1.7B", "smollm2-1.7b"),
        ("OLMo 2 13B", "olmo-2-13b"),
        ("DeepSeek-V3", "deepseek-v3"),
        ("nanoGPT GPT-2 124M", "gpt2"),
    ],
)
def test_run_has_the_size_of_its_preset(run, preset):
    parameters = Model(preset).parameters
    assert number(RUNS[run], "params") == pytest.approx(parameters.total, rel=0.002)
    if RUNS[run]["active_params"]:
        assert number(RUNS[run], "active_params") == pytest.approx(parameters.active, rel=0.02)


# ---- models/


def one_unit(printed: str) -> tuple[float, float]:
    """The number at the start of a printed figure, and one unit of its last digit."""
    digits, decimals, scale = re.match(r"([\d,]+)(?:\.(\d+))? ?(M|B|million)?", printed).groups()
    unit = SCALE[scale or ""] / 10 ** len(decimals or "")
    return int(digits.replace(",", "") + (decimals or "")) * unit, unit


@pytest.mark.parametrize("name", presets())
def test_config_says_where_it_was_seen(name):
    published = config(name)
    assert len(published["_source"]) > 20
    assert re.fullmatch(r"[a-z0-9]+([.-][a-z0-9.]+)*", name)
    assert {key for key in published if key.startswith("_")} <= {
        "_source",
        "_card",
        "_note",
        "_hub",
    }


@pytest.mark.parametrize("name", CARDS)
def test_count_agrees_with_the_printed_figure(name):
    """To one unit of the last digit printed; a figure that is further off says so in `off`."""
    card, parameters = CARDS[name], Model(name).parameters
    value, unit = one_unit(card["printed"])
    assert value == pytest.approx(card["parameters"], rel=1e-12)
    ours = parameters.non_embedding if card.get("counts") == "non-embedding" else parameters.total
    ours += card.get("buffers", 0)
    if "off" in card:
        assert unit < abs(ours - value) < 0.06 * value
    elif unit == 1:
        assert ours == card["parameters"]
    else:
        assert abs(ours - value) < unit
    assert len(card["source"]) > 10


@pytest.mark.parametrize("name", [name for name in CARDS if "active" in CARDS[name]])
def test_active_count_agrees_with_the_printed_figure(name):
    value, unit = one_unit(CARDS[name]["active_printed"])
    assert value == pytest.approx(CARDS[name]["active"])
    assert abs(Model(name).parameters.active - value) < unit


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-2-13b", "llama-2-70b"])
def test_llama_2_checkpoints_store_rotary_frequencies_too(name):
    """Why the hub's count of Llama 2 is a little more than its parameters: one vector a layer."""
    model = Model(name)
    assert CARDS[name]["buffers"] == model.layers * model.head_dim // 2


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("gpt2", 124_439_808),
        ("gpt2-xl", 1_557_611_200),
        ("opt-350m", 331_196_416),
        ("pythia-70m", 70_426_624),
        ("gemma-3-270m", 268_098_176),
        ("llama-3.1-8b", 8_030_261_248),
        ("mixtral-8x7b", 46_702_792_704),
        ("deepseek-v3", 671_026_404_352),
    ],
)
def test_well_known_counts(name, total):
    assert Model(name).parameters.total == total
