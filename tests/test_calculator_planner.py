"""The parallel planner against the core, brute force, the published grid and its own picture."""

import csv
import warnings
from dataclasses import replace
from itertools import product
from statistics import median

import pytest

import sizing
from sizing.calculators import ParallelPlanner
from sizing.calculators.degrees import NO_GPUS, PIPELINE, TENSOR, Cluster, best, cell, grid
from sizing.calculators.planner import RECIPES, accuracy, errors
from sizing.evidence.ultrascale import measured
from sizing.hardware import gpu
from sizing.parallel import check_degrees
from sizing.speed.step import STEP_PARTS, step_time
from sizing.units import DATA, gb

H100 = gpu("h100-sxm")
CLUSTER = Cluster(H100, 64, 8, 50e9, 1.0)
RUN = sizing.Run(
    "llama-3.1-8b",
    sequence=4096,
    precision="bf16-master",
    gradients="fp32",
    optimizer="adamw-fused",
    zero=1,
)


def table(of) -> dict[tuple[int, int], str]:
    """{(tensor, pipeline): the cell's words}."""
    return {
        (t, int(row[0])): words
        for row in of.current.rows
        for t, words in zip(TENSOR, row[1:], strict=True)
    }


def test_value_is_a_run_written_by_hand():
    made = ParallelPlanner(look=(2, 4))
    # 64 GPUs / 2 / 4 = 8 ranks; 1 Mi tokens / 4096 = 256 sequences; 256 / 8 = 32 micro-batches
    run = replace(RUN, data=8, tensor=2, pipeline=4, accumulation=32)
    time = step_time(run, host=0.0)
    assert made.current.value == pytest.approx(2**20 / time.total / 64)
    assert "tensor 2 x pipeline 4 x data 8" in made.current.headline
    assert "8 data x 32 micro-batches x 1 x 4,096 = 1,048,576 tokens" in made.current.formula
    assert made.current.limit.used == sizing.memory(run).total
    assert table(made)[2, 4] == f"{2**20 / time.total / 64:,.0f}"


def test_best_is_that_of_brute_force():
    found = {}
    for tensor, pipeline in product(TENSOR, PIPELINE):
        data = 64 // (tensor * pipeline)
        if data == 0 or pipeline > RUN.model.layers:
            continue
        run = replace(RUN, data=data, tensor=tensor, pipeline=pipeline, accumulation=256 // data)
        try:
            fits = sizing.memory(run).total <= H100.memory
        except ValueError:
            continue
        if fits:
            found[tensor, pipeline] = 2**20 / step_time(run).total / 64
    cells = grid(RUN, CLUSTER, 256)
    assert {key: c.speed for key, c in cells.items() if c.possible} == pytest.approx(found)
    top = best(cells)
    assert found[top.tensor, top.pipeline] == max(found.values())
    assert ParallelPlanner().current.headline.startswith(f"best: {top.name}: ")


@pytest.mark.parametrize("row", [r for r in measured() if r.row in (40, 300, 600, 650)])
def test_near_the_published_runs(row):
    # an independent measurement: the same degrees on as many H100s, with the same batch
    run = row.run
    cluster = replace(CLUSTER, gpus=run.gpus)
    found = cell(run, cluster, run.sequences, run.tensor, run.pipeline)
    assert found.run == run
    assert found.speed == pytest.approx(row.tokens_per_second, rel=0.25)
    assert found.memory.total == pytest.approx(row.memory, rel=0.25)


def test_pairs_that_need_more_gpus():
    # 2^i x 2^j > 2^6 for 0 <= i <= 5, 0 <= j <= 6: 1 + 2 + 3 + 4 + 5 pairs
    made = ParallelPlanner(gpus=64)
    assert sum(words == NO_GPUS for words in table(made).values()) == 15
    made.set(look=(16, 8))
    assert "tensor 16 x pipeline 8 = 128 GPUs; allowed: a divisor of the 64" in made.current.formula
    made.set(look="best", context=4)
    assert sum(words == NO_GPUS for words in table(made).values()) == 42 - 15
    assert all(c.run.data * c.tensor * c.pipeline == 16 for c in made.current.data[0].values()
               if c.possible)  # fmt: skip


@pytest.mark.parametrize(
    ("model", "degrees", "word"),
    [
        ("gpt2-xl", (2, 1), "heads"),  # 25 heads
        ("llama-3.1-8b", (16, 1), "kv heads"),  # 8 key/value heads
    ],
)
def test_reason_is_that_of_check_degrees(model, degrees, word):
    made = ParallelPlanner(model=model, sequence=1024, look=degrees)
    run = replace(RUN, model=sizing.Model(model), sequence=1024)
    with pytest.raises(ValueError) as caught:
        check_degrees(replace(run, tensor=degrees[0], pipeline=degrees[1]))
    assert str(caught.value) in made.current.notes[0]
    assert made.current.value == 0 and made.current.headline.endswith("is impossible")
    assert table(made)[degrees] == word


def test_a_stage_without_layers_is_no_plan():
    made = ParallelPlanner(model="llama-3.1-8b", sequence=1024, look=(1, 64))
    assert "64 stages for 32 layers: 32 would hold no layer" in made.current.notes[0]
    assert table(made)[1, 64] == "layers"


def test_batch_smaller_than_data_parallelism():
    # 65,536 tokens are 16 sequences, fewer than 64 ranks
    made = ParallelPlanner(batch=2**16, look=(1, 1))
    assert "the batch has 16 sequences; data 64 x micro-batch 1" in made.current.formula
    words = table(made)
    for tensor, pipeline in product((1, 2, 4, 8), (1, 2, 4, 8, 16, 32)):
        if tensor * pipeline <= 64:
            assert (words[tensor, pipeline] == "batch") == (64 // (tensor * pipeline) > 16)
    with pytest.raises(ValueError, match="batch: 65,536 tokens given"):
        ParallelPlanner(batch=2**16, sequence=131072).current  # noqa: B018


def test_says_by_how_much_it_does_not_fit():
    made = ParallelPlanner(look=(1, 1))
    peak = sizing.memory(replace(RUN, data=64, accumulation=4)).total
    assert not made.current.limit.fits
    assert f"{gb(peak - H100.memory)} more than the {gb(H100.memory)}" in made.current.notes[0]
    assert table(made)[1, 1] == f"+{(peak - H100.memory) / 1e9:.0f} GB"


def test_nothing_possible_says_so_and_keeps_the_reasons():
    made = ParallelPlanner(model="llama-3.1-405b", gpus=8)
    assert made.current.headline.startswith("no choice is possible")
    assert "0 of 42 pairs are possible" in made.current.notes[-1]
    assert made._frame.get_xdata() == [] and made._mesh.get_array().count() == 0
    assert "does not fit" in made.current.limit.words


def test_warnings_become_words(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = ParallelPlanner(zero=3, look=(2, 2))
    assert "zero=3 with pipeline=2" in made.current.notes[0]
    words = table(made)
    assert words[2, 2].endswith("!") and not words[2, 1].endswith("!")
    assert capsys.readouterr().err == ""


def test_graphs_take_no_host_time():
    made = ParallelPlanner(look=(8, 1), host=1.0)
    slow = made.current.value
    assert "host" in made.current.formula
    made.set(host=0.0)
    assert "host" not in made.current.formula and made.current.value > slow


def test_switch_shows_the_same_choice_in_another_measure():
    made = ParallelPlanner(look=(4, 2))
    run = replace(RUN, data=8, tensor=4, pipeline=2, accumulation=32)
    seconds = step_time(run, host=0.0).total
    mfu = 3 * sizing.flops(run).forward / (seconds * 64 * 989e12)
    headline = made.current.headline
    assert table(made.set(show="mfu"))[4, 2] == f"{mfu:.0%}"
    assert table(made.set(show="memory"))[4, 2] == f"{sizing.memory(run).total / 1e9:.1f}"
    assert made.current.headline == headline


def test_parts_add_up_in_the_picture():
    made = ParallelPlanner(look=(2, 2))
    widths = [bar.get_width() for bar in made._bars]
    split = replace(RUN, data=16, tensor=2, pipeline=2, accumulation=16)
    time = step_time(split, host=0.0)
    parts = len(STEP_PARTS)
    assert sum(widths[:parts]) == pytest.approx(1) and sum(widths[parts:]) == pytest.approx(1)
    assert widths[:parts] == pytest.approx([s / time.total for s in time.parts.values()])


def test_picture_hatches_the_impossible_and_frames_the_best():
    made = ParallelPlanner()
    cells, top = made.current.data[0], made.current.data[4]
    shades = made._mesh.get_array().reshape(len(PIPELINE), len(TENSOR))
    for (row, p), (column, t) in product(enumerate(PIPELINE), enumerate(TENSOR)):
        assert shades.mask[row, column] == (not cells[t, p].possible)
        if cells[t, p].possible:
            assert shades[row, column] == pytest.approx(cells[t, p].speed / top.speed)
    x, y = made._frame.get_data()
    assert (int(min(x)), int(min(y))) == (TENSOR.index(top.tensor), PIPELINE.index(top.pipeline))


def test_moving_a_control_changes_words_and_picture():
    made = ParallelPlanner()
    before = made._picture.value, made.current.rows
    made.set(gpus=128)
    assert "GPUs 64 → 128" in made._changed.value
    assert made._picture.value != before[0] and made.current.rows != before[1]
    made.set(gpus=64)
    assert (made._picture.value, made.current.rows) == before


def test_every_preset_has_a_picture_or_a_reason(models):
    made = ParallelPlanner(sequence=1024, gpus=1024)
    for name in models:
        made.set(model=name)
        if name == "falcon-7b":  # one key/value head, for which torch has no fused kernel
            assert made.error.startswith("attention: 'flash' given; allowed: 'eager'")
            continue
        assert made.error == "" and len(made.current.rows) == len(PIPELINE), name
        assert all(table(made).values()), name
    made.set(model="gpt2", sequence=2048)
    assert "sequence: 2048 given; allowed: 1 to 1024" in made.error


def test_error_bars_are_those_of_the_table():
    with (DATA / "parallel_error.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    judged = [r for r in rows if float(r["mfu_pct"]) > 10 and r["calibration"] == "0"]
    wide = [r for r in judged if r["tp"] == "8"]
    for chosen, degrees in ((judged, {}), (wide, {"tp": 8})):
        ratios = [1 + float(r["throughput_error_pct"]) / 100 for r in chosen]  # rounded to 0.1%
        runs, error, close = errors("tok_s_gpu", **degrees)
        assert runs == len(chosen)
        assert error == pytest.approx(median(abs(r - 1) for r in ratios), abs=1e-3)
        assert close == pytest.approx(sum(abs(r - 1) <= 0.2 for r in ratios) / runs, abs=0.02)
    assert errors("mem_gib")[0] == len(rows) == 710
    made = ParallelPlanner(look=(8, 1), host=1.0)
    assert made.current.accuracy == accuracy(made.current.data[3].run)
    assert f"tensor 8: {errors('tok_s_gpu', tp=8)[1]:.1%} over {len(wide)}" in made.current.accuracy
    assert "tensor 64: no run" in accuracy(replace(RUN, tensor=64))


def test_recipes_are_precisions_of_a_run():
    for precision, gradients in RECIPES.values():
        assert replace(RUN, precision=precision, gradients=gradients).precision == precision


def test_impossible_settings_say_why():
    made = ParallelPlanner()
    with pytest.raises(ValueError, match="zero: 4 given; allowed: 0, 1, 2, 3"):
        made.set(zero=4)
    with pytest.raises(ValueError, match="gpus: 0 given; allowed: a whole number >= 1"):
        made.set(gpus=0)
    assert made.set(gpus=12, batch=3 * 2**18).error == ""  # 12 = 4 x 3
    assert made.current.data[0][4, 1].run.data == 3


def test_bundle_reads_without_widgets():
    bundle = ParallelPlanner()._repr_mimebundle_()
    assert "tokens/s per GPU" in bundle["text/plain"] and "fits: " in bundle["text/plain"]
    assert "<td>kv heads</td>" in bundle["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in bundle
