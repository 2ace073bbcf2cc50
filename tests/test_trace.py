"""The trace against independent accounts: torch's MemTracker, a real step's allocator events."""

import csv
from functools import partial
from itertools import pairwise

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.profiler import ProfilerActivity, profile
from transformers import masking_utils

import sizing
from sizing import trace
from sizing.evidence import traces as table
from sizing.trace import optimizers
from sizing.trace.step import Step

traced = partial(trace.memory, device="cpu")  # as the steps that it is held against
LLAMA = {
    "model_type": "llama",
    "vocab_size": 8000,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
}
GPT2 = {"model_type": "gpt2", "vocab_size": 8000, "n_embd": 192, "n_head": 6, "n_layer": 2}


def run(config, **settings):
    return sizing.Run(config, **{"sequence": 256, "micro_batch": 2, **settings})


def allocator_peak(training_run) -> int:
    """Peak bytes of a real steady step on this CPU: what is held, plus the allocator's events."""
    step = Step(training_run)
    step()
    held = [*step.model.parameters(), *step.model.buffers(), *step.buffers, step.batch]
    held += trace._tensors(step.optimizer.state)
    before = sum(tensor.untyped_storage().nbytes() for tensor in held)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    events = profiled.profiler.kineto_results.events()
    changes = sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return before + peak


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        (LLAMA, {"optimizer": "sgd"}),
        (LLAMA, {"optimizer": "sgd", "recompute": "full", "attention": "eager"}),
        (LLAMA, {"precision": "bf16-master", "gradients": "fp32", "accumulation": 2}),
        (GPT2, {"precision": "fp32", "optimizer": "muon", "sequence": 64}),
        (GPT2, {"precision": "bf16", "optimizer": "adamw-8bit", "attention": "eager"}),
        (GPT2, {"optimizer": "lion", "attention": "eager", "recompute": "selective"}),
    ],
)
def test_trace_is_what_a_real_step_allocates(config, settings):
    training_run = run(config, **settings)
    # 0.1 %: a checkpoint keeps 5 kB of random state, the 8-bit kernel works in small chunks
    tolerance = 0.03 if settings.get("optimizer") == "adamw-8bit" else 0.001
    assert traced(training_run).total == pytest.approx(allocator_peak(training_run), rel=tolerance)


def test_trace_is_what_torchs_own_tracker_says(monkeypatch):
    monkeypatch.setattr(masking_utils, "find_packed_sequence_indices", lambda *a, **k: None)
    training_run = run(LLAMA)
    with FakeTensorMode(), torch.device("cpu"):
        step = Step(training_run)
        tracker = MemTracker()
        tracker.track_external(step.model, step.optimizer, step.batch)
        with tracker as mt:
            step()
            mt.reset_mod_stats()
            mt._peak_mem, mt._peak_mem_snap = {}, {}
            step()
        (peak,) = mt.get_tracker_snapshot("peak").values()
    assert traced(training_run).total == pytest.approx(peak["Total"], rel=1e-4)


@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
@pytest.mark.parametrize("config", [LLAMA, {**GPT2, "resid_pdrop": 0.0}])
def test_flops_are_those_of_the_formula(config, recompute):
    training_run = run(config, recompute=recompute, attention="eager", accumulation=3, data=2)
    assert trace.flops(training_run) == sizing.flops(training_run)


def test_the_loss_holds_twelve_bytes_per_token_and_entry():
    for precision in ("fp32", "bf16-mixed", "bf16"):
        logits = traced(run(LLAMA, precision=precision)).phases["loss"]["logits"]
        assert logits == 12 * 2 * 256 * 8000


def test_a_large_model_needs_no_memory():
    result = traced(sizing.Run("llama-3.1-8b", sequence=4096, precision="bf16"))
    assert result.total > 60e9
    assert result.phases["optimizer"]["parameters"] == pytest.approx(2 * 8_030_261_248, rel=1e-6)


def test_parts_and_timeline_agree_with_the_total():
    result = traced(run(LLAMA))
    assert max(size for _, size in result.timeline) == result.total
    assert sum(result.parts.values()) == result.total
    phases = [phase for phase, _ in result.timeline]
    entered = [a for a, b in pairwise([None, *phases]) if a != b]
    assert list(dict.fromkeys(phases)) == list(trace.PHASES) and len(entered) == len(trace.PHASES)


def test_state_is_full_precision_copies():
    elements = sizing.Model(LLAMA).parameters.total
    for precision, optimizer, width in (
        ("fp32", "adamw", 8),
        ("bf16-mixed", "momentum", 4),
        ("bf16", "adamw", 4),
        ("bf16-master", "adamw", 12),
        ("bf16-master", "sgd", 4),
    ):
        state = traced(run(LLAMA, precision=precision, optimizer=optimizer))
        counters = 4 * len(list(sizing.Model(LLAMA).weights)) * 2
        assert state.parts["optimizer"] == pytest.approx(width * elements, abs=counters * 4)


def test_adapters_train_alone():
    full, adapted = (
        traced(run(LLAMA)),
        traced(run(LLAMA, lora=4)),
    )
    assert adapted.phases["optimizer"]["gradients"] < full.phases["optimizer"]["gradients"] / 20
    kept = adapted.phases["loss"]["activations"] / full.phases["loss"]["activations"]
    assert 0.7 < kept < 1.3, "frozen weights still cost activations"


@pytest.mark.parametrize("make", [optimizers.AdamW8bit, optimizers.Lion])
def test_own_optimizers_learn(make):
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(80, 80), torch.randn(256, 80)
    y = x @ torch.randn(80, 80) / 10
    optimizer = make(layer.parameters(), lr=3e-3)
    losses = []
    for _ in range(200):
        loss = ((layer(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 100


def test_eight_bit_moments_follow_adamw():
    torch.manual_seed(0)
    weight = torch.randn(100, 100)
    ours, theirs = (torch.nn.Parameter(weight.clone()) for _ in range(2))
    first = optimizers.AdamW8bit([ours], lr=1e-2)
    second = torch.optim.AdamW([theirs], lr=1e-2, weight_decay=0.0)
    for _ in range(20):
        gradient = torch.randn(100, 100)
        ours.grad, theirs.grad = gradient.clone(), gradient.clone()
        first.step()
        second.step()
    moved = (theirs - weight).abs().mean()
    assert (ours - theirs).abs().mean() < 0.1 * moved
    assert first.state[ours]["moments"][0].dtype == torch.int8


def test_master_weights_move_what_bf16_cannot():
    weight = torch.nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    master = optimizers.MasterWeights(
        [("w", weight)], lambda named: torch.optim.SGD([p for _, p in named], lr=1e-4)
    )
    for _ in range(100):
        weight.grad = torch.ones_like(weight)
        master.step()
    assert master.masters[0][0].item() == pytest.approx(0.99, rel=1e-3)
    assert weight[0].item() == pytest.approx(0.99, abs=0.005)
    assert weight.grad is None


@pytest.mark.parametrize("field", ["tensor", "pipeline", "context", "data"])
def test_one_rank_only(field):
    with pytest.raises(ValueError, match=f"{field}: 2 given; allowed: 1"):
        traced(run(LLAMA, **{field: 2}))


def test_unknown_device():
    with pytest.raises(ValueError, match="device: 'tpu' given; allowed: cpu, cuda"):
        traced(run(LLAMA), device="tpu")


def test_error_table_command(capsys):
    from sizing.evidence.__main__ import main

    assert main([]) == 0
    printed = capsys.readouterr().out
    with open(table.PATH, encoding="utf-8") as file:
        assert f"{len(list(csv.DictReader(file)))} runs" in printed
    assert "held-out" in printed and "gemma3_text" in printed
    with pytest.raises(SystemExit):
        main(["record", "nonsense"])
    assert "traces" in capsys.readouterr().err
