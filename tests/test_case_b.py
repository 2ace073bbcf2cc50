"""Case lab B: frozen weights in real processes, and the lab's figures from independent sources."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import sizing
from sizing import experiments, saved_tensors
from sizing.course import bridge
from sizing.experiments import frozen_weights
from sizing.measuring import training


@pytest.fixture(scope="module")
def measured():
    """The experiment at its smallest, in real processes."""
    chosen = experiments.experiment("frozen-weights")
    device = chosen.find()
    return [
        point | row
        for point in chosen.points(device, sequence=16)
        for row in chosen.measure(point, device)
    ]


@pytest.fixture(params=[pytest.param("measured", marks=pytest.mark.slow), "recorded"])
def rows(request):
    """Rows by (engine, weights), one list a setting with a row for each rank."""
    if request.param == "recorded":
        found = experiments.load("frozen-weights", experiments.REFERENCE).ok
    else:
        found = request.getfixturevalue("measured")
    settings = [
        (engine, "trained" if all_ else "frozen") for engine, all_ in frozen_weights.SETTINGS
    ]
    return {
        setting: [row for row in found if (row["engine"], row["weights"]) == setting]
        for setting in settings
    }


def test_one_row_a_rank(rows):
    assert {setting: [row["rank"] for row in ranks] for setting, ranks in rows.items()} == {
        ("single", "trained"): [0],
        ("single", "frozen"): [0],
        ("ddp", "frozen"): [0, 1],
        ("fsdp2", "frozen"): [0, 1],
    }


def test_every_engine_trains_the_same(rows):
    (alone,) = rows["single", "frozen"]
    for engine in ("ddp", "fsdp2"):
        for row in rows[engine, "frozen"]:
            assert row["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert rows["single", "trained"][0]["loss"] < alone["loss"]


def test_what_a_rank_holds(rows):
    (alone,), (everything,) = rows["single", "frozen"], rows["single", "trained"]
    frozen, trained = alone["parameters"], alone["trained_parameters"]
    assert everything["trained_parameters"] == frozen + trained
    held = 4 * frozen + 12 * trained  # fp32: weights, and two moments of what is trained
    assert alone["resident_bytes"] == pytest.approx(held, rel=1e-3)
    assert everything["resident_bytes"] == pytest.approx(12 * (frozen + trained), rel=1e-3)
    for row in rows["ddp", "frozen"]:  # and its bucket of gradients
        assert row["resident_bytes"] == pytest.approx(held + 4 * trained, rel=1e-3)
    for row in rows["fsdp2", "frozen"]:
        assert row["resident_bytes"] == pytest.approx(held / 2, rel=1e-3)
        assert row["peak_bytes"] > rows["ddp", "frozen"][0]["peak_bytes"] / 2


def test_what_a_rank_sends(rows):
    (alone,) = rows["single", "frozen"]
    frozen, trained = 4 * alone["parameters"], 4 * alone["trained_parameters"]
    assert alone["sent_bytes"] == 0
    for row in rows["ddp", "frozen"]:  # an all-reduce of gradients: 2 (n - 1) / n; two buffers
        assert row["sent_bytes"] == pytest.approx(trained, rel=1e-3)
    for row in rows["fsdp2", "frozen"]:  # all weights gathered twice, gradients scattered: halves
        assert row["sent_bytes"] == pytest.approx(frozen + trained + trained / 2, rel=1e-3)


def test_what_freezing_spares_is_what_the_lab_says(rows):
    (alone,), (everything,) = rows["single", "frozen"], rows["single", "trained"]
    shape = training.as_run(alone)
    run = replace(shape, sequence=alone["sequence"] + alone["latents"])
    layers = run.model.layers
    spared = sum(t.bytes * layers for t in saved_tensors(run) if not bridge.stays(t))
    outside = 2 * run.tokens * run.model.hidden * 4  # the last norm's scale, and the head
    positions = shape.tokens * 8  # the embedding's gradient needs the tokens' numbers
    found = everything["activation_bytes"] - alone["activation_bytes"]
    assert found == spared + outside + positions


def test_a_frozen_backward_pass_costs_what_the_forward_pass_does():
    model = training.BYTES_MODEL
    run = sizing.Run(model, sequence=64, precision="fp32", attention="eager")
    joined = frozen_weights.Joined(run, frozen=True)
    tokens = torch.zeros(1, 64, dtype=torch.long)
    with FlopCounterMode(display=False) as forward:
        loss = joined(torch.randn(1, frozen_weights.FEATURES), tokens)
    with FlopCounterMode(display=False) as backward:
        loss.backward()
    # Attention's products and the adapter have two gradients; all else has one.
    length = 64 + frozen_weights.LATENTS
    attention = 4 * length**2 * model.hidden * model.layers
    adapter = 2 * frozen_weights.LATENTS * frozen_weights.WIDTH * model.hidden
    more = backward.get_total_flops() - forward.get_total_flops()
    assert more == attention + adapter


def test_a_tied_model_is_refused():
    chosen = experiments.experiment("frozen-weights")
    with pytest.raises(ValueError, match="model: 'gpt2' given; allowed: one with a head of its"):
        chosen.points(chosen.find(), model="gpt2")


# The lab's figures


def linear(into, out):
    return sum(p.numel() for p in nn.Linear(into, out).parameters())


def test_trained_parts():
    modules = (
        linear(768, 256)
        + linear(256, 4096)
        + linear(256, 3584)
        + nn.Embedding(32, 256)(torch.arange(32)).numel()
    )
    assert bridge.listed() == (3584, modules, pytest.approx(8 * modules / 1e6))


def test_what_both_models_keep():
    """Activations and logits at batch 4 of 160 tokens, which the lab rounds to 7 GB."""
    tokens = 4 * 160
    logits = 12 * tokens * bridge.QWEN.vocab + 4 * tokens * bridge.LLAMA.vocab
    assert 1e9 * bridge.spared()[1] + logits == pytest.approx(bridge.UNDIVIDED, rel=0.05)
    both = (bridge.LLAMA, bridge.QWEN)
    outside = sum(model.vocab * model.hidden * 2 for model in both)
    layer = max((m.parameters.total - 2 * m.vocab * m.hidden) / m.layers for m in both)
    assert 2 * (outside + 2 * layer) == pytest.approx(bridge.GATHERED, rel=0.01)


def test_the_case_s_verdicts():
    assert bridge.weights() == pytest.approx((16.06, 15.23), abs=0.005)
    hours = [round(bridge.gpu_hours(count), 1) for count in (1, 2, 4)]
    assert hours == [5.6, 6.3, 7.4]
    assert [bridge.efficiency(count) for count in (1, 2, 4)] == [1, 0.875, 0.75]
    assert bridge.break_even(1, 4) == pytest.approx(0.5)
    assert bridge.break_even(1, 2) == pytest.approx(1 / 3)
    assert bridge.break_even(2, 4) == pytest.approx(0.8)
    fixed, each, rate = bridge.batch()
    assert fixed + 4 * each == pytest.approx(2.0)
    assert 8 / (fixed + 8 * each) == pytest.approx(2.6)
    assert 2.6 < rate < 3.5
    assert [bridge.doubled(count) > 12 for count in (1, 2, 4)] == [True, True, False]
