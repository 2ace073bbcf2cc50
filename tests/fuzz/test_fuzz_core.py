"""What must hold of any run, whatever its figures: Hypothesis looks for one that breaks it."""

import json
import math
import os
import re
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import sizing
from sizing import Model, Run, checkpoint, communication, flops, memory, step_time
from sizing.calculators.base import read_number
from sizing.measuring.training import as_run, describe
from sizing.run import CHOICES
from sizing.units import GB, GIB, count, decimals, duration, gb, gib, si

EACH = max(30, int(os.environ.get("SIZING_FUZZ", 130)) // 20)
NAMES = ("gpt2", "llama-3.2-1b", "qwen3-0.6b", "gemma-2b", "olmoe-1b-7b", "deepseek-v2-lite")
MODELS = [Model(name) for name in NAMES if name in sizing.presets()]
SIZES = {"B": 1, "kB": 1e3, "MB": 1e6, "GB": GB, "KiB": 1024, "MiB": 2**20, "GiB": GIB}
fuzzed = settings(max_examples=EACH)


@st.composite
def runs(draw, **fixed):
    """A run that is possible; settings that refuse each other are drawn again."""
    whole = st.integers(1, 24)
    choices = {name: st.sampled_from(options) for name, options in CHOICES.items()}
    chosen = {name: draw(options) for name, options in choices.items()}
    chosen |= {
        "model": draw(st.sampled_from(MODELS)),
        "sequence": draw(st.integers(1, 1024)),
        "micro_batch": draw(whole),
        "accumulation": draw(st.integers(1, 4)),
        "data": draw(st.sampled_from((1, 2, 3, 8, 64))),
        "lora": draw(st.sampled_from((None, None, 1, 16))),
    }
    try:
        run = Run(**chosen | fixed)
        memory(run), flops(run)
    except ValueError as error:
        assert re.match(r"[\w ,()]+: .+; (allowed|needed)", str(error)), error  # says what is wrong
        assume(False)
    return run


def test_there_are_models_of_several_kinds():
    assert len(MODELS) >= 5 and any(model.parameters.router for model in MODELS)


@fuzzed
@given(runs())
def test_parts_sum_to_totals(run):
    held = memory(run)
    totals = {name: sum(phase.values()) for name, phase in held.phases.items()}
    assert max(totals.values()) == totals[held.peak_phase] == held.total
    assert min(min(phase.values()) for phase in held.phases.values()) >= 0
    work = flops(run)
    assert work.forward + work.backward + work.recompute == work.total > 0
    assert work.recompute >= 0 and (run.recompute != "none" or work.recompute == 0)
    sent = communication(run)
    assert sum(sent.by_purpose.values()) == pytest.approx(sent.total)
    assert sent.total == 0 or run.data > 1


@fuzzed
@given(runs(), st.integers(1, 8))
def test_more_work_never_takes_less(run, more):
    larger = [replace(run, micro_batch=run.micro_batch + more)]
    if run.model.max_positions is None or run.sequence + more <= run.model.max_positions:
        larger.append(replace(run, sequence=run.sequence + more))
    for other in larger:
        assert memory(other).total >= memory(run).total
        assert flops(other).total > flops(run).total
    assert flops(replace(run, accumulation=run.accumulation + more)).total > flops(run).total


@fuzzed
@given(runs(data=1), st.sampled_from((1, 2, 3)))
def test_zero_over_one_rank_is_zero_0(run, stage):
    """One rank has nothing to divide and nothing to send."""
    run = replace(run, zero=0)
    try:
        divided = replace(run, zero=stage)
        held = memory(divided)
    except ValueError as error:
        assert "zero" in str(error) or "lora" in str(error)
        return
    assert held.phases == memory(run).phases
    assert flops(divided) == flops(run)
    assert communication(divided).total == communication(run).total == 0


@fuzzed
@given(runs(lora=None), st.sampled_from(("h100-sxm", "a100-sxm-80gb", "l4")))
def test_time_is_the_sum_of_its_parts_and_finite(run, gpu):
    try:
        took = step_time(run, gpu)
    except ValueError as error:
        assert "; allowed" in str(error)
        return
    assert min(took.parts.values()) >= 0
    assert math.isfinite(took.total) and took.total > 0
    assert sum(took.parts.values()) == pytest.approx(took.total)


@fuzzed
@given(runs(lora=None, data=1))
def test_a_checkpoint_is_the_sum_of_its_files(run):
    try:
        saved = checkpoint(run)
    except ValueError as error:
        assert "; allowed" in str(error)
        return
    assert saved.total == sum(saved.files.values())
    numbers = saved.weights + saved.optimizer + saved.master + saved.other
    assert 0 < numbers <= saved.total


DEFAULTS = {name: field.default for name, field in Run.__dataclass_fields__.items()}
KEPT = describe(Run("gpt2", sequence=1))  # what a recording keeps of a run; the rest is default
OTHERS = {name: value for name, value in DEFAULTS.items() if name not in KEPT}


@fuzzed
@given(runs(**OTHERS))
def test_a_row_of_a_run_comes_back_through_json(run):
    """`describe` is how recordings keep a run, `as_run` how it is read again."""
    row = json.loads(json.dumps(describe(run)))
    assert as_run(row) == run
    assert memory(as_run(row)).total == memory(run).total


numbers = st.floats(1e-3, 1e24).map(lambda x: float(f"{x:.6g}"))


def value(text: str) -> tuple[float, str]:
    number, _, unit = text.partition(" ")
    return float(number.replace(",", "")), unit


@fuzzed
@given(st.integers(1, 10**17), st.sampled_from((gb, gib)))
def test_bytes_come_back_from_what_is_printed(size, shown):
    number, unit = value(shown(size))
    assert ("i" in unit) == (shown is gib) or unit == "B"
    assert abs(number) * SIZES[unit] == pytest.approx(size, abs=0.0051 * SIZES[unit])
    assert number > 0


@fuzzed
@given(numbers)
def test_numbers_come_back_from_what_is_printed(number):
    read, unit = value(si(number, "FLOP"))
    prefix = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
    prefix |= {"Z": 1e21, "Y": 1e24}
    assert read * prefix[unit.removesuffix("FLOP")] == pytest.approx(number, rel=5.1e-3)
    assert float(decimals(number, 1).replace(",", "")) > 0
    if number >= 1:  # what `count` prints is what a calculator's field reads
        assert read_number("tokens", count(number)) == pytest.approx(number, rel=5.1e-4)


@fuzzed
@given(st.floats(1e-6, 1e10))
def test_seconds_come_back_from_what_is_printed(seconds):
    number, unit = value(duration(seconds))
    units = {"µs": 1e-6, "ms": 1e-3, "s": 1, "min": 60, "h": 3600, "days": 86400}
    assert number * units[unit] == pytest.approx(seconds, rel=5.1e-3)


@fuzzed
@given(st.integers(0, 10**15), st.sampled_from(("{}", "{:,}", " {} ", "{} tokens", "{:_}")))
def test_typed_numbers_are_read(number, form):
    assert read_number("tokens", form.format(number)) == number
