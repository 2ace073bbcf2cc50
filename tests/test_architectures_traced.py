"""Gemma 3n and MiniMax, whose layers are of another kind, and experts that are frozen: peak and
FLOPs against the trace."""

from dataclasses import replace

import pytest
import torch
from test_architectures import small

import sizing
from sizing import Model, Run, flops, trace
from sizing.footprint import memory
from sizing.trace import memory as traced

GEMMA3N = {
    "model_type": "gemma3n_text",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "sliding_window": 32,
    "vocab_size_per_layer_input": 120,
    "hidden_size_per_layer_input": 8,
    "laurel_rank": 8,
    "num_kv_shared_layers": 0,
    "layer_types": ["sliding_attention", "full_attention"] * 2 + ["sliding_attention"],
    "activation_sparsity_pattern": [0.9, 0.9, 0.0, 0.0, 0.0],
}
MINIMAX = {
    "model_type": "minimax",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_local_experts": 4,
    "layer_types": ["linear_attention", "linear_attention", "full_attention"] * 2,
}


GEMMA4 = {
    **{name: value for name, value in GEMMA3N.items() if name != "activation_sparsity_pattern"},
    "model_type": "gemma4_text",
    "num_hidden_layers": 6,
    "global_head_dim": 32,
    "num_kv_shared_layers": 2,
    "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * 2,
}
GLM = {
    "model_type": "glm4_moe",
    "vocab_size": 300,
    "hidden_size": 64,
    "intermediate_size": 128,
    "moe_intermediate_size": 32,
    "num_hidden_layers": 5,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "first_k_dense_replace": 2,
    "n_routed_experts": 8,
    "n_group": 1,
    "topk_group": 1,
    "num_experts_per_tok": 2,
}
GEMMA3 = {
    **{name: value for name, value in GEMMA3N.items() if name != "activation_sparsity_pattern"},
    "model_type": "gemma3_text",
    "num_hidden_layers": 7,
    "layer_types": ["sliding_attention"] * 5 + ["full_attention", "sliding_attention"],
}


@pytest.mark.parametrize(
    ("config", "recompute"),
    [
        (GEMMA3N, "none"),
        (GEMMA3N, "full"),
        (GEMMA3N, "every-2"),
        ({**GEMMA3N, "num_kv_shared_layers": 2}, "none"),
        ({**GEMMA3N, "num_kv_shared_layers": 2}, "full"),
        ({**GEMMA3N, "num_kv_shared_layers": 2}, "every-2"),
        (GEMMA4, "full"),
        (GEMMA4, "every-3"),
        ({**GEMMA4, "attention_k_eq_v": True}, "full"),
        (GEMMA3, "every-2"),
        (GLM, "every-3"),
        ({**MINIMAX, "block_size": 256}, "none"),
        ({**MINIMAX, "block_size": 32}, "none"),
        ({**MINIMAX, "block_size": 48}, "full"),
    ],
)
@pytest.mark.parametrize("precision", ["bf16-mixed", "fp32"])
def test_several_states_and_blocks_of_attention(config, recompute, precision):
    options = {"precision": precision, "optimizer": "sgd", "recompute": recompute}
    run = Run(config, sequence=160, micro_batch=2, **options)
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.007)
    assert flops(run) == trace.flops(run)


def test_a_grid_of_lengths_where_attention_goes_by_blocks():
    run = Run({**MINIMAX, "block_size": 32}, sequence=64, optimizer="sgd")
    lengths = [31, 64, 100]
    grid = sizing.memory_grid(run, [[1], [2]], [lengths])
    for row, batch in enumerate((1, 2)):
        for column, length in enumerate(lengths):
            one = replace(run, micro_batch=batch, sequence=length)
            assert grid[row, column] == memory(one).total


@pytest.mark.parametrize("config", [GEMMA3N, {**MINIMAX, "block_size": 32}])
def test_selective_recompute_of_layers_of_another_kind_is_refused(config):
    run = Run(config, sequence=64, recompute="selective")
    for measure in (memory, flops):
        with pytest.raises(ValueError, match="recompute: 'selective' given"):
            measure(run)


SPARSE = ("mixtral", "olmoe", "qwen3_moe", "gpt_oss", "deepseek_v3", "llama4_text", "minimax")


@pytest.mark.parametrize("family", SPARSE)
def test_frozen_experts_keep_no_rows(family):
    run = Run(Model(small(family, 1)), sequence=160, micro_batch=2, lora=8, optimizer="sgd")
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.01)
    assert flops(run) == trace.flops(run)


@pytest.mark.parametrize("precision", ["fp32", "bf16-mixed"])
def test_the_last_layer_may_be_the_only_one_of_its_kind(precision):
    config = {**GLM, "num_hidden_layers": 4, "first_k_dense_replace": 3, "n_routed_experts": 64}
    run = Run(config, sequence=512, micro_batch=2, precision=precision, optimizer="sgd")
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.002)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_a_layer_that_is_used_twice_has_one_adapter(device):
    run = Run(GEMMA3N, sequence=160, micro_batch=2, lora=8, optimizer="sgd")
    held = traced(run, device=device)
    assert memory(run, device=device).total == pytest.approx(held.total, rel=0.002)


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16", "fp32"])
def test_a_bias_by_distance_of_the_scores_dtype_is_not_copied(precision):
    config = {"model_type": "falcon", "vocab_size": 2000, "hidden_size": 64, "alibi": True}
    config |= {"num_hidden_layers": 3, "num_attention_heads": 4, "parallel_attn": False}
    config |= {"multi_query": False, "bias": True, "new_decoder_architecture": False}
    run = Run(config, sequence=160, micro_batch=2, precision=precision, optimizer="sgd")
    assert memory(run).total == pytest.approx(traced(run).total, rel=0.001)


@pytest.mark.parametrize("family", ["gemma3n_text", "gemma4_text", "deepseek_v2", "qwen2_moe"])
@pytest.mark.parametrize("recompute", ["none", "full"])
def test_flops_with_adapters(family, recompute):
    run = Run(Model(small(family, recompute)), sequence=40, lora=4, recompute=recompute)
    assert flops(run) == trace.flops(run)


def test_torch_keeps_no_rows_of_frozen_experts():
    """What the trace says in the place of torch's product, of the product itself."""
    rows = torch.randn(32, 64, dtype=torch.bfloat16, requires_grad=True)
    ends = torch.tensor([8, 16, 24, 32], dtype=torch.int32)
    for product in (torch.nn.functional.grouped_mm, trace.grouped.product):
        for trained in (True, False):
            weight = torch.randn(4, 64, 48, dtype=torch.bfloat16, requires_grad=trained)
            kept = []
            with torch.autograd.graph.saved_tensors_hooks(
                lambda x, kept=kept: kept.append(x.shape) or x, lambda x: x
            ):
                out = product(rows, weight, offs=ends)
            out.backward(torch.randn_like(out))
            assert (rows.shape in kept) == trained
            assert (weight.grad is not None) == trained
