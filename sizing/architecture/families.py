"""The architecture families that have closed forms, by transformers' model_type.

A family that is built like Llama is a row of `family_rows`; the older ones are functions in
`classic`; Gemma 3n, Gemma 4 and MiniMax have a file each, latent attention is below. Tensor names
are transformers' own (the layer's number left out), so that each can be compared with the real
model.
"""

from __future__ import annotations

from collections.abc import Callable

from . import classic, gemma3n, gemma4, minimax
from .decoder import assemble, decoder
from .family_rows import TRAITS
from .fields import Fields
from .weights import Architecture, linear, rms_norm


def _latent(f: Fields) -> Architecture:
    """Multi-head latent attention, DeepSeek V2 and V3 (arXiv:2412.19437, section 2.1.1)."""
    hidden, heads = f.size("hidden_size"), f.size("num_attention_heads")
    kv_heads = f.size("num_key_value_heads", heads)
    f.divides("num_key_value_heads", "num_attention_heads", kv_heads, heads)
    rope, nope = f.size("qk_rope_head_dim"), f.size("qk_nope_head_dim")
    value, kv_rank = f.size("v_head_dim"), f.size("kv_lora_rank")
    query = nope + rope
    bias = f.flag("attention_bias")
    prefix = "layers.*.self_attn"
    if f.get("q_lora_rank") is None:
        queries = linear(f"{prefix}.q_proj", heads * query, hidden, "attention")
    else:
        rank = f.size("q_lora_rank")
        queries = (
            *linear(f"{prefix}.q_a_proj", rank, hidden, "attention", bias),
            *rms_norm(f"{prefix}.q_a_layernorm", rank),
            *linear(f"{prefix}.q_b_proj", heads * query, rank, "attention"),
        )
    attention = (
        *queries,
        *linear(f"{prefix}.kv_a_proj_with_mqa", kv_rank + rope, hidden, "attention", bias),
        *rms_norm(f"{prefix}.kv_a_layernorm", kv_rank),
        *linear(f"{prefix}.kv_b_proj", heads * (nope + value), kv_rank, "attention"),
        *linear(f"{prefix}.o_proj", hidden, heads * value, "attention", bias),
    )
    return assemble(f, attention, heads, kv_heads, query, value)


_OWN: dict[str, Callable[[Fields], Architecture]] = {
    "gpt2": classic.gpt2,
    "gpt_neox": classic.gpt_neox,
    "opt": classic.opt,
    "gpt_bigcode": classic.gpt_bigcode,
    "gptj": classic.gptj,
    "gpt_neo": classic.gpt_neo,
    "bloom": classic.bloom,
    "mpt": classic.mpt,
    "falcon": classic.falcon,
    "gemma3n_text": gemma3n.gemma3n,
    "gemma4_text": gemma4.gemma4,
    "minimax": minimax.minimax,
    "deepseek_v2": _latent,
    "deepseek_v3": _latent,
}
FAMILIES: dict[str, Callable[[Fields], Architecture]] = {**dict.fromkeys(TRAITS, decoder), **_OWN}
