"""The optimizer calculator against published recipes, a real optimizer and a traced step."""

import pytest
import torch
from torch import nn

import sizing
from sizing.calculators import OptimizerCalculator
from sizing.calculators.optimizer import OPTIMIZERS, PARTS, bytes_moved, model_state
from sizing.trace.optimizers import BUILT

# Bytes a parameter of AdamW: weights, gradients, master weights, moments
RECIPES = {
    ("fp32", "same"): (4, 4, 0, 8),
    ("bf16-mixed", "same"): (4, 4, 0, 8),  # autocast keeps fp32 weights
    ("bf16-master", "same"): (2, 2, 4, 8),  # 16: arXiv:1910.02054, section 3.1
    ("bf16-master", "fp32"): (2, 4, 4, 8),  # 18: Megatron-LM's distributed optimizer
    ("bf16", "same"): (2, 2, 0, 4),
}
LITTLE = sizing.Model(
    {
        "model_type": "llama",
        "vocab_size": 97,
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "tie_word_embeddings": False,
    },
    name="little-llama",
)


@pytest.fixture(scope="module")
def calculator():
    return OptimizerCalculator()


@pytest.mark.parametrize(("precision", "gradients"), RECIPES)
@pytest.mark.parametrize("name", ["gpt2", "llama-3.1-8b"])
def test_recipes_of_the_literature(name, precision, gradients):
    model = sizing.Model(name)
    expected = [each * model.parameters.total for each in RECIPES[precision, gradients]]
    assert list(model_state(model, "adamw", precision, gradients, 0).values()) == expected


def real_state(optimizer):
    """Bytes of a real optimizer's state after a step on the little Llama, without its counters."""
    shapes = [w.shape for w, copies in LITTLE.weights for _ in range(copies)]
    params = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for p in params:
        p.grad = torch.ones_like(p)
    made = optimizer(params)
    made.step()
    tensors = [x for state in made.state.values() for x in state.values() if torch.is_tensor(x)]
    return sum(x.numel() * x.element_size() for x in tensors if x.numel() > 1)


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("sgd", torch.optim.SGD),
        ("momentum", lambda p: torch.optim.SGD(p, momentum=0.9)),
        ("adamw", torch.optim.AdamW),
        ("adafactor", torch.optim.Adafactor),
    ],
)
def test_state_is_what_the_real_optimizer_keeps(name, make):
    assert model_state(LITTLE, name, "fp32", "same", 0)["state"] == real_state(make)


@pytest.mark.parametrize(
    ("name", "precision", "lora"),
    [(name, "bf16-master", 0) for name in BUILT]  # tests/test_savers.py has the others' own state
    + [("adamw", "fp32", 0), ("adamw", "bf16", 8), ("muon", "bf16", 8)],
)
def test_parts_are_those_of_a_traced_step(name, precision, lora):
    run = sizing.Run(
        LITTLE,
        sequence=8,
        optimizer=name,
        precision=precision,
        accumulation=2,
        lora=lora or None,
    )
    held = sizing.trace.memory(run, device="cpu").phases["layers"]  # gradients are resident there
    parts = model_state(LITTLE, name, precision, "same", lora)
    tensors = sum(copies for _, copies in LITTLE.weights) * 2  # adapters come in pairs
    rotary = 2 * 4 * LITTLE.head_dim // 2  # two fp32 buffers of frequencies
    assert held["parameters"] - rotary == parts["weights"]
    assert held["gradients"] == parts["gradients"]
    counters = held["optimizer"] - parts["master"] - parts["state"]
    assert 0 <= counters <= 4 * tensors


def test_adapters_are_two_thin_matrices_each():
    model, rank = sizing.Model("gpt3-175b"), 8
    h, layers = model.hidden, model.layers
    # GPT-2's queries, keys and values are one matrix
    trained = layers * rank * ((h + 3 * h) + (h + h) + (h + 4 * h) + (4 * h + h))
    parts = model_state(model, "adamw", "bf16", "same", rank)
    assert parts["gradients"] == 4 * trained
    assert parts["state"] == 8 * trained
    assert parts["weights"] == 2 * model.parameters.total + 4 * trained


def test_an_update_reads_and_writes_each_tensor_once():
    n = 1000
    adamw = {"weights": 4 * n, "gradients": 4 * n, "master": 0, "state": 8 * n}
    assert bytes_moved(adamw, adamw["weights"]) == 28 * n  # w, g, m, v read; w, m, v written
    master = {"weights": 2 * n, "gradients": 2 * n, "master": 4 * n, "state": 8 * n}
    assert bytes_moved(master, master["weights"]) == 28 * n  # bf16 weights are only written


def test_shows_llamas_state_and_that_it_does_not_fit(calculator):
    calculator.set(model="llama-3.1-8b", precision="bf16-master", lora=0, gpu="h100-sxm")
    calculator.set(optimizer="adamw", gradients="same")
    n = 8_030_261_248  # arXiv:2407.21783 rounds it to 8 B
    assert calculator.current.value == 16 * n
    assert calculator.current.headline == "16 bytes per parameter, 128.48 GB"
    assert not calculator.current.limit.fits
    assert "at least 67.1 ms" in calculator.current.notes[1]  # 28 bytes x n / 3.35 TB/s
    calculator.set(optimizer="adamw-8bit")
    assert calculator.current.limit.fits
    assert "adamw → adamw-8bit" in calculator._changed.value


def test_table_has_every_optimizer(calculator):
    rows = calculator.current.rows
    assert [row[0] for row in rows] == list(OPTIMIZERS)
    assert len(calculator.current.columns) == len(rows[0]) == len(PARTS) + 4
    assert {row[-1] for row in rows} <= {"fits", "tight", "does not fit"}


def test_adapters_shrink_all_but_the_weights(calculator):
    calculator.set(model="llama-3.2-1b", precision="bf16", optimizer="adamw", lora=0)
    everything = calculator.current
    calculator.set(lora=16)
    assert calculator.current.value < 0.4 * everything.value
    assert "frozen" in calculator.current.notes[0]
    calculator.set(lora=0)
    assert calculator.current.value == everything.value


def widths(calculator, part):
    return [bar.get_width() for bar in calculator._bars[part]]


def test_picture_shows_bytes_a_parameter(calculator):
    calculator.set(model="gpt2", optimizer="adamw", precision="bf16-master", gpu="h100-sxm")
    before = calculator._picture.value
    assert widths(calculator, "master") == [4] * len(OPTIMIZERS)
    assert widths(calculator, "state")[OPTIMIZERS.index("adamw")] == 8
    calculator.set(precision="fp32")
    assert calculator._picture.value != before
    assert widths(calculator, "master") == [0] * len(OPTIMIZERS)
    assert "→" in calculator._word.get_text()  # 85 GB are far to the right
    calculator.set(model="llama-3.1-8b")
    assert "→" not in calculator._word.get_text()
    assert calculator._line.get_xdata()[0] == pytest.approx(85.52e9 / 8.030e9, rel=1e-3)


def test_no_recipe_is_wider_than_the_picture(calculator):
    widest = max(
        sum(model_state(LITTLE, name, precision, gradients, 0).values())
        for name in OPTIMIZERS
        for precision, gradients in RECIPES
    )
    assert widest / LITTLE.parameters.total < calculator._figure.axes[0].get_xlim()[1]


def test_reads_without_a_widget(calculator):
    calculator.set(model="llama-3.1-8b", optimizer="muon", precision="bf16-master")
    bundle = calculator._repr_mimebundle_()
    assert "bytes per parameter" in bundle["text/plain"]
    assert "optimizer: muon" in bundle["text/plain"]
    assert "<table" in bundle["text/html"]
    assert "data/memory_error.csv" in bundle["text/html"]


def test_refuses_what_its_controls_do_not_have():
    with pytest.raises(ValueError, match="optimizer: 'adam' given; allowed: sgd"):
        OptimizerCalculator(optimizer="adam")
