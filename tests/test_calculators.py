"""Calculators: controls are moved; the words, numbers and artists that follow are read."""

import csv
import io
import json
import re

import pytest
from matplotlib import image

import sizing
from sizing import calculators
from sizing.calculators import ComputeCalculator, DeviceCard, ParameterCalculator
from sizing.calculators.base import Scale, read_number
from sizing.calculators.compute import (
    CONVENTIONS,
    COUNTS,
    UNSEEN,
    _published_flops,
    published_utilisation,
)
from sizing.calculators.device_card import MINE
from sizing.calculators.parameters import PARTS, doubled
from sizing.hardware import gpus
from sizing.measuring.recording import Recording, new_file, write
from sizing.units import BYTES, DATA, duration

ALL = (DeviceCard, ParameterCalculator, ComputeCalculator)


def config_text(preset: str, **changes) -> str:
    """The text of a preset's config.json with changed fields; those changed to ... are left out."""
    config = json.loads((DATA / "models" / f"{preset}.json").read_text()) | changes
    return json.dumps({k: v for k, v in config.items() if v is not ... and k[0] != "_"})


def table(calculator) -> dict[str, tuple[str, ...]]:
    return {row[0]: row[1:] for row in calculator.current.rows}


def pixels(calculator):
    return image.imread(io.BytesIO(calculator._picture.value))


# --- parameters --------------------------------------------------------------------------


def test_parameters_of_gpt2():
    # nanoGPT counts 124,439,808 with the position table (transformer_sizing.ipynb)
    calculator = ParameterCalculator(model="gpt2")
    assert calculator.current.value == 124_439_808
    assert "124,439,808 parameters" in calculator._headline.value
    assert table(calculator)["total"] == ("124,439,808", "100.0%")


def test_parameters_of_every_preset(models):
    calculator = ParameterCalculator()
    for preset in models:
        calculator.set(model=preset)
        assert calculator.error == "", preset
        parts = calculator.current.data
        total = sizing.Model(preset).parameters.total
        assert sum(parts.values()) == calculator.current.value == total, preset
        shares = [100 * parts[name] / total for name in PARTS]
        assert [bar.get_width() for bar in calculator._bars] == pytest.approx(shares), preset


def test_bars_carry_the_share_and_the_count():
    calculator = ParameterCalculator(model="gpt2")
    by_part = dict(zip(PARTS, calculator._labels, strict=True))
    # 50257 x 768 + 1024 x 768 = 39,383,808 of 124,439,808
    assert by_part["embedding"].get_text().strip() == "31.6%, 39.38 M"
    assert by_part["router"].get_text().strip() == "none"
    assert by_part["embedding"].get_position()[0] == pytest.approx(31.649, abs=1e-3)


@pytest.mark.parametrize(
    ("preset", "dimension", "changes"),
    [
        ("llama-3.1-8b", "layers (num_hidden_layers)", {"num_hidden_layers": 64}),
        ("llama-3.1-8b", "width (hidden_size)", {"hidden_size": 8192}),
        ("llama-3.1-8b", "MLP width (intermediate_size)", {"intermediate_size": 28672}),
        ("llama-3.1-8b", "key/value heads (num_key_value_heads)", {"num_key_value_heads": 16}),
        ("llama-3.1-8b", "vocabulary (vocab_size)", {"vocab_size": 256512}),
        ("gpt2", "width (n_embd)", {"n_embd": 1536}),
        ("gpt2", "MLP width (n_inner)", {"n_inner": 6144}),
        ("opt-125m", "width (hidden_size)", {"hidden_size": 1536, "word_embed_proj_dim": 1536}),
        ("mixtral-8x7b", "experts (num_local_experts)", {"num_local_experts": 16}),
        ("qwen3-30b-a3b", "expert width (moe_intermediate_size)", {"moe_intermediate_size": 1536}),
    ],
)
def test_doubling_a_dimension(preset, dimension, changes):
    expected = sizing.Model(json.loads(config_text(preset, **changes))).parameters.total
    assert dict(doubled(sizing.Model(preset)))[dimension] == expected
    shown = table(ParameterCalculator(model=preset))[f"twice the {dimension}"]
    assert shown[0] == f"{expected:,}"


def test_a_dimension_without_effect_is_not_listed():
    names = [name.split(" (")[0] for name, _ in doubled(sizing.Model("qwen3-30b-a3b"))]
    assert "MLP width" not in names  # all of its layers have experts
    assert "experts" not in [name.split(" (")[0] for name, _ in doubled(sizing.Model("gpt2"))]
    # more key/value heads than query heads cannot be
    assert not any("key/value" in name for name, _ in doubled(sizing.Model("pythia-70m")))


def test_pasted_config():
    calculator = ParameterCalculator(model="gpt2").set(config=config_text("qwen3-8b"))
    assert calculator.current.value == 8_190_735_360
    assert "pasted config" in calculator._headline.value  # and not the model chosen above it
    assert calculator.current.columns[0] == "the pasted config"
    calculator.set(config="")
    assert calculator.current.value == 124_439_808


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("{", "the pasted config is not JSON"),
        ("[1, 2]", "the pasted config holds a list"),
        ("{}", "model_type: None given; this is no model's config"),
        (
            '{"model_type": "bert"}',
            "'bert' given, an encoder (it fills in words); sizing.trace.model counts it as a "
            "causal model",
        ),
        (config_text("llama-3.1-8b", hidden_size=-1), "hidden_size: -1 given; allowed:"),
        (config_text("llama-3.1-8b", num_attention_heads=33), "num_attention_heads"),
        (config_text("deepseek-v3", kv_lora_rank="a"), "kv_lora_rank: 'a' given"),
    ],
)
def test_what_is_wrong_with_a_config_is_said_and_the_picture_kept(config, words):
    calculator = ParameterCalculator(model="gpt2")
    picture, details = calculator._picture.value, calculator._details.value
    calculator.set(config=config)
    assert words in calculator.error
    assert "Not possible." in calculator._headline.value and "role='alert'" in (
        calculator._headline.value
    )
    assert "the last setting that was possible" in calculator._changed.value
    assert (calculator._picture.value, calculator._details.value) == (picture, details)
    assert calculator.current.value == 124_439_808
    assert "not possible: " in calculator._repr_mimebundle_()["text/plain"]

    calculator.set(config="", model="gpt2-medium")  # and it goes on
    assert calculator.error == ""
    assert calculator.current.value == 354_823_168
    assert calculator._picture.value != picture
    assert "124,439,808 parameters → 354,823,168 parameters" in calculator._changed.value


def test_a_name_from_outside_is_text_not_markup():
    config = config_text("gpt2", model_type="<img src=x onerror=alert(1)>")
    calculator = ParameterCalculator().set(config=config)
    assert "&lt;img" in calculator._headline.value
    assert "<img" not in calculator._repr_mimebundle_()["text/html"]


def test_a_model_without_a_formula_is_offered_to_be_traced():
    config = {"model_type": "mamba2", "vocab_size": 500, "hidden_size": 64, "head_dim": 16}
    config |= {"num_hidden_layers": 2, "num_heads": 8, "state_size": 16, "n_groups": 2}
    calculator = ParameterCalculator().set(config=json.dumps(config))
    assert "no formula for 'mamba2' here" in calculator.error and "8 s" in calculator.error
    calculator.set(unknown="trace the real model")
    result = calculator.current
    assert not calculator.error and result.headline.endswith("parameters, traced")
    numbers = [row[1] for row in result.rows]
    assert numbers and all(number.endswith(", traced") for number in numbers)
    assert any(note.startswith("Traced: ") for note in result.notes)


@pytest.mark.parametrize(
    ("dtype", "card", "verdict"),
    [("bf16", "h100-sxm", "Fits"), ("fp32", "rtx-4090", "Does not fit")],
)
def test_limit_is_said_in_words(dtype, card, verdict):
    calculator = ParameterCalculator(model="llama-3.1-8b", dtype=dtype, gpu=card)
    limit = calculator.current.limit
    assert limit.used == BYTES[dtype] * 8_030_261_248
    assert limit.available == sizing.hardware.gpu(card).memory
    assert f"<b>{verdict}</b>" in calculator._headline.value
    assert verdict.lower() in calculator._repr_mimebundle_()["text/plain"]
    width = float(re.search(r"height:100%;width:([\d.]+)%", calculator._headline.value)[1])
    assert width == pytest.approx(min(100, 100 * limit.used / limit.available), abs=0.05)


# --- compute and time --------------------------------------------------------------------


def test_hours_by_hand():
    settings = {"model": "llama-3.1-8b", "tokens": 1e12, "gpu": "h100-sxm", "count": 64}
    calculator = ComputeCalculator(convention="6ND", mfu=0.4, **settings)
    seconds = 6 * 8_030_261_248 * 1e12 / (64 * 989e12 * 0.4)
    assert calculator.current.value == pytest.approx(seconds, rel=1e-12)
    assert calculator.current.headline == "22.0 days"
    assert "On 64 × NVIDIA H100 SXM5 80 GB." in calculator._headline.value
    assert f"= {seconds:,.0f} s" in calculator.current.formula
    assert "48.2 ZFLOP / (64 × 989 TFLOP/s bf16 × 40%)" in calculator.current.formula


def test_conventions_by_hand():
    # Llama 3.1 8B, a token: 2 x (parameters without the input table) + 4 LHQT, forward; 3 x in all
    h, layers, vocabulary, s = 4096, 32, 128256, 4096
    norms = h * (2 * layers + 1)
    matrices = 8_030_261_248 - vocabulary * h - norms
    full = 3 * (2 * matrices + 4 * layers * h * s) * 1e12
    causal = 3 * (2 * matrices + 4 * layers * h * (s + 1) / 2) * 1e12
    calculator = ComputeCalculator(tokens=1e12, sequence=s)
    one = 989e12 * 64 * 0.4
    for convention, expected in {
        "all query-key pairs": full,
        "causal pairs": causal,
        "6ND": 6 * 8_030_261_248 * 1e12,
        "PaLM": (6 * 8_030_261_248 + 12 * layers * h * s) * 1e12,
        "Megatron": (72 * layers * h**2 * (1 + s / (6 * h)) + 6 * h * vocabulary) * 1e12,
    }.items():
        calculator.set(convention=convention)
        assert calculator.current.value * one == pytest.approx(expected, rel=1e-9), convention
        assert table(calculator)[convention][1] == f"{expected / full:.2f}"


def test_the_plot_of_time_is_the_result():
    calculator = ComputeCalculator(count=1024)
    seconds = calculator.current.value
    assert list(calculator._point.get_xdata()) == [1024]
    assert list(calculator._point.get_ydata()) == pytest.approx([seconds])
    assert list(calculator._line.get_xdata()) == [1, COUNTS[-1]]
    assert list(calculator._line.get_ydata()) == pytest.approx(
        [1024 * seconds, 1024 * seconds / COUNTS[-1]]
    )
    _, low, _, high = published_utilisation("all query-key pairs")
    band = calculator._band.get_paths()[0].vertices[:4]
    at_one = 1024 * seconds * 0.4
    assert [y for x, y in band if x == 1] == pytest.approx([at_one / low, at_one / high])


@pytest.mark.parametrize(
    "settings",
    [
        {"model": "gpt3-175b", "sequence": 128, "tokens": 3e13, "gpu": "t4", "mfu": 0.05},
        {
            "model": "pythia-14m",
            "tokens": 1e8,
            "gpu": "b200-sxm",
            "count": 65536,
            "mfu": 0.75,
        },
        {"model": "llama-3.1-405b", "tokens": 1.5e13, "count": 16384},
    ],
)
def test_the_plan_is_always_in_the_picture(settings):
    calculator = ComputeCalculator().set(sequence=2048).set(**settings)
    assert calculator.error == ""
    left, right = calculator._axes.get_xlim()
    bottom, top = calculator._axes.get_ylim()
    assert left <= calculator._point.get_xdata()[0] <= right
    assert bottom <= calculator._point.get_ydata()[0] <= top
    before = pixels(calculator)
    calculator._point.set_color("lime")
    calculator._picture.value = calculator._png()
    assert (before != pixels(calculator)).any()  # the point is really drawn


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_band_counts_flops_as_the_plan_does(convention):
    runs, low, middle, high = published_utilisation(convention)
    assert runs >= (26 if convention == "6ND" else 19) and 0 < low < middle < high < 1
    calculator = ComputeCalculator(convention=convention, count=1, mfu=0.4)
    shown = calculator.current.accuracy
    assert f"{runs} published runs had {middle:.0%} in the median" in shown
    at_full_peak = calculator.current.value * 0.4
    ends = [duration(at_full_peak / u) for u in (high, low)]
    assert f"{low:.0%} to {high:.0%}: here {ends[0]} to {ends[1]}" in shown


def test_utilisation_of_a_published_run_by_hand():
    # Llama 2 7B: 2 T tokens in 184,320 hours of A100s, 4,096 tokens a sequence (its model card)
    h, layers, vocabulary, s = 4096, 32, 32000, 4096
    matrices = 6_738_415_616 - vocabulary * h - h * (2 * layers + 1)
    every = 3 * (2 * matrices + 4 * layers * h * s) * 2e12
    row = next(row for row in published_runs() if row["name"] == "Llama 2 7B")
    assert _published_flops(row, "all query-key pairs") == pytest.approx(every, rel=1e-12)
    assert _published_flops(row, "6ND") == 6 * 6_738_415_616 * 2e12
    palm = _published_flops(row, "PaLM") / (184_320 * 3600 * 312e12)
    assert palm == pytest.approx(0.453, abs=5e-4)  # lab 02 has it from PaLM's formula


def published_runs():
    with (DATA / "runs.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_6nd_says_what_it_leaves_out():
    counted = [(_published_flops(row, "all query-key pairs"), row)
               for row in published_runs() if row["tokens"]]  # fmt: skip
    unseen = [1 - _published_flops(row, "6ND") / every for every, row in counted if every]
    assert len(unseen) >= 19 and max(unseen) < UNSEEN
    short = ComputeCalculator(model="qwen3-0.6b", convention="6ND", sequence=512)
    assert "not in 6ND" not in short.current.accuracy
    seen = float(table(short.set(sequence=32768))["6ND"][1])  # over all products, two decimals
    assert f"{1 - seen:.0%} of this step's products are not in 6ND" in short.current.accuracy


def test_learned_positions_end():
    calculator = ComputeCalculator(model="gpt2", sequence=1024).set(sequence=2048)
    assert "sequence: 2048 given; allowed: 1 to 1024" in calculator.error
    assert calculator.set(sequence=512).error == ""


def test_first_setting_may_be_impossible():
    calculator = ComputeCalculator(model="gpt2", sequence=2048)
    assert "Not possible." in calculator._headline.value
    assert calculator._changed.value == ""
    assert "sequence: 2048" in calculator._repr_mimebundle_()["text/html"]
    with pytest.raises(ValueError, match="sequence: 2048 given"):
        _ = calculator.current
    calculator.set(sequence=1024)
    assert calculator.current.value > 0 and calculator._picture.value


def test_every_gpu():
    device, compute, parameters = DeviceCard(), ComputeCalculator(), ParameterCalculator()
    for name in gpus():
        card = sizing.hardware.gpu(name)
        dtype, peak = next(iter(card.peak.items()))
        device.set(gpu=name, dtype=dtype, intensity=4096.0)
        assert (device.error, device.current.value) == ("", peak), name
        assert compute.set(gpu=name).error == "" and card.label in compute._headline.value, name
        assert parameters.set(gpu=name).current.limit.available == card.memory, name


# --- device card -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intensity", "reached", "side"),
    [(64.0, 64 * 3.35e12, "memory"), (256.0, 256 * 3.35e12, "memory"), (512.0, 989e12, "arithm")],
)
def test_roofline_by_hand(intensity, reached, side):
    card = DeviceCard(gpu="h100-sxm", dtype="bf16", intensity=intensity)
    assert card.current.value == pytest.approx(reached)
    assert f"Limited by {side}" in card._headline.value
    assert f"{reached / 989e12:.0%} of the peak" in card.current.headline
    assert list(card._point.get_data()[0]) == [intensity]
    assert list(card._point.get_data()[1]) == pytest.approx([reached])
    x, y = card._roof.get_data()
    assert list(x) == pytest.approx([0.05, 989 / 3.35, 5000])
    assert list(y) == pytest.approx([0.05 * 3.35e12, 989e12, 989e12])


def test_the_tabled_figures_are_the_cards():
    rows = table(DeviceCard(gpu="h100-sxm"))
    assert rows["dense peak, bf16"] == ("989 TFLOP/s",)
    assert rows["bandwidth"] == ("3.35 TB/s",)
    assert rows["power"] == ("700 W",)
    assert "Source: " in DeviceCard(gpu="h100-sxm")._details.value


def test_dtype_that_a_gpu_lacks():
    card = DeviceCard(gpu="t4", dtype="fp16")
    picture = card._picture.value
    card.set(dtype="bf16")
    assert "dtype: 'bf16' given" in card.error and "NVIDIA T4" in card.error
    assert "allowed: " in card._headline.value and "fp16" in card._headline.value
    assert card._picture.value == picture
    assert card.set(gpu="a100-sxm-80gb").error == ""


@pytest.fixture
def measured(tmp_path, monkeypatch):
    """A learner whose own CPU was measured: 150 GFLOP/s in fp32, 90 in bf16, 12 GB/s."""
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    monkeypatch.setenv("SIZING_RECORDED", "0")

    def row(**values):
        return {"status": "ok", "note": ""} | values

    rows = [
        row(kind="matmul", dtype="fp32", size=512, flops_per_second=1.0e11),
        row(kind="matmul", dtype="fp32", size=2048, flops_per_second=1.5e11),
        row(kind="matmul", dtype="bf16", size=2048, flops_per_second=9.0e10),
        row(kind="copy", dtype="fp32", size=2**20, bytes_per_second=0.9e10),
        row(kind="copy", dtype="fp32", size=2**26, bytes_per_second=1.2e10),
        row(kind="copy", dtype="fp32", size=2**28, bytes_per_second=1.1e10),
        row(kind="matmul", dtype="fp16", size=2048, flops_per_second=9e15, status="not available"),
    ]
    provenance = {"device": "Laptop CPU", "kind": "cpu", "memory": "16000000000 bytes"}
    provenance |= {"command": "python -m sizing.experiments ceilings", "date": "2026-01-01"}
    write(Recording("ceilings", "laptop", rows, provenance), new_file("ceilings", "laptop"))


def test_own_machine(measured):
    card = DeviceCard(gpu=MINE, dtype="fp32", intensity=4.0)
    assert card.controls["gpu"].options[0] == (f"{MINE}: Laptop CPU (measured)", MINE)
    assert card.current.value == pytest.approx(4 * 1.2e10)
    assert card.set(intensity=64.0).current.value == pytest.approx(1.5e11)
    assert "measured on this machine" in card.current.accuracy
    assert card.set(dtype="fp16").error  # it could not run

    time = ComputeCalculator(gpu=MINE, count=1, convention="6ND", model="gpt2", sequence=1024)
    expected = 6 * 124_439_808 * 1e12 / (9e10 * 0.4)
    assert time.current.value == pytest.approx(expected)


@pytest.mark.parametrize("rows", [0, 1])  # nothing measured, or cut off before the copies
def test_without_own_measurement(tmp_path, monkeypatch, rows):
    monkeypatch.setenv("SIZING_LEARNER_DIR", str(tmp_path))
    monkeypatch.setenv("SIZING_RECORDED", "0")
    if rows:
        product = dict(kind="matmul", dtype="fp32", size=512, flops_per_second=1e11, status="ok")
        write(Recording("ceilings", "laptop", [product]), new_file("ceilings", "laptop"))
    card = DeviceCard()
    assert MINE not in [value for _, value in card.controls["gpu"].options]
    with pytest.raises(ValueError, match=f"gpu: '{MINE}' given; allowed: "):
        card.set(gpu=MINE)


# --- what all share ----------------------------------------------------------------------


MOVES = {
    DeviceCard: ("intensity", 128.0, "FLOP per byte 64 → 128", "2 ×"),
    ParameterCalculator: ("model", "gpt2", "model llama-3.1-8b → gpt2", "0.0155 ×"),
    ComputeCalculator: ("count", 128, "how many 64 → 128", "0.5 ×"),
}


@pytest.mark.parametrize("calculator", ALL)
def test_a_moved_control_changes_words_number_and_picture(calculator):
    name, value, words, ratio = MOVES[calculator]
    it = calculator()
    before = it._picture.value, it._headline.value, it._details.value
    assert "Move a control" in it._changed.value
    it.controls[name].value = value  # as the browser does
    after = it._picture.value, it._headline.value, it._details.value
    assert all(old != new for old, new in zip(before, after, strict=True))
    assert it._changed.value.startswith(f"Changed: {words}: ")
    assert ratio in it._changed.value
    assert it._picture.tooltip == it.current.caption  # a screen reader's name for the picture
    assert it.settings[name] == value


@pytest.mark.parametrize("calculator", ALL)
def test_the_picture_is_of_the_setting_alone(calculator):
    name, value, *_ = MOVES[calculator]
    direct = calculator(**{name: value})
    moved = calculator()
    first = moved.settings[name]
    moved.set(**{name: value})
    assert moved._picture.value == direct._picture.value
    assert moved.set(**{name: first})._picture.value == calculator()._picture.value


@pytest.mark.parametrize("calculator", ALL)
def test_what_is_stored_in_a_notebook(calculator):
    name, value, *_ = MOVES[calculator]
    one, two = (calculator().set(**{name: value})._repr_mimebundle_() for _ in range(2))
    assert one["text/plain"] == two["text/plain"] and one["text/html"] == two["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in one
    html, plain = one["text/html"], one["text/plain"]
    result = calculator().set(**{name: value}).current
    assert result.headline in plain and result.headline in html
    assert result.formula in plain
    assert html.count("<tr>") == len(result.rows) + 1
    for text in (html, plain):
        assert not re.search(r"0x[0-9a-f]{6}|[0-9a-f]{32}|IPY_MODEL| object at ", text)
        assert "<style" not in text and "onload" not in text
    unclosed = re.sub(r"<(/?)(\w+)[^>]*>", r"<\1\2>", html)
    for tag in set(re.findall(r"<(\w+)>", unclosed)):
        assert unclosed.count(f"<{tag}>") == unclosed.count(f"</{tag}>"), tag


@pytest.mark.parametrize("calculator", ALL)
def test_unknown_settings_are_refused_and_change_nothing(calculator):
    it = calculator()
    picture, settings = it._picture.value, it.settings
    with pytest.raises(ValueError, match=r"colour: no such setting; allowed: \w+"):
        it.set(colour="red")
    with pytest.raises(ValueError, match=r"gpu: 'abacus' given; allowed: v100"):
        it.set(gpu="abacus")
    name, value, *_ = MOVES[calculator]
    with pytest.raises(ValueError, match="abacus"):
        it.set(**{name: value, "gpu": "abacus"})
    with pytest.raises(ValueError, match="abacus"):
        calculator(gpu="abacus")
    assert (it.settings, it._picture.value) == (settings, picture)


@pytest.mark.parametrize(
    ("calculator", "wrong", "message"),
    [
        (ParameterCalculator, {"config": {"model_type": "gpt2"}}, "config: dict given; allowed"),
        (ParameterCalculator, {"dtype": "int4"}, "dtype: 'int4' given; allowed: fp32, bf16, fp8"),
        (ComputeCalculator, {"count": 2.5}, r"count: 2\.5 given; allowed: a whole number >= 1"),
        (ComputeCalculator, {"mfu": 40}, "mfu: 40 given; allowed: a number above 0 and <= 1"),
        (DeviceCard, {"intensity": -3.0}, r"intensity: -3\.0 given; allowed: a number above 0"),
    ],
)
def test_values_that_a_control_does_not_have(calculator, wrong, message):
    with pytest.raises(ValueError, match=message):
        calculator().set(**wrong)


def test_set_moves_several_controls_at_once():
    it = ComputeCalculator()
    seen = []
    it._picture.observe(lambda change: seen.append(change.new), "value")
    assert it.set(model="gpt2", sequence=1024, count=8) is it
    assert len(seen) == 1  # one picture, though gpt2 with 4096 tokens alone is not possible
    assert it.error == "" and it._changed.value.count("→") == 4


def test_a_picture_is_as_large_as_it_is_shown():
    height, width, _ = pixels(DeviceCard()).shape
    assert (width, height) == (880, 340)


# --- values off the steps ------------------------------------------------------------------------

CALCULATORS = [name for name in calculators.__all__ if isinstance(getattr(calculators, name), type)]


@pytest.mark.parametrize("name", CALCULATORS)
def test_any_value_of_a_field_can_be_set_and_typed(name):
    made = getattr(calculators, name)()
    for key, control in made.controls.items():
        if isinstance(control, Scale):
            first = control.value
            off_the_steps(made, key)
            made.set(**{key: first})


def off_the_steps(made, key):
    control = made.controls[key]
    steps = control.steps
    middle = len(steps) // 2
    value = (steps[middle - 1] + steps[middle]) / 2
    if control.whole:
        value = round(value)
        value += value in steps
    before = made.current.headline
    error = made.set(**{key: value}).error
    if key in ("tensor", "pipeline", "context", "interleave", "expert"):  # not any divides a model
        assert control.value == value and (not error or "allowed" in error)
        return
    assert error == ""
    assert control.value == value and control.shown(value) in made._repr_mimebundle_()["text/plain"]
    assert made._shown(key, value) in made._changed.value or made.current.headline == before
    typed = made.current
    made.set(**{key: steps[0]})
    made.entries[key].value = repr(value)  # as the browser does
    assert made.error == "" and made.entries[key].value == ""
    assert (control.value, made.current) == (value, typed)
    assert [v for _, v in control.options] == sorted({*steps, value})
    for wrong in ("many", "-1", "0" if 0 not in steps else "-2"):
        made.entries[key].value = wrong
        assert made.error.startswith(f"{key}: ") and "allowed: " in made.error
        assert made.entries[key].value == wrong  # to be mended
        assert (control.value, made.current) == (value, typed)


def test_off_step_settings_are_the_core_s():
    made = calculators.MemoryCalculator(model="qwen3-0.6b", sequence=340, micro_batch=5)
    run = sizing.Run("qwen3-0.6b", sequence=340, micro_batch=5)
    assert made.current.value == sizing.memory(run).total
    cost = calculators.ComputeCalculator(model="llama-3.1-8b", tokens=1.4e12)
    assert "1.4 T tokens" in cost._repr_mimebundle_()["text/plain"]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("340", 340), ("4,096", 4096), (" 1.4e12 ", 1.4e12), ("1.4T", 1.4e12), ("4k", 4000),
        ("40 %", 0.4), ("2048 tokens", 2048), ("1_000", 1000), (".5", 0.5),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_type_them(text, number):
    assert read_number("sequence", text) == pytest.approx(number)


@pytest.mark.parametrize("text", ["", "four", "1.2.3", "4096; import os", "1e"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError, match=r"sequence: .* given; allowed: a number, such as 340"):
        read_number("sequence", text)
