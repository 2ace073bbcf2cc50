"""The independent references that tests compare with: real transformers models, torch's counter."""

import random

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM

from sizing.architecture.fields import known


def build(config: dict, attention: str = "eager", device: str = "meta") -> torch.nn.Module:
    """The transformers model of a config on the meta device (or, in a fake mode, on another)."""
    with torch.device(device):
        return AutoModelForCausalLM.from_config(
            AutoConfig.for_model(**config), attn_implementation=attention
        )


def count_step(config: dict, batch: int, sequence: int, recompute: bool = False) -> tuple[int, int]:
    """(forward, forward + backward) FLOPs of a training step, as torch's FlopCounterMode counts."""
    with FakeTensorMode():
        model = build(config, device="cpu").train()
        if recompute:
            model.activation_checkpointing_enable(
                activation_checkpointing_kwargs={"use_reentrant": False}
            )
        tokens = torch.zeros(batch, sequence, dtype=torch.long)
        with FlopCounterMode(display=False) as forward:
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    return forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()


def random_config(family: str, rng: random.Random) -> dict:
    """A small config of a family with every field that changes its size drawn at random."""
    heads = rng.choice([2, 4, 6])
    head_dim = rng.choice([8, 16, 32])
    hidden = heads * rng.choice([8, 16, 24])
    common = {
        "model_type": family,
        "vocab_size": rng.randrange(100, 900),
        "hidden_size": hidden,
        "num_hidden_layers": rng.randrange(1, 7),
        "num_attention_heads": heads,
        "tie_word_embeddings": rng.random() < 0.5,
        "pad_token_id": 0,  # the defaults of some families lie outside these small vocabularies
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    if family == "gpt2":
        n = {
            "hidden_size": "n_embd",
            "num_hidden_layers": "n_layer",
            "num_attention_heads": "n_head",
        }
        extra = {
            "n_positions": rng.randrange(64, 200),
            "n_inner": rng.choice([None, 3 * hidden, 50]),
            "resid_pdrop": rng.choice([0.0, 0.1]),
        }
        return {n.get(key, key): value for key, value in common.items()} | extra
    if family == "opt":
        return common | {
            "ffn_dim": rng.randrange(10, 200),
            "max_position_embeddings": rng.randrange(64, 200),
            "word_embed_proj_dim": rng.choice([hidden, 24]),
            "do_layer_norm_before": rng.random() < 0.7,
            "enable_bias": rng.random() < 0.7,
            "layer_norm_elementwise_affine": rng.random() < 0.7,
            "dropout": rng.choice([0.0, 0.1]),
        }
    common["intermediate_size"] = rng.randrange(10, 200)
    if family == "gpt_neox":
        return common | {
            "attention_bias": rng.random() < 0.5,
            "use_parallel_residual": rng.random() < 0.5,
            "hidden_dropout": rng.choice([0.0, 0.1]),
        }
    if family == "deepseek_v3":
        return common | {
            "num_key_value_heads": heads,
            "q_lora_rank": rng.choice([None, 12]),
            "kv_lora_rank": rng.randrange(4, 20) & ~1,
            "qk_rope_head_dim": rng.choice([4, 8]),
            "qk_nope_head_dim": rng.choice([8, 12]),
            "v_head_dim": rng.choice([8, 10, 12]),
            "attention_bias": rng.random() < 0.5,
            "moe_intermediate_size": rng.randrange(4, 40),
            "n_shared_experts": rng.choice([1, 2]),
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": rng.choice([1, 2, 3]),
            "first_k_dense_replace": rng.choice([0, 1, 2, 9]),
        }
    if family in CLASSIC:
        return _classic(family, common, rng)
    if family == "gemma4_text":
        return _gemma4(common, rng)
    if family == "gemma3n_text":
        return _gemma3n(common, rng)
    if family == "minimax":
        return _minimax(common, rng)
    fields = known()["families"][family]["fields"]
    kv_heads = rng.choice([h for h in (1, 2, heads) if heads % h == 0])
    layers = common["num_hidden_layers"]
    drawn = common | {
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "sliding_window": rng.choice([8, 16]),
        "use_sliding_window": True,
        "max_window_layers": 1,
        "num_local_experts": 6,
        "num_experts": 6,
        "n_routed_experts": 8,
        "n_group": 2,
        "topk_group": 1,
        "num_experts_per_tok": rng.choice([1, 2, 4]),
        "moe_num_experts": 6,
        "moe_k": rng.choice([1, 2, 4]),
        "moe_num_shared_experts": rng.choice([0, 1, 2]),
        "moe_layer_start_index": rng.choice([0, 1]),
        "moe_intermediate_size": rng.randrange(4, 40),
        "intermediate_size_mlp": rng.randrange(10, 200),
        "shared_expert_intermediate_size": rng.randrange(4, 40),
        "n_shared_experts": rng.choice([1, 2]),
        "first_k_dense_replace": rng.choice([0, 1, 2, 9]),
        "decoder_sparse_step": rng.choice([1, 2]),
        "mlp_only_layers": rng.choice([[], [0]]),
        "interleave_moe_layer_step": rng.choice([1, 2]),
        "no_rope_layer_interval": rng.choice([2, 4]),
        "attention_chunk_size": rng.choice([8, 16]),
        "resid_pdrop": rng.choice([0.0, 0.1]),
        "embd_pdrop": rng.choice([0.0, 0.1]),
        "residual_dropout": rng.choice([0.0, 0.1]),
        "embedding_dropout": rng.choice([0.0, 0.1]),
        "hidden_dropout": rng.choice([0.0, 0.1]),
    }
    for flag in FLAGS:
        drawn[flag] = rng.random() < 0.5
    if family == "deepseek_v2":
        drawn |= {
            "q_lora_rank": rng.choice([None, 12]),
            "kv_lora_rank": rng.randrange(4, 20) & ~1,
            "qk_rope_head_dim": rng.choice([4, 8]),
            "qk_nope_head_dim": rng.choice([8, 12]),
            "v_head_dim": rng.choice([8, 10]),
            "num_key_value_heads": heads,
        }
    if layers < 4 and rng.random() < 0.5 and "layer_types" in fields and family in TYPED:
        drawn["layer_types"] = ["full_attention", "sliding_attention", "full_attention"][:layers]
    return {key: value for key, value in drawn.items() if key in fields or key in common}


FLAGS = (
    "attention_bias",
    "attention_out_bias",
    "mlp_bias",
    "use_bias",
    "qkv_bias",
    "use_qkv_bias",
    "use_qk_norm",
    "qk_layernorm",
    "use_post_norm",
    "use_parallel_residual",
    "norm_topk_prob",
)
TYPED = ("mistral", "ministral", "gemma2", "gemma3_text", "olmo3", "cohere2", "gpt_oss", "qwen3")
CLASSIC = ("gpt_bigcode", "gptj", "gpt_neo", "bloom", "mpt", "falcon")


def _gemma4(common: dict, rng: random.Random) -> dict:
    layers, types = common["num_hidden_layers"], ["sliding_attention", "full_attention"]
    kinds = [rng.choice(types) for _ in range(layers - 1)] + ["full_attention"]
    shared = rng.choice([0, 1, 2])
    if not set(kinds) <= set(kinds[: max(layers - shared, 0)]):  # none is left to share
        shared = 0
    sparse = rng.random() < 0.5
    return common | {
        "num_key_value_heads": rng.choice([1, 2]),
        "head_dim": rng.choice([8, 16]),
        "global_head_dim": rng.choice([16, 32]),
        "num_global_key_value_heads": rng.choice([None, 1, 2]),
        "attention_k_eq_v": rng.random() < 0.5,
        "attention_bias": rng.random() < 0.3,
        "num_kv_shared_layers": shared,
        "use_double_wide_mlp": rng.random() < 0.5,
        "hidden_size_per_layer_input": rng.choice([0, 4, 8]),
        "vocab_size_per_layer_input": rng.choice([50, 120]),
        "enable_moe_block": sparse,
        "num_experts": 6 if sparse else None,
        "top_k_experts": 2 if sparse else None,
        "moe_intermediate_size": rng.randrange(4, 40) if sparse else None,
        "sliding_window": rng.choice([8, 16]),
        "layer_types": kinds,
    }


def _gemma3n(common: dict, rng: random.Random) -> dict:
    layers, types = common["num_hidden_layers"], ["sliding_attention", "full_attention"]
    kinds = [rng.choice(types) for _ in range(layers)]
    sharing = rng.choice([0, 1, 2])
    if not set(kinds) <= set(kinds[: max(layers - sharing, 0)]):  # none is left to share
        sharing = 0
    width = common["intermediate_size"]
    return common | {
        "intermediate_size": rng.choice([width, [width + 2 * i for i in range(layers)]]),
        "num_key_value_heads": rng.choice([1, 2]),
        "head_dim": rng.choice([8, 16]),
        "attention_bias": rng.random() < 0.3,
        "num_kv_shared_layers": sharing,
        "altup_num_inputs": rng.choice([2, 3, 4]),
        "altup_correct_scale": rng.random() < 0.7,
        "laurel_rank": rng.choice([4, 8]),
        "hidden_size_per_layer_input": rng.choice([4, 8]),
        "vocab_size_per_layer_input": rng.choice([50, 120]),
        "activation_sparsity_pattern": [rng.choice([0.0, 0.95]) for _ in range(layers)],
        "sliding_window": rng.choice([8, 16]),
        "layer_types": kinds,
    }


def _minimax(common: dict, rng: random.Random) -> dict:
    layers, heads = common["num_hidden_layers"], common["num_attention_heads"]
    types = ["linear_attention", "full_attention"]
    return common | {
        "num_key_value_heads": rng.choice([h for h in (1, 2, heads) if heads % h == 0]),
        "head_dim": rng.choice([None, 8, 16]),
        "layer_types": rng.choice([None, [rng.choice(types) for _ in range(layers)]]),
        "block_size": rng.choice([8, 20, 256]),
        "sliding_window": rng.choice([None, 16]),
        "num_local_experts": 6,
        "num_experts_per_tok": rng.choice([1, 2, 4]),
    }


def _classic(family: str, common: dict, rng: random.Random) -> dict:
    """The families whose configs have names of their own."""
    layers, heads = common.pop("num_hidden_layers"), common.pop("num_attention_heads")
    hidden = common.pop("hidden_size")
    rate, inner = rng.choice([0.0, 0.1]), rng.choice([None, 50])
    sizes = {
        "gpt_bigcode": {
            "n_layer": layers,
            "n_head": heads,
            "n_embd": hidden,
            "n_positions": rng.randrange(64, 200),
            "multi_query": rng.random() < 0.5,
            "n_inner": inner,
            "resid_pdrop": rate,
        },
        "gptj": {
            "n_layer": layers,
            "n_head": heads,
            "n_embd": hidden,
            "n_positions": rng.randrange(64, 200),
            "rotary_dim": rng.choice([4, 8]),
            "n_inner": inner,
            "resid_pdrop": rate,
        },
        "gpt_neo": {
            "num_layers": layers,
            "num_heads": heads,
            "hidden_size": hidden,
            "intermediate_size": inner,
            "max_position_embeddings": rng.randrange(64, 200),
            "window_size": 8,
            "attention_types": [[["global"], 1], [["local"], layers - 1]],
            "resid_dropout": rate,
        },
        "bloom": {
            "n_layer": layers,
            "n_head": heads,
            "hidden_size": hidden,
            "hidden_dropout": rate,
        },
        "mpt": {
            "n_layers": layers,
            "n_heads": heads,
            "d_model": hidden,
            "max_seq_len": 512,
            "attn_config": {"attn_pdrop": 0},  # transformers takes whole numbers alone
        },
        "falcon": {
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "hidden_size": hidden,
            "ffn_hidden_size": inner,
            "bias": rng.random() < 0.5,
            "new_decoder_architecture": rng.random() < 0.5,
            "multi_query": rng.random() < 0.5,
            "parallel_attn": rng.random() < 0.7,
            "num_kv_heads": rng.choice([h for h in (1, 2, heads) if heads % h == 0]),
            "num_ln_in_parallel_attn": rng.choice([None, 1, 2]),
            "alibi": rng.random() < 0.3,
            "hidden_dropout": rate,
        },
    }
    drawn = common | sizes[family]
    if family == "falcon":  # the combinations that transformers can run
        new = drawn["new_decoder_architecture"]
        drawn["parallel_attn"] |= new
        drawn["num_ln_in_parallel_attn"] = drawn["num_ln_in_parallel_attn"] if new else None
        drawn["num_kv_heads"] = drawn["num_kv_heads"] if new else None
    return drawn
