"""Config fields of a family: other names they answer to, defaults, and checks as they are taken."""

from __future__ import annotations

# GPT-2's config answers to the common names too.
ALIASES = {
    "gpt2": {
        "hidden_size": "n_embd",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "n_positions",
    },
    "qwen3_moe": {"num_experts": "num_local_experts"},
    "mixtral": {"num_experts": "num_local_experts"},
    "deepseek_v3": {"num_local_experts": "n_routed_experts"},
}

# transformers 5.23's defaults of the optional fields that size a model. The sizes that make a model
# what it is (width, layers, heads, vocabulary, MLP) have no default here: a config must state them.
DEFAULTS: dict[str, dict] = {
    "gpt2": {
        "n_positions": 1024,
        "n_inner": None,
        "tie_word_embeddings": True,
        "resid_pdrop": 0.1,
        "embd_pdrop": 0.1,
        "attn_pdrop": 0.1,
    },
    "gpt_neox": {
        "tie_word_embeddings": False,
        "attention_bias": True,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        "use_parallel_residual": True,
    },
    "opt": {
        "max_position_embeddings": 2048,
        "tie_word_embeddings": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
        "do_layer_norm_before": True,
        "word_embed_proj_dim": None,
        "dropout": 0.1,
        "attention_dropout": 0.0,
    },
    "llama": {
        "num_key_value_heads": None,
        "head_dim": None,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "mlp_bias": False,
    },
    "mistral": {
        "num_key_value_heads": 8,
        "head_dim": None,
        "tie_word_embeddings": False,
        "sliding_window": 4096,
    },
    "qwen2": {
        "num_key_value_heads": 32,
        "tie_word_embeddings": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "qwen3": {
        "num_key_value_heads": 32,
        "head_dim": 128,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "max_window_layers": 28,
    },
    "gemma2": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "sliding_window": 4096,
        "final_logit_softcapping": 30.0,
        "attn_logit_softcapping": 50.0,
    },
    "gemma3_text": {
        "num_key_value_heads": 4,
        "head_dim": 256,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "sliding_window": 4096,
        "final_logit_softcapping": None,
        "attn_logit_softcapping": None,
    },
    "olmo2": {"num_key_value_heads": None, "tie_word_embeddings": False, "attention_bias": False},
    "mixtral": {
        "num_key_value_heads": 8,
        "head_dim": None,
        "tie_word_embeddings": False,
        "sliding_window": None,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
    },
    "qwen3_moe": {
        "num_key_value_heads": 4,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "use_sliding_window": False,
        "sliding_window": 4096,
        "num_local_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
    },
    "deepseek_v3": {
        "num_key_value_heads": 128,
        "tie_word_embeddings": False,
        "attention_bias": False,
        "moe_intermediate_size": 2048,
        "n_shared_experts": 1,
        "n_routed_experts": 256,
        "num_experts_per_tok": 8,
        "kv_lora_rank": 512,
        "q_lora_rank": 1536,
        "qk_rope_head_dim": 64,
        "qk_nope_head_dim": 128,
        "v_head_dim": 128,
        "first_k_dense_replace": 3,
    },
}


class Fields:
    """Config fields, checked as they are taken. `config` has the family's defaults filled in."""

    def __init__(self, family: str, config: dict):
        self.family = family
        aliases = ALIASES.get(family, {})
        renamed = {aliases.get(key, key): value for key, value in config.items()}
        self.config = {**DEFAULTS[family], **renamed, "model_type": family}

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = 10**9) -> int:
        """A whole number; a missing or null field takes the default, or is an error without one."""
        value = self.config.get(name)
        if value is None:
            value = default
        if value is None:
            raise ValueError(
                f"{name}: missing from the {self.family!r} config; needed: a whole number "
                f">= {least}"
            )
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name}: {value!r} given; allowed: a whole number >= {least} and <= {most:,}"
            )
        return value

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers; as each may be of its own kind, there is a limit."""
        return self.size(name, most=100_000)

    def items(self, name: str) -> list:
        """A list; a missing or null one is empty."""
        value = self.config.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {value!r} given; allowed: a list")
        return list(value or [])

    def flag(self, name: str) -> bool:
        value = self.config.get(name)
        if value is None:
            value = DEFAULTS[self.family].get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {value!r} given; allowed: true or false")
        return value

    def rate(self, name: str) -> float:
        value = self.config.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name}: {value!r} given; allowed: a number from 0 to 1")
        return value

    def divides(self, part: str, whole: str, part_value: int, whole_value: int) -> int:
        """whole / part, an error if it leaves a remainder."""
        if whole_value % part_value:
            raise ValueError(
                f"{part}: {part_value} given; allowed: a divisor of {whole} = {whole_value}"
            )
        return whole_value // part_value
