"""Configs that stand around a text model's: multimodal wrappers, and other names of one family."""

from __future__ import annotations

# Text models whose weights are those of another family; their defaults may differ.
SAME_WEIGHTS = {
    "qwen2_vl_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen3_vl_text": "qwen3",
    "qwen3_vl_moe_text": "qwen3_moe",
    "kimi_k2": "deepseek_v3",
    "minimax_text_01": "minimax",
    "minimax_m1": "minimax",
}
