"""The planner's dashboard against the search, the core, and its own picture."""

import json
import re
import subprocess
import time

import pytest

import sizing
from sizing.calculators import PlanDashboard
from sizing.calculators.dashboard import EXPORTS, candidates, counts
from sizing.calculators.plane import round_ends, thinned
from sizing.planning.search import frontier

MODEL, TOKENS = "llama-3.2-1b", 1e11


@pytest.fixture(scope="module")
def made():
    return PlanDashboard(
        model=MODEL, tokens=TOKENS, gpu="h100-sxm", other="a100-sxm-80gb", gpus=16, deadline=10.0,
        budget=3000,
    )  # fmt: skip


@pytest.fixture(autouse=True)
def as_it_was(request):
    """Settings that a test has moved are put back."""
    if "made" not in request.fixturenames:
        yield
        return
    calculator = request.getfixturevalue("made")
    before = calculator.settings
    yield
    calculator.set(**before)


def plans(of) -> dict[str, tuple[str, ...]]:
    return {row[0].split(" (")[0]: row[1:] for row in of.current.rows}


def test_best_is_what_the_search_finds(made):
    found = sizing.plan(
        MODEL, {"h100-sxm": 16, "a100-sxm-80gb": 16}, TOKENS, deadline_days=10, budget=3000,
        counts=counts(16), keep=1,
    ).best  # fmt: skip
    assert made.current.value == pytest.approx(found.cost.dollars)
    assert f"best: {found.gpus} x {found.gpu}: " in made.current.headline
    assert f"${found.cost.dollars:,.0f}" in made.current.headline
    assert made.current.limit.used == sizing.memory(found.run).total
    assert found.layout in made.current.notes[0]
    quick = made.set(rank="time").current
    assert "best: 16 x h100-sxm" in quick.headline


def test_tokens_and_limits_only_price(made):
    """What is searched for one token holds for all: time and memory of a step do not change."""
    for tokens in (1e9, 3e12):
        for one in candidates(MODEL, ["h100-sxm"], counts(16), 2**22, tokens, 1e9, 1e12):
            direct = sizing.cost(one.run, one.device, tokens)
            assert (one.cost.days, one.cost.dollars) == (direct.days, direct.dollars)
            assert one.feasible and one.memory == sizing.memory(one.run).total


def test_limits_say_what_is_missing(made):
    made.set(deadline=1e-1)
    assert made.current.headline.startswith("beyond the limits: ")
    assert "days over the deadline of 0.1" in " ".join(made.current.notes)
    assert "0 of 10 plans keep the limits." in made.current.notes
    made.set(deadline=1000.0, budget=10)
    assert "dollars over the budget of 10" in " ".join(made.current.notes)
    made.set(budget=10**9)
    assert "10 of 10 plans keep the limits." in made.current.notes


def test_the_plan_looked_at(made):
    made.set(look=4, other="", deadline=1000.0, budget=10**6)
    (four,) = (c for c in made.current.data[0] if c.gpus == 4)
    assert made.current.headline.startswith("4 x h100-sxm: ")
    assert plans(made)["4 x h100-sxm"][1] == f"{four.cost.dollars:,.0f}"
    made.set(look=64)
    assert made.error == "look: 64 given; allowed: 0 (the best) to 16, the GPUs there are"
    made.set(look=12, gpus=24)  # no power of two, and not all that there are
    assert made.error == "" and made.current.data[2].gpus == 12 in counts(24, 12)
    large = PlanDashboard(model="llama-3.1-70b", gpus=64, other="", look=8)
    assert large.current.headline == "8 x h100-sxm does not fit"
    assert "such GPUs" in large.current.formula and large.current.listing.startswith("nothing to")
    assert large.current.value == 0 and list(large._ring.get_xdata()) == []


def test_marks_lie_where_the_table_says(made):
    found = made.current.data[0]
    shown = sum(len(line.get_xdata()) for line in (*made._in, *made._out))
    assert shown == len([c for c in found if c.cost]) == 10
    kept = [c for c in found if c.feasible]
    assert sum(len(line.get_xdata()) for line in made._in) == len(kept) > 0
    assert len(made._line.get_xdata()) == len(frontier(kept))
    assert made._late.get_x() + made._late.get_width() == pytest.approx(1)
    # a mark is left of the deadline's ground and below the budget's just where it keeps both
    for line, inside in (*((a, True) for a in made._in), *((a, False) for a in made._out)):
        for x, y in zip(line.get_xdata(), line.get_ydata(), strict=True):
            assert (x <= made._late.get_x() and y <= made._dear.get_y()) == inside
    held, step = made.current.data[5:]
    widths = [[bars[0].get_width() for bars in made._held.values()]]
    assert sum(widths[0]) == pytest.approx(
        sum(held.phases["forward"].values()) / made.current.data[2].capacity
    )
    assert [bar.get_width() for bar in made._times] == pytest.approx(
        [seconds / step.total for seconds in step.parts.values()]
    )


@pytest.mark.parametrize("values", [[1.0], [0.013, 900.0], [8.6, 1600], [99.9], [1e-4, 1e5], []])
def test_ticks_hold_all_values(values):
    ticks = round_ends(values)
    assert ticks == sorted(ticks) and len(ticks) >= 2 and len(thinned(ticks)) <= 7
    assert all(ticks[0] < v < ticks[-1] for v in values)


@pytest.mark.parametrize("tool", EXPORTS)
def test_export_is_that_of_launch(made, tool, tmp_path):
    made.set(export=tool, look=16)
    run, text = made.current.data[2].run, made.current.listing
    assert text in made._repr_mimebundle_()["text/html"].replace("&quot;", '"').replace(
        "&lt;", "<"
    ).replace("&gt;", ">").replace("&#x27;", "'").replace("&amp;", "&")
    if tool == "sbatch script":
        script = tmp_path / "train.sh"
        script.write_text(text)
        assert subprocess.run(["bash", "-n", script], capture_output=True).returncode == 0
        assert "--nodes=2" in text
    elif tool == "DeepSpeed":
        assert json.loads(text) == sizing.launch.deepspeed_config(run)
    elif tool == "torchrun":
        assert "--nnodes=2 --nproc-per-node=8" in text
    elif f"{tool} cannot start this run. zero: 1 given" not in text:
        assert str(run.gpus) in text or str(run.data) in text


def test_what_a_tool_cannot_is_said():
    made = PlanDashboard(model="llama-3.1-70b", gpus=128, other="", look=128, export="DeepSpeed")
    run = made.current.data[2].run
    if run.tensor * run.pipeline * run.context > 1:
        assert "DeepSpeed cannot start this run. tensor:" in made.current.listing
    else:
        assert json.loads(made.current.listing)["zero_optimization"]["stage"] == run.zero


def test_a_slider_searches_nothing(made):
    """Under 100 ms from slider to picture: the median over sliders, once a model is searched."""
    moves = [{"deadline": d} for d in (1.0, 2.0, 5.0)] + [{"budget": b} for b in (100, 1000)]
    moves += [{"gpus": n} for n in (256, 4096)] + [{"tokens": t} for t in (1e10, 1e13)]
    taken = []
    for move in moves:
        begin = time.process_time()
        made.set(**move)
        taken.append(time.process_time() - begin)
    assert sorted(taken)[len(taken) // 2] < 0.1


def test_more_gpus_than_the_batch_can_feed():
    made = PlanDashboard(
        model="pythia-14m", tokens=1e9, batch=2**17, gpus=4096, other="", look=4096
    )
    assert made.error == "" and made.current.headline == "4,096 x h100-sxm does not fit"
    assert "no degrees of 4,096 GPUs make a batch near the one asked for" in made.current.formula
    assert made.set(look=0).current.value > 0


def test_text_form(made):
    bundle = made._repr_mimebundle_()
    assert "deadline: 10 days; budget: $3,000" in bundle["text/plain"]
    assert bundle["text/html"].count("<tr>") == 11
    assert "(looked at)" in bundle["text/html"] and "besiroglu-2024" in bundle["text/html"]
    made.set(deadline=20.0)
    assert "deadline 10 days → 20 days" in made._changed.value


def test_cents_are_no_zero_dollars():
    """6 M tokens on 32 cards cost cents; found by the fuzz."""
    wanted = {"model": "gemma-3n-e2b", "tokens": 6.25e6, "gpu": "gb200", "gpus": 4096}
    made = PlanDashboard(**wanted, batch=2**19, rank="time", look=32)
    said = made._headline.value + made._changed.value + made._details.value
    assert made.error == "" and 0 < made.current.data[2].cost.dollars < 0.5
    assert "$0." in said and not re.search(r"\$0(?![\d.,])", said)
