"""The memory formula against traces, autograd's own hooks, and arithmetic on paper."""

import random
import time
from collections import Counter
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from torch.autograd.graph import saved_tensors_hooks

import sizing
from sizing.evidence import tables
from sizing.evidence import traces as table
from sizing.footprint import PARTS, PHASES, bytes_per_parameter, korthikanti
from sizing.footprint.tape import SAME_BYTES
from sizing.trace.step import Step

# Held against steps and traces of the CPU, unless a test says otherwise.
memory = partial(sizing.memory, device="cpu")
saved_tensors = partial(sizing.saved_tensors, device="cpu")
traced = partial(sizing.trace.memory, device="cpu")
ROWS = table.load()
DENSE = {
    "gpt2",
    "gpt_neox",
    "opt",
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma2",
    "gemma3_text",
    "olmo2",
}


# -- the recorded table


def test_the_table_is_wide():
    assert len(ROWS) >= 150
    assert sum(row["split"] == "held-out" for row in ROWS) >= len(ROWS) / 2
    assert {row["family"] for row in ROWS if row["split"] == "held-out"} == DENSE
    for setting in ("precision", "gradients", "optimizer", "recompute", "attention"):
        choices = {SAME_BYTES.get(choice, choice) for choice in sizing.run.CHOICES[setting]}
        taken = {row[setting] for row in ROWS}
        # what no traced step here takes is held against the libraries in tests/test_savers.py
        assert choices - taken <= {"fp8", "adamw-4bit", "paged-adamw-8bit", "galore", "adam-mini"}
        assert taken <= choices
    assert {row["trace_phase"] for row in ROWS} >= {"forward", "loss", "layers", "optimizer"}
    sizes = [sizing.Model(r["model"]).parameters.total for r in ROWS if r["split"] == "held-out"]
    assert min(sizes) < 150e6 and max(sizes) > 8e9


def test_the_table_holds_todays_formula():
    for row in ROWS:
        predicted = memory(table.run_of(row))
        assert predicted.total == row["formula_bytes"], row
        assert predicted.peak_phase == row["formula_phase"], row


@pytest.mark.parametrize("split", ["derived", "held-out"])
def test_errors_are_small(split):
    errors = [abs(table.error(row)) for row in ROWS if row["split"] == split]
    assert sum(errors) / len(errors) < 0.001
    assert max(errors) < 0.01


def test_summary_counts_every_row_once():
    for key in ("split", "family"):
        groups = tables.summary(ROWS, key, table.error)
        assert sum(count for _, count, _, _ in groups) == len(ROWS)
        assert Counter(row[key] for row in ROWS) == {name: count for name, count, _, _ in groups}


SAMPLE = random.Random(7).sample([r for r in ROWS if r["trace_bytes"] < 60e9], 8)


@pytest.mark.parametrize("row", SAMPLE, ids=lambda r: f"{r['model']}-{r['precision']}")
def test_a_trace_taken_now_agrees(row):
    training_run = table.run_of(row)
    trace, predicted = traced(training_run), memory(training_run)
    assert predicted.total == pytest.approx(trace.total, rel=0.01)
    for phase in PHASES[1:]:  # "forward" is its end, below the layers' worst where it is not
        parts = predicted.phases[phase]
        total = sum(trace.phases[phase].values())
        assert sum(parts.values()) == pytest.approx(total, rel=0.05), phase


# -- what autograd says itself


def kept_by_autograd(training_run) -> Counter:
    """Sizes of the distinct storages that a real forward pass saves, parameters left out."""
    step = Step(training_run)
    own = {p.untyped_storage().data_ptr() for p in step.model.parameters()}
    storages = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            storages[storage.data_ptr()] = storage.nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = step.forward()
    del loss
    return Counter(storages.values())


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16"])
@pytest.mark.parametrize("attention", ["flash", "eager"])
@pytest.mark.parametrize("name", list(table.DERIVED_ON))
def test_saved_tensors_are_autograds(name, attention, precision):
    config = dict(table.DERIVED_ON[name], vocab_size=500)
    if name == "small-gpt2":
        narrow = {"n_embd": 96, "n_head": 6}
        depth = "n_layer"
    else:
        narrow = {"hidden_size": 96, "num_attention_heads": 6, "head_dim": 16}
        narrow |= {"num_key_value_heads": 2, "intermediate_size": 200, "ffn_dim": 200}
        depth = "num_hidden_layers"
    config |= {k: v for k, v in narrow.items() if k in config or k == "head_dim"}
    config = {k: v for k, v in config.items() if not (k == "head_dim" and name in _NO_HEAD_DIM)}
    settings = {"sequence": 40, "micro_batch": 3, "precision": precision, "attention": attention}
    shallow, deep = (
        sizing.Run({**config, depth: layers, **_kinds(name, layers)}, **settings)
        for layers in (2, 3)
    )
    more = kept_by_autograd(deep) - kept_by_autograd(shallow)
    listed = Counter(t.bytes for t in saved_tensors(shallow) if not t.shared)
    assert more == listed


_NO_HEAD_DIM = ("small-gpt2", "small-gpt-neox", "small-opt", "small-qwen2", "small-olmo2")


def _kinds(name, layers):
    if name in ("small-gemma2", "small-gemma3"):
        return {"layer_types": ["full_attention"] * layers}
    return {}


def test_saved_tensors_of_recomputed_layers():
    model = sizing.Model("llama-3.2-1b")
    full = saved_tensors(sizing.Run(model, recompute="full"))
    assert [t.bytes for t in full if not t.shared] == [4 * 2048 * model.hidden]
    core = sizing.Run(model, attention="eager")
    assert _bytes(replace(core, recompute="selective")) < 0.5 * _bytes(core)


def _bytes(training_run) -> int:
    return sum(t.bytes for t in saved_tensors(training_run))


def test_saved_tensors_names_the_blocks_there_are():
    with pytest.raises(ValueError, match="block: 2 given; allowed: 0 to 1"):
        saved_tensors(sizing.Run("gemma-3-1b"), block=2)


# -- arithmetic on paper


def test_llama_layer_in_bf16_by_hand():
    """Llama's layer in pure bf16 with flash attention, tensor by tensor."""
    model = sizing.Model("llama-3.1-8b")
    h, f, q, kv, heads = 4096, 14336, 4096, 1024, 32
    norm = 4 * h + 2 * h + 2 * h + 4  # input in fp32, normalised, result; 1/rms
    attention = 2 * (q + kv + kv) + 2 * q + 4 * heads  # q, k, v, output; log-sum-exp
    mlp = 2 * 4 * f  # gate, silu(gate), up, their product
    per_token = 2 * norm + attention + mlp
    training_run = sizing.Run(model, precision="bf16", sequence=1024, micro_batch=4)
    listed = sum(t.bytes for t in saved_tensors(training_run) if not t.shared)
    assert listed == per_token * 4 * 1024


def test_model_state_in_bytes_a_parameter():
    model = sizing.Model("gpt2")
    state = {
        ("fp32", "same", "sgd"): (4, 4, 0),
        ("fp32", "fp32", "adamw"): (4, 4, 8),
        ("bf16-mixed", "same", "adamw-fused"): (4, 4, 8),
        ("bf16-mixed", "same", "lion"): (4, 4, 4),
        ("bf16-master", "same", "adamw"): (2, 2, 12),
        ("bf16-master", "fp32", "adamw"): (2, 4, 12),
        ("bf16", "same", "adamw"): (2, 2, 4),
        ("bf16", "fp32", "momentum"): (2, 4, 2),
    }
    for (precision, gradients, optimizer), widths in state.items():
        m = memory(
            sizing.Run(
                model,
                sequence=128,
                precision=precision,
                gradients=gradients,
                optimizer=optimizer,
            )
        )
        n = model.parameters.total
        assert (m.parameters, m.gradients, m.optimizer) == tuple(n * width for width in widths)
    assert sum(state["bf16-master", "same", "adamw"]) == bytes_per_parameter()
    assert sum(state["bf16-master", "fp32", "adamw"]) == bytes_per_parameter("fp32")


def test_eight_bit_state_is_two_bytes_and_the_scales():
    model = sizing.Model("llama-3.1-8b")
    state = memory(sizing.Run(model, optimizer="adamw-8bit")).optimizer
    assert state / model.parameters.total == pytest.approx(2 * (1 + 4 / 256), rel=1e-4)


def test_gpt2_at_one_short_sequence_peaks_at_the_tied_embedding():
    model = sizing.Model("gpt2")
    m = memory(sizing.Run(model, sequence=128, precision="fp32", optimizer="adamw-fused"))
    two_copies = 2 * 4 * model.vocab * model.hidden
    assert m.peak_phase == "embedding"
    assert m.total == pytest.approx(16 * model.parameters.total + two_copies, rel=0.005)


def test_foreach_adamw_peaks_in_the_update():
    model = sizing.Model("gpt2-medium")
    fused = memory(sizing.Run(model, sequence=128, precision="fp32", optimizer="adamw-fused"))
    foreach = memory(sizing.Run(model, sequence=128, precision="fp32", optimizer="adamw"))
    assert foreach.peak_phase == "optimizer"
    assert foreach.total == 20 * model.parameters.total + 8 * 128
    assert foreach.total / fused.total == pytest.approx(1.165, abs=0.005)


def test_the_loss_of_a_large_vocabulary_outweighs_the_rest():
    m = memory(sizing.Run("gemma-3-270m", sequence=1024, micro_batch=4, precision="bf16-mixed"))
    assert m.logits == 12 * 4 * 1024 * 262144
    assert m.logits / m.total > 0.5


def test_korthikanti():
    # GPT-3's layer: h 12288, 96 heads, s 2048: 34 + 5 * 96 * 2048 / 12288 = 114
    training_run = sizing.Run("gpt3-175b", sequence=2048, attention="eager")
    tokens_width = 2048 * 12288 * 96
    assert korthikanti(training_run) == 114 * tokens_width
    assert korthikanti(replace(training_run, recompute="selective")) == 34 * tokens_width
    assert korthikanti(replace(training_run, recompute="full")) == 2 * tokens_width
    assert korthikanti(replace(training_run, tensor=8)) == 23 * tokens_width
    with pytest.raises(ValueError, match="gradients: 'bf16' given"):
        bytes_per_parameter("bf16")


# -- how the result is put together


def test_parts_sum_to_phases_and_phases_to_the_peak():
    for training_run in map(table.run_of, SAMPLE):
        m = memory(training_run)
        totals = {name: sum(parts.values()) for name, parts in m.phases.items()}
        assert list(totals) == list(PHASES)
        assert all(list(parts) == list(PARTS) for parts in m.phases.values())
        assert max(totals, key=totals.get) == m.peak_phase
        assert totals[m.peak_phase] == m.total
        assert all(size >= 0 for parts in m.phases.values() for size in parts.values())


def test_more_never_takes_less():
    base = sizing.Run("llama-3.2-1b", sequence=1024, micro_batch=2, attention="eager")
    for change in (
        {"micro_batch": 4},
        {"sequence": 2048},
        {"accumulation": 2},
    ):
        assert memory(replace(base, **change)).total >= memory(base).total, change
    for change in ({"recompute": "selective"}, {"recompute": "full"}, {"attention": "flash"}):
        assert memory(replace(base, **change)).total < memory(base).total, change


def test_autocast_can_take_more_than_fp32():
    """Its bf16 copies of weights and inputs can outweigh what bf16 activations save."""
    base = sizing.Run("llama-3.2-1b", sequence=1024, micro_batch=2, attention="eager")
    assert memory(base).total > memory(replace(base, precision="fp32")).total


def test_gradients_stay_between_micro_batches():
    base = sizing.Run("llama-3.2-1b", sequence=2048, micro_batch=8)
    once, more = memory(base), memory(replace(base, accumulation=4))
    assert more.phases["loss"]["gradients"] == more.gradients
    assert once.phases["loss"]["gradients"] == 0
    assert more.total - once.total == more.gradients


def test_zero_divides_model_state_and_not_activations():
    base = sizing.Run("llama-3.1-8b", sequence=4096, data=8)
    stages = [memory(replace(base, zero=stage)) for stage in range(4)]
    whole = sizing.model_state(base)
    for stage, m in enumerate(stages):
        loss = m.phases["loss"]
        assert loss["optimizer"] == m.optimizer == whole.optimizer // (8 if stage >= 1 else 1)
        assert loss["parameters"] == m.parameters == whole.parameters // (8 if stage == 3 else 1)
        assert m.gradients == whole.gradients // (8 if stage >= 2 else 1)
        # stage 3 computes in the dtype that it gathers, as 16-bit weights do
        like = memory(replace(base, precision="bf16")) if stage == 3 else stages[0]
        assert loss["activations"] == like.phases["loss"]["activations"]
        assert m.total == max(sum(parts.values()) for parts in m.phases.values())
    assert stages[2].phases["optimizer"]["gradients"] == stages[0].gradients // 8
    # DDP keeps a flat copy of the gradients, its buckets
    alone = memory(replace(base, data=1))
    assert stages[0].total == alone.total + alone.gradients


@pytest.mark.parametrize("ranks", [1, 2, 4, 16, 64, 256, 1024])
def test_model_state_is_that_of_the_zero_paper_s_table(ranks):
    """Bytes a parameter: ZeRO, arXiv:1910.02054, figure 1."""
    table = (16, 4 + 12 / ranks, 2 + 14 / ranks, 16 / ranks)
    for name in ("llama-3.1-8b", "gpt2-xl"):
        base = sizing.Run(name, sequence=1024, precision="bf16-master", data=ranks)
        for stage, each in enumerate(table):
            m = memory(replace(base, zero=stage))
            held = (m.parameters + m.gradients + m.optimizer) / base.model.parameters.total
            assert held == pytest.approx(each, rel=0.02), (name, stage)


def test_the_default_is_cuda_s_operators():
    run = sizing.Run("gpt2", sequence=1024, micro_batch=4)
    assert (
        sizing.memory(run) == sizing.memory(run, device="cuda") != sizing.memory(run, device="cpu")
    )
    trace = sizing.trace.memory(run).total
    assert trace == sizing.trace.memory(run, device="cuda").total
    assert sizing.saved_tensors(run) == sizing.saved_tensors(run, device="cuda")


@pytest.mark.parametrize(("name", "pipeline"), [("qwen2.5-7b", 8), ("llama-3.1-405b", 16)])
def test_uneven_pipelines_are_sized(name, pipeline):
    """28 layers on 8 stages and 126 on 16: the fullest stage holds most layers."""
    run = sizing.Run(name, sequence=4096, accumulation=32, pipeline=pipeline, recompute="full")
    counts = [stage.layers for stage in sizing.stages(run)]
    assert sum(counts) == run.model.layers
    assert max(counts) - min(counts[:-1]) <= 1 and counts[-1] <= max(counts)
    m, whole = memory(run), sizing.model_state(run)
    even = whole.parameters / pipeline
    assert even < m.parameters < 2.2 * even
    slowest = sizing.step_time(run, "h100-sxm")
    assert slowest.pipeline_bubble > 0


def test_a_pipeline_deeper_than_the_model_is_warned_of():
    with pytest.warns(UserWarning, match="pipeline: 16 stages for 12 layers: 4 would hold no lay"):
        memory(sizing.Run("gpt2", sequence=512, pipeline=16, accumulation=16))


def test_a_grid_is_what_its_points_are():
    b, s = np.array([1, 2, 5, 8])[:, None], np.array([64, 500, 512, 1024, 4096, 4097, 8192])
    for settings in (
        {},
        {"precision": "bf16", "attention": "eager", "recompute": "full"},
        {"data": 8, "zero": 3, "accumulation": 2},
        {"data": 4, "zero": 1, "pipeline": 2, "accumulation": 3},
        {"lora": 16, "data": 2},
    ):
        for name in ("gemma-2-2b", "qwen2.5-0.5b"):
            run = sizing.Run(name, **settings)
            grid = sizing.memory_grid(run, b, s)
            assert grid.shape == (4, 7) and grid.dtype == np.int64
            for i, micro_batch in enumerate(b[:, 0]):
                for j, sequence in enumerate(s):
                    at = replace(run, micro_batch=micro_batch, sequence=sequence)
                    assert grid[i, j] == sizing.memory(at).total, at


@pytest.mark.parametrize(
    ("settings", "grid", "message"),
    [
        ({}, ([0, 1], [128]), "micro_batch: .* allowed: whole numbers >= 1"),
        ({}, ([1.5], [128]), "micro_batch: .* allowed: whole numbers >= 1"),
        ({"context": 2}, ([1], [128, 129]), "context: 2 given; allowed: a divisor of sequence"),
    ],
)
def test_a_bad_grid_is_refused(settings, grid, message):
    with pytest.raises(ValueError, match=message):
        sizing.memory_grid(sizing.Run("qwen2.5-0.5b", **settings), *grid)


def test_degrees_divide_and_bad_ones_are_refused():
    base = sizing.Run("llama-3.1-8b", sequence=4096, accumulation=8)
    whole = memory(base)
    assert memory(replace(base, tensor=8, pipeline=2)).total < whole.total / 4
    with pytest.raises(ValueError, match="tensor: 3 given"):
        memory(replace(base, tensor=3))


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "full"])
@pytest.mark.parametrize("attention", ["flash", "eager"])
def test_cudas_operators(precision, recompute, attention):
    training_run = sizing.Run(
        {**table.DERIVED_ON["small-gpt2"], "n_layer": 3},
        sequence=512,
        micro_batch=2,
        precision=precision,
        optimizer="sgd",
        recompute=recompute,
        attention=attention,
    )
    trace = traced(training_run, device="cuda").total
    assert memory(training_run, device="cuda").total == pytest.approx(trace, rel=1e-4)


SPARSE = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "num_experts": 8,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 128,
        "head_dim": 32,
        "decoder_sparse_step": 2,
        "norm_topk_prob": True,
    },
    "deepseek_v3": {
        "num_key_value_heads": 8,
        "moe_intermediate_size": 128,
        "n_routed_experts": 8,
        "n_shared_experts": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "q_lora_rank": 96,
        "kv_lora_rank": 64,
        "qk_nope_head_dim": 32,
        "qk_rope_head_dim": 16,
        "v_head_dim": 32,
        "n_group": 2,
        "topk_group": 1,
    },
}


@pytest.mark.parametrize("family", list(SPARSE))
@pytest.mark.parametrize(
    "settings",
    [
        {"precision": "fp32"},
        {"precision": "bf16-mixed", "attention": "eager"},
        {"precision": "bf16", "recompute": "full"},
    ],
)
def test_routed_experts_and_latent_attention(family, settings):
    config = {
        "model_type": family,
        "vocab_size": 1000,
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        **SPARSE[family],
    }
    training_run = sizing.Run(config, sequence=512, micro_batch=2, optimizer="sgd", **settings)
    tolerance = 0.03 if settings.get("recompute") else 1e-3
    assert memory(training_run).total == pytest.approx(traced(training_run).total, rel=tolerance)


@pytest.mark.parametrize("name", ["small-llama", "small-gpt2", "small-gemma3"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16"])
def test_adapters(name, precision):
    training_run = sizing.Run(
        table.DERIVED_ON[name], sequence=512, micro_batch=2, precision=precision
    )
    trace = traced(replace(training_run, lora=8)).total
    assert memory(replace(training_run, lora=8)).total == pytest.approx(trace, rel=1e-3)


def test_a_call_is_fast():
    runs = [sizing.Run("llama-3.1-8b", micro_batch=b, sequence=512 * b) for b in range(2, 12)]
    for training_run in runs:
        memory(training_run)
    best = float("inf")
    for _ in range(50):
        start = time.process_time()
        for training_run in runs:
            memory(training_run)
        best = min(best, (time.process_time() - start) / len(runs))
    assert best < 40e-6


def test_what_the_formula_does_not_know_is_refused():
    with pytest.raises(ValueError, match="device: 'tpu' given; allowed: 'cpu', 'cuda'"):
        memory(sizing.Run("gpt2", sequence=128), device="tpu")
    odd = {**table.DERIVED_ON["small-llama"], "hidden_act": "laplace"}
    with pytest.raises(ValueError, match="hidden_act: 'laplace' given; allowed: gelu"):
        memory(sizing.Run(odd))


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed", "bf16"])
def test_one_key_head_beyond_its_window(precision):
    """A mask makes SDPA repeat key heads; a single one is repeated as a view, without a copy."""
    run = sizing.Run("gemma-3-270m", sequence=1024, micro_batch=2, precision=precision)
    assert memory(run).total == pytest.approx(traced(run).total, rel=1e-4)
