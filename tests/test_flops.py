"""FLOPs against torch's FlopCounterMode on the real model with eager attention, exactly."""

import random

import pytest
import torch
from reference import build, count_step, random_config
from torch.utils.flop_counter import FlopCounterMode

from sizing import Model, Run, flops, presets
from sizing.architecture.families import FAMILIES
from sizing.architecture.family_rows import TRAITS
from sizing.compute import matmuls, megatron, palm, query_key_pairs, six_nd

SPARSE = [family for family in FAMILIES if TRAITS[family].experts]
DENSE = [family for family in FAMILIES if family not in SPARSE]
BATCH, SEQUENCE = 2, 40


def step(config, **changes):
    return flops(Run(Model(config), sequence=SEQUENCE, micro_batch=BATCH, **changes))


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("seed", range(4))
def test_equals_the_counter(family, seed):
    config = random_config(family, random.Random(f"flops{family}{seed}"))
    forward, total = count_step(config, BATCH, SEQUENCE)
    ours = step(config)
    assert (ours.forward, ours.total) == (forward, total)
    assert ours.recompute == 0


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("seed", range(4))
def test_full_recompute_equals_the_counter(family, seed):
    config = random_config(family, random.Random(f"recompute{family}{seed}"))
    _, total = count_step(config, BATCH, SEQUENCE, recompute=True)
    assert step(config, recompute="full").total == total


@pytest.mark.parametrize(
    "name", ["gpt2", "pythia-410m", "llama-3.2-1b", "qwen3-8b", "gemma-3-270m"]
)
def test_real_sizes(name):
    if name not in presets():
        pytest.skip(f"{name} is not a preset")
    model = Model(name)
    run = Run(model, sequence=512, micro_batch=1, recompute="full")
    assert flops(run).total == count_step(model.config, 1, 512, recompute=True)[1]


@pytest.mark.parametrize("family", [f for f in SPARSE if not TRAITS[f].experts.every])
def test_experts_forward_equals_the_counter(family):
    """Real tokens, really routed: each is multiplied with its top-k experts."""
    config = random_config(family, random.Random(f"experts{family}"))
    model = build(config, device="cpu")
    model.set_experts_implementation("eager")
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    tokens = torch.randint(3, config["vocab_size"], (BATCH, SEQUENCE))
    # Asked for all positions by a number, Gemma 4 without per-layer inputs slices what it has not.
    every = {"logits_to_keep": torch.arange(SEQUENCE)} if family == "gemma4_text" else {}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(input_ids=tokens, use_cache=False, **every)
    assert step(config).forward == counter.get_total_flops()


def test_scales_with_the_whole_batch():
    model = Model(random_config("llama", random.Random(1)))
    one = flops(Run(model, sequence=64))
    many = flops(Run(model, sequence=64, micro_batch=3, accumulation=5, data=7, tensor=2))
    assert many.total == 105 * one.total


def test_conventions():
    config = random_config("llama", random.Random(2))
    run = Run(Model(config), sequence=64, recompute="full")
    full, causal = flops(run), flops(run, attention="causal")
    scores = sum(p.flops for p in matmuls(run.model, 64) if p.part == "scores")
    assert full.forward - causal.forward == scores - scores * 65 // 128
    textbook = flops(run, recompute="textbook")
    assert textbook.total * 3 == 4 * textbook.model
    assert textbook.recompute > full.recompute
    assert full.model == textbook.model


def test_selective_recompute_is_the_attention_core():
    run = Run(Model("gpt2"), sequence=128, recompute="selective", attention="eager")
    one_product = 2 * 128 * 128 * 768 * 12
    assert flops(run).recompute == one_product
    assert flops(run, recompute="textbook").recompute == 2 * one_product
    # per operation c_attn and c_fc are kept; dropout needs the last product, as in full recompute
    per_operation = Run("gpt2", sequence=128, recompute="selective")
    assert flops(per_operation).recompute == 12 * 2 * 128 * (768 * 768 + 768 * 3072)


def test_window_counts_pairs_one_by_one():
    (block,) = Model(random_config("mistral", random.Random(3))).blocks
    for sequence in (4, block.window, 40):
        seen = sum(min(i + 1, block.window) for i in range(sequence))
        assert query_key_pairs(sequence, block, "causal") == seen
        assert query_key_pairs(sequence, block, "full") == sequence**2


def test_palm_formula_is_exact_where_its_assumptions_hold():
    """Multi-head attention as wide as the model, N all the weights that multiply."""
    model = Model("gpt2")
    matrices = sum(w.elements * n for w, n in model.weights if w.kind == "matrix")
    multiplied = matrices + model.vocab * model.hidden
    assert palm(multiplied, model, 1024, 1024) == flops(Run(model, sequence=1024)).total


def test_megatron_formula_is_exact_for_its_gpt():
    model = Model("gpt2")
    run = Run(model, sequence=1024, recompute="full")
    textbook = flops(run, recompute="textbook")
    head = 2 * 1024 * model.vocab * model.hidden
    assert megatron(model, 1024, 1024) == pytest.approx(textbook.total - head, rel=1e-12)
    assert megatron(model, 1024, 1024, recompute=False) == pytest.approx(textbook.model, rel=1e-12)


def test_six_nd():
    # Chinchilla, arXiv:2203.15556 table A4's budget: 70 B parameters on 1.4 T tokens
    assert six_nd(70e9, 1.4e12) == 5.88e23


@pytest.mark.parametrize("field", ["attention", "recompute"])
def test_unknown_convention(field):
    with pytest.raises(ValueError, match=f"{field}: 'half' given; allowed"):
        flops(Run("gpt2", sequence=128), **{field: "half"})
