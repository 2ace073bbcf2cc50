"""The sequence calculator against arithmetic on paper, a count, and a real layer's tensors."""

import csv

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import sizing
from sizing.calculators import SequenceCalculator
from sizing.calculators.sequence import LENGTHS, crossover, layer_bytes, token_flops
from sizing.units import DATA

LLAMA = sizing.Model(
    {
        "model_type": "llama",
        "vocab_size": 97,
        "hidden_size": 128,
        "intermediate_size": 352,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
    },
    name="little-llama",
)


@pytest.mark.parametrize("name", ["llama-3.1-8b", "llama-2-7b", "llama-3.1-405b"])
def test_flops_of_a_token_are_palms(name):
    model, s = sizing.Model(name), 4096
    p = model.parameters
    weights, attention = token_flops(model, s)
    assert weights == 6 * (p.total - p.embedding - p.norm)  # the table is looked up
    assert attention == 12 * model.layers * model.heads * model.head_dim * s
    assert token_flops(model, s, "causal")[1] == attention * (s + 1) / (2 * s)


def test_flops_of_a_token_are_those_counted():
    run = sizing.Run(LLAMA, sequence=256, attention="eager")
    assert sum(token_flops(LLAMA, 256)) * 256 == sizing.trace.flops(run).total


def test_crossover_of_a_gpt_is_six_widths_and_its_share_of_the_head():
    gpt = sizing.Model("gpt3-175b")
    exact = 6 * gpt.hidden + gpt.vocab / (2 * gpt.layers)
    assert exact <= crossover(gpt) < exact + 1
    assert 2 * exact - 1 <= crossover(gpt, "causal") < 2 * exact  # s (s + 1) / 2 pairs


@pytest.mark.parametrize("name", ["gemma-3-1b", "qwen3-0.6b", "deepseek-v3"])
@pytest.mark.parametrize("pairs", ["full", "causal"])
def test_crossover_is_where_the_larger_changes(name, pairs):
    model = sizing.Model(name)
    s = crossover(model, pairs)
    weights, before = token_flops(model, s - 1, pairs)
    assert before < weights <= token_flops(model, s, pairs)[1]


def test_windows_in_every_layer_never_cross():
    model = sizing.Model("mistral-7b")
    assert crossover(model, "causal") is None
    assert (
        SequenceCalculator(model="mistral-7b", pairs="causal")
        .current.notes[0]
        .startswith("Attention never costs")
    )


def saved_bytes(layers, attention, sequence):
    """Bytes of everything that the real model saves for its backward pass under autocast."""
    config = AutoConfig.for_model(**LLAMA.replace(num_hidden_layers=layers).config)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    storages = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    batch = torch.zeros(1, sequence, dtype=torch.long)
    hooks = torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor)
    with hooks, torch.autocast("cpu", torch.bfloat16):
        loss = model(batch, labels=batch).loss
    assert loss.isfinite()
    return sum(storages.values())


@pytest.mark.parametrize(("kernel", "name"), [("eager", "eager"), ("flash", "sdpa")])
@pytest.mark.parametrize("sequence", [64, 320])
def test_a_layer_keeps_what_the_real_layer_saves(kernel, name, sequence):
    more = saved_bytes(3, name, sequence) - saved_bytes(2, name, sequence)
    matrices = sum(w.elements for w in LLAMA.blocks[0].weights if w.kind == "matrix")
    copies = 2 * matrices  # autocast's bf16 weights, saved too
    assert more - copies == layer_bytes(LLAMA, sequence, kernel)


def test_eager_keeps_six_bytes_a_score():
    model = sizing.Model("llama-3.1-8b")
    b, c = (layer_bytes(model, s, "eager") for s in (2**19, 2**20))
    assert c - 2 * b == 6 * model.heads * 2 * 2**38  # what is left is quadratic alone
    assert layer_bytes(model, 2**20, "flash") == 2**12 * layer_bytes(model, 2**8, "flash")


def test_a_slider_moves_result_and_picture():
    calculator = SequenceCalculator(model="llama-3.1-8b", sequence=8192)
    before, picture = calculator.current, bytes(calculator._picture.value)
    assert picture.startswith(b"\x89PNG")
    calculator.controls["sequence"].value = 16384
    after = calculator.current
    assert after.value - before.value == 12 * 32 * 4096 * 8192  # twice the attention
    assert bytes(calculator._picture.value) != picture
    assert "8,192 tokens → 16,384 tokens" in calculator._changed.value
    assert list(calculator._scores.get_xdata()) == list(LENGTHS)
    assert calculator._both.get_xdata() == [16384]


def test_the_kernel_moves_memory_and_no_flops():
    calculator = SequenceCalculator(attention="flash")
    value, height = calculator.current.value, calculator._kept.get_ydata()[0]
    calculator.set(attention="eager")
    assert calculator.current.value == value
    assert calculator._kept.get_ydata()[0] > 7 * height


def test_what_a_reader_without_widgets_sees():
    bundle = SequenceCalculator()._repr_mimebundle_()
    assert "8,192 tokens" in bundle["text/plain"]
    assert "57.9 GFLOP per token, 22% in attention; a layer keeps 1.98 GB" in bundle["text/plain"]
    assert "28,628 tokens" in bundle["text/html"]
    with (DATA / "memory_error.csv").open(newline="", encoding="utf-8") as file:
        runs = sum(row["split"] == "held-out" for row in csv.DictReader(file))
    assert f"{runs} traced runs" in bundle["text/html"]


def test_every_preset_can_be_chosen(models):
    calculator = SequenceCalculator(sequence=1024)
    for name in models:
        made = calculator.set(model=name)
        if name == "falcon-7b":  # one key/value head, for which torch has no fused kernel
            assert made.error.startswith("attention: 'flash' given; allowed: 'eager'")
            continue
        assert made.error == "", name
        assert calculator._kept.get_ydata()[0] > 0


def test_a_length_beyond_learned_positions_is_refused_in_words():
    calculator = SequenceCalculator(model="gpt2", sequence=8192)
    assert calculator.error.startswith("sequence: 8192 given; allowed: 1 to 1024")
    assert calculator.set(sequence=1024).error == ""
