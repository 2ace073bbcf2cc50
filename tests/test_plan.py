"""The search: what it finds, what it says, and that nothing better was missed."""

import math
import os
import shlex
import subprocess
import sys
import time
import warnings
from dataclasses import fields, replace
from itertools import product

import pytest

import sizing
from sizing import Model, Run, memory, step_time
from sizing.architecture.model import presets
from sizing.hardware import measured_gpu
from sizing.planning import axes, search
from sizing.run import CHOICES

CARDS = {"h100-sxm": 64}


@pytest.fixture(scope="module")
def found():
    return sizing.plan("llama-3-8b", CARDS, tokens=1e12, sequence=8192)


def test_every_run_can_be_run(found):
    assert found.runs
    for candidate in found.runs:
        run, device = candidate.run, sizing.gpu(candidate.gpu)
        assert run.gpus <= 64
        assert abs(run.tokens / 2**22 - 1) <= search.OFF_BATCH
        held = memory(run)
        assert candidate.memory == pytest.approx(held.total, rel=1e-9)
        assert candidate.fits == held.on(device).verdict != "does not fit"
        assert candidate.cost.step == pytest.approx(step_time(run, device).total)
        assert candidate.feasible and candidate.reason
    dollars = [candidate.cost.dollars for candidate in found.runs]
    assert dollars == sorted(dollars)


def test_nothing_better_was_missed():
    """Every layout of a small search, one after the other."""
    best = sizing.plan(
        "llama-3.2-1b", {"a100-sxm-40gb": 8}, 1e10, batch=2**19, rank="time", sequence=2048,
        counts=(8,), keep=1,
    ).best  # fmt: skip
    device, quickest = sizing.gpu("a100-sxm-40gb"), float("inf")
    template = Run(
        "llama-3.2-1b", precision="bf16-master", gradients="fp32", optimizer="adamw-fused"
    )
    for tensor, pipeline, zero, recompute, micro in product(
        (1, 2, 4, 8), (1, 2, 4, 8), CHOICES["zero"], ("none", "full"), axes.MICRO_BATCHES
    ):
        if 8 % (tensor * pipeline):
            continue
        data = 8 // (tensor * pipeline)
        accumulation, rest = divmod(2**19, 2048 * data * micro)
        if rest or not accumulation or (zero and data == 1) or (zero > 1 and pipeline > 1):
            continue
        run = replace(
            template, micro_batch=micro, accumulation=accumulation, data=data, zero=zero,
            tensor=tensor, pipeline=pipeline, recompute=recompute,
        )  # fmt: skip
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if memory(run).on(device).verdict != "does not fit":
                quickest = min(quickest, step_time(run, device).total)
    assert best.cost.step == pytest.approx(quickest)


def test_ranked_by_time_more_gpus_come_first(found):
    quick = sizing.plan("llama-3-8b", CARDS, tokens=1e12, sequence=8192, rank="time")
    days = [candidate.cost.days for candidate in quick.runs]
    assert days == sorted(days)
    assert quick.best.gpus == 64
    assert {c.run for c in quick.runs} == {c.run for c in found.runs}


def test_frontier_is_what_nothing_beats():
    both = sizing.plan(
        "llama-3-8b", {"h100-sxm": 64, "a100-sxm-80gb": 64}, tokens=1e12,
        prices={"h100-sxm": 4.0, "a100-sxm-80gb": 0.8},
    )  # fmt: skip
    assert len(both.frontier) >= 2
    for one in both.frontier:
        assert not any(
            other.cost.days < one.cost.days and other.cost.dollars < one.cost.dollars
            for other in both.runs
        )


def test_limits_say_what_is_missing():
    tight = sizing.plan("llama-3-8b", CARDS, tokens=1e12, deadline_days=30, budget=100_000)
    assert not tight.runs and tight.best is None
    text = " ".join(candidate.missing for candidate in tight.rejected)
    assert "days over the deadline of 30" in text
    assert "dollars over the budget of 100,000" in text
    for candidate in tight.rejected:
        assert not candidate.feasible
        if candidate.cost:
            late = candidate.cost.days > 30
            assert ("deadline" in candidate.missing) == late
            assert ("budget" in candidate.missing) == (candidate.cost.dollars > 100_000)
    half = tight.rejected[0]
    share = 100_000 / half.cost.dollars
    cheaper = sizing.plan("llama-3-8b", CARDS, tokens=1e12 * share * 0.99, budget=100_000)
    assert cheaper.runs


def test_a_model_that_fits_nowhere_says_how_many_gpus_it_takes():
    small = sizing.plan("llama-3-70b", {"a100-sxm-40gb": 8}, tokens=1e11)
    assert not small.runs
    for candidate in small.rejected:
        assert candidate.fits == "does not fit"
        assert "does not fit" in candidate.missing and "such GPUs" in candidate.missing
        assert candidate.memory > 0.95 * candidate.capacity


def test_reason_names_what_would_be_quicker(found):
    large = sizing.plan("llama-3-70b", {"h100-sxm": 128}, tokens=1e11, rank="time", keep=1).best
    assert "matrix products" in large.reason
    assert "quicker would be" in large.reason and "which needs" in large.reason


def test_compute_chooses_model_and_tokens():
    by_compute = sizing.plan(1e21, {"h100-sxm": 8}, keep=1)
    size = by_compute.best.run.model.parameters.total
    assert 6 * size * by_compute.tokens == pytest.approx(1e21)
    wanted = sizing.optimal(1e21).parameters
    dense = [Model(name).parameters for name in presets()]
    off = [abs(math.log(p.total / wanted)) for p in dense if p.active == p.total]
    assert abs(math.log(size / wanted)) == min(off)


def test_fields_that_are_added_to_run_are_searched(monkeypatch):
    """Every field of Run is kept, counted or in CHOICES; a new value of a choice is tried."""
    found = axes.axes_of(Run("pythia-14m"), {}, {})
    assert set(found) - {"fixed"} | set(axes.COUNTED) >= {field.name for field in fields(Run)}
    assert found["zero"] == CHOICES["zero"]
    monkeypatch.setitem(axes.CHOICES, "zero", (0, 1))
    assert axes.axes_of(Run("pythia-14m"), {}, {})["zero"] == (0, 1)
    varied = sizing.plan(
        "gpt2", {"h100-sxm": 8}, 1e10, batch=2**19, sequence=1024, keep=4, rank="time",
        vary={"precision": ("fp32", "bf16-master"), "gradients": ("same",)},
    )  # fmt: skip
    assert varied.best.run.precision == "bf16-master"
    assert varied.considered > 100


def test_fixed_fields_stay():
    fixed = sizing.plan("llama-3-8b", CARDS, 1e11, recompute="full", tensor=4, sequence=4096)
    assert {(c.run.recompute, c.run.tensor, c.run.sequence) for c in fixed.runs} == {
        ("full", 4, 4096)
    }
    kept = Run("llama-3-8b", sequence=4096, precision="bf16-mixed", optimizer="adamw-8bit")
    of_run = sizing.plan(kept, CARDS, 1e11)
    assert {(c.run.precision, c.run.optimizer) for c in of_run.runs} == {
        ("bf16-mixed", "adamw-8bit")
    }


FIELDS = {
    "adapters": {"lora": 16, "precision": "bf16-mixed"},
    "quantised": {"lora": 16, "quantization": "nf4-double", "precision": "bf16-mixed"},
    "copies": {"replicate": 2},
    "documents": {"document": 512},
    "fp8": {"precision": "fp8", "scaling": "rowwise"},
    "optimizer on the host": {"offload": ("optimizer",)},
    "all on the host": {"offload": ("optimizer", "parameters"), "zero": 3},
    "engine": {"engine": "torchtitan"},
    "4 bits": {"optimizer": "adamw-4bit"},
    "Adam-mini": {"optimizer": "adam-mini"},
    "preferences": {"objective": "dpo"},
    "interleaved": {"interleave": 2, "pipeline": 2},
}


@pytest.mark.parametrize("name", FIELDS)
def test_every_field_of_a_run_reaches_the_plan(name):
    """Candidates that no engine runs are left out, and the others keep the field."""
    template = Run("llama-3.2-1b", **FIELDS[name])
    found = sizing.plan(template, {"h100-sxm": 8}, 1e9, batch=2**17, counts=(8,), keep=1)
    kept = {field: getattr(template, field) for field in FIELDS[name] if field in axes.KEPT}
    assert found.runs
    for candidate in found.runs:
        assert {field: getattr(candidate.run, field) for field in kept} == kept
        assert candidate.cost.dollars > 0
        assert memory(candidate.run).on(candidate.device).verdict != "does not fit"
    page = sizing.report(found)
    assert "<svg" in page.html() and page.pdf().startswith(b"%PDF")


def test_experts_are_dealt_out():
    """Two thirds of Mixtral's state are experts: without a degree of theirs it is slower."""
    arguments = {"gpus": {"h100-sxm": 64}, "tokens": 1e11, "counts": (64,), "rank": "time"}
    found = sizing.plan("mixtral-8x7b", **arguments, keep=1).best
    whole = sizing.plan("mixtral-8x7b", **arguments, keep=1, expert=1).best
    assert found.run.expert > 1 and "expert" in found.layout
    assert found.cost.days < whole.cost.days
    assert axes.expert_degrees(Model("mixtral-8x7b")) == (1, 2, 4, 8)
    assert axes.expert_degrees(Model("llama-3-8b")) == (1,)


def test_least_state_is_what_a_gpu_really_holds():
    """The bound that drops candidates early is no more than memory says, experts and host too."""
    for run in (
        Run("mixtral-8x7b", data=8, expert=8, zero=1, precision="bf16-master"),
        Run("mixtral-8x7b", data=8, tensor=2, expert=4, zero=3, precision="bf16-master"),
        Run("llama-3-8b", data=8, zero=3, precision="bf16", offload=("optimizer", "parameters")),
        Run("llama-3-8b", data=4, tensor=2, zero=2, precision="bf16-master"),
    ):
        held = memory(run)
        least = search._state_share(run)(run)
        assert 0 <= least <= 1.001 * (held.parameters + held.gradients + held.optimizer)


def test_a_run_whose_time_nobody_knows_says_so():
    run = Run("llama-3.2-1b", precision="bf16", offload=("activations",))
    found = sizing.plan(run, {"h100-sxm": 2}, 1e9, batch=2**17, recompute="none")
    assert not found.runs
    assert all("is known to sizing.memory alone" in c.missing for c in found.rejected)


def test_progress_wraps_the_groups():
    walked = []

    def bar(groups):
        for group in groups:
            walked.append(group)
            yield group

    sizing.plan("gpt2", {"h100-sxm": 4}, 1e9, sequence=1024, batch=2**19, progress=bar)
    assert [(card.name, number) for card, number in walked] == [
        ("h100-sxm", 4), ("h100-sxm", 2), ("h100-sxm", 1),
    ]  # fmt: skip


WORKER = """
import os
import sys
from datetime import timedelta

import torch
import torch.distributed as dist

from sizing import Run
from sizing.trace import build

os.environ["GLOO_SOCKET_IFNAME"] = "lo"
dist.init_process_group("gloo", timeout=timedelta(seconds=60))
run = Run("pythia-14m", sequence=128, precision="fp32", data=dist.get_world_size(),
          micro_batch=int(sys.argv[1]), accumulation=int(sys.argv[2]))
torch.manual_seed(0)
network = torch.nn.parallel.DistributedDataParallel(build.model(run))
optimizer = torch.optim.AdamW(network.parameters())
seen = torch.zeros(1)
for _ in range(run.accumulation):
    batch = torch.randint(run.model.vocab, (run.micro_batch, run.sequence))
    (network(input_ids=batch, labels=batch).loss / run.accumulation).backward()
    seen += batch.numel()
optimizer.step()
dist.all_reduce(seen)
if dist.get_rank() == 0:
    print("tokens", int(seen), "of", run.tokens)
del network, optimizer  # DDP holds the group: left before it, a process could abort at its exit
dist.barrier()
dist.destroy_process_group()
"""


@pytest.mark.slow
@pytest.mark.slow
def test_a_plan_for_this_machine_is_exported_and_started(tmp_path):
    """Two processes of a CPU, planned, written as a torchrun line, and really run for a step."""
    here = measured_gpu("this CPU", {"fp32": 1e11}, 2e10, 16 * 10**9, link=1e9, power=100)
    found = sizing.plan(
        "pythia-14m", {here: 2}, 1e7, batch=2048, counts=(2,), prices={"measured": 0.1},
        sequence=128, precision="fp32", gradients="same", optimizer="adamw", zero=0, tensor=1,
        pipeline=1, micro_batch=2,
    )  # fmt: skip
    run = found.best.run
    assert (run.data, run.gpus, run.tokens) == (2, 2, 2048)
    script = tmp_path / "train.py"
    script.write_text(WORKER)
    line = sizing.launch.torchrun(run, f"{script} {run.micro_batch} {run.accumulation}")
    words = [sys.executable, "-m", "torch.distributed.run", *shlex.split(line)[1:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "tokens 2048 of 2048" in done.stdout
    assert sizing.report(found).title.endswith("this CPU")


@pytest.mark.slow
def test_a_hundred_thousand_candidates():
    """In `make test` the counts are further apart, and candidates a quarter as many."""
    apart = 32 if os.environ.get("SIZING_ALL") else 128
    cards = {
        name: 1024
        for name in ("h100-sxm", "h200-sxm", "a100-sxm-80gb", "a100-sxm-40gb", "b200-sxm")
        if name in sizing.gpus()
    }
    begin = time.process_time()
    wide = sizing.plan(
        "llama-3-70b", cards, tokens=1e12, sequence=8192, counts=range(apart, 1025, apart),
        prices=dict.fromkeys(cards, 2.0), keep=1,
        vary={"recompute": ("none", "full"), "zero": (0, 1, 2, 3)},
    )  # fmt: skip
    assert wide.considered > 100_000 * 32 / apart
    assert time.process_time() - begin < 120  # a hang, not a slow machine
    assert wide.runs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": "speed"}, "rank: 'speed' given; allowed: 'money', 'time'"),
        ({"gpus": {}}, "gpus: {} given"),
        ({"gpus": {"h100-sxm": 0}}, r"gpus\['h100-sxm'\]: 0 given"),
        ({"gpus": {"h100": 8}}, "gpu: 'h100' given"),
        ({"tokens": 0}, "tokens: 0 given"),
        ({"batch": -1}, "batch: -1 given"),
        ({"layers": 3}, "layers: not a field of Run"),
        ({"tokens": "1e9"}, "tokens: '1e9' given; allowed: a finite number above 0"),
        ({"batch": "4M"}, "batch: '4M' given; allowed: a finite number above 0"),
        ({"deadline_days": 0}, "deadline_days: 0 given; allowed: a finite number above 0"),
        ({"deadline_days": -1}, "deadline_days: -1 given"),
        ({"budget": math.nan}, "budget: nan given"),
        ({"budget": "100"}, "budget: '100' given"),
        ({"prices": {"a100": 3}}, "prices: 'a100' given; allowed: 'h100-sxm'"),
        ({"prices": {"h100-sxm": 0}}, r"prices\['h100-sxm'\]: 0 given; allowed: a finite"),
        ({"counts": 8}, r"counts: 8 given; allowed: whole numbers from 1 to 64, as \(64,\)"),
        ({"counts": (0,)}, r"counts: \(0,\) given"),
        ({"counts": (128,)}, r"counts: \(128,\) given; allowed: whole numbers from 1 to 64"),
        ({"keep": 0}, "keep: 0 given; allowed: a whole number >= 1"),
        ({"vary": {"foo": (1,)}}, "vary: 'foo' given; allowed: model, sequence"),
        ({"vary": {"recompute": "none"}}, r"vary\['recompute'\]: 'none' given; allowed: several"),
        ({"gpus": {"rtx-4070-laptop": 1}}, "prices: none given for 'rtx-4070-laptop'"),
    ],
)
def test_bad_arguments(arguments, message):
    given = {"gpus": CARDS, "tokens": 1e9, **arguments}
    with pytest.raises(ValueError, match=message):
        sizing.plan("gpt2", **given)


def test_a_report_of_nothing_says_what_is_missing():
    nothing = sizing.plan("llama-3-70b", {"h100-sxm": 1}, tokens=1e9)
    with pytest.raises(ValueError, match=r"plan: one without a feasible run given \(does not fit"):
        sizing.report(nothing)


def test_a_batch_below_a_sequence_is_named():
    small = sizing.plan("gpt2", {"h100-sxm": 1}, tokens=1e9, batch=256, sequence=1024)
    assert "multiple of the sequence of 1,024 tokens" in small.rejected[0].missing


def test_what_a_late_plan_would_need_is_never_too_little():
    """Rounded up, or down, so that who follows the words is in time."""
    late = sizing.plan("gpt2", {"h100-sxm": 2}, 1e11, deadline_days=1, sequence=1024, keep=1)
    for candidate in late.rejected:
        times = float(candidate.missing.split("it would take ")[1].split(" times")[0])
        share = float(candidate.missing.split(", or ")[1].split("%")[0]) / 100
        days = candidate.cost.days
        assert days / times <= 1 and days * share <= 1
        assert times == pytest.approx(days, abs=0.011)


def test_zero_on_one_gpu_is_named():
    alone = sizing.plan("gpt2", {"h100-sxm": 1}, 1e9, sequence=1024, zero=3)
    assert (
        alone.rejected[0].missing == "zero: its stage has no ranks to divide by on 1 of these GPUs"
    )
