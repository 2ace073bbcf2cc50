"""The independent references that tests compare with: real transformers models, torch's counter."""

import random

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoConfig, AutoModelForCausalLM


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
            "kv_lora_rank": rng.randrange(4, 20),
            "qk_rope_head_dim": rng.choice([4, 8]),
            "qk_nope_head_dim": rng.choice([8, 12]),
            "v_head_dim": rng.choice([8, 10, 16]),
            "attention_bias": rng.random() < 0.5,
            "moe_intermediate_size": rng.randrange(4, 40),
            "n_shared_experts": rng.choice([1, 2]),
            "n_routed_experts": 8,
            "n_group": 2,
            "topk_group": 1,
            "num_experts_per_tok": rng.choice([1, 2, 3]),
            "first_k_dense_replace": rng.choice([0, 1, 2, 9]),
        }
    common["num_key_value_heads"] = rng.choice([h for h in (1, 2, heads) if heads % h == 0])
    if family not in ("qwen2", "olmo2"):
        common["head_dim"] = head_dim
    if family in ("llama", "qwen3", "gemma2", "gemma3_text", "olmo2", "qwen3_moe"):
        common["attention_bias"] = rng.random() < 0.5
    if family == "llama":
        common["mlp_bias"] = rng.random() < 0.5
    if family in ("mistral", "gemma2", "gemma3_text", "mixtral"):
        common["sliding_window"] = rng.choice([8, 16])
    if family in ("qwen2", "qwen3"):
        common |= {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}
    if family in ("mixtral", "qwen3_moe"):
        common |= {"num_local_experts": 6, "num_experts_per_tok": rng.choice([1, 2, 4])}
    if family == "qwen3_moe":
        common |= {
            "moe_intermediate_size": rng.randrange(4, 40),
            "decoder_sparse_step": rng.choice([1, 2]),
            "mlp_only_layers": rng.choice([[], [0]]),
        }
    return common
