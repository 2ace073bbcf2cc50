"""Configs that stand around a text model's: multimodal wrappers, and other names of one family."""

from __future__ import annotations

# Text models whose weights are those of another family; their defaults may differ. What their code
# adds are positions of pictures and sound: rotary angles in sections, of the same size. Mistral 4's
# router scores by softmax, not by sigmoid.
SAME_WEIGHTS = {
    "emu3_text_model": "llama",
    "exaone4_5_text": "exaone4",
    "gemma4_unified_text": "gemma4_text",
    "glm4v_moe_text": "glm4_moe",
    "glm4v_text": "glm4",
    "glm_image_text": "glm4",
    "glm_ocr_text": "glm4",
    "granite4_vision_text": "granite",
    "granite_docling_text": "granite",
    "hunyuan_vl_text": "hunyuan_v1_dense",
    "kimi_k2": "deepseek_v3",
    "minimax_m1": "minimax",
    "minimax_text_01": "minimax",
    "mistral4": "deepseek_v3",
    "paddleocr_vl_text": "ernie4_5",
    "qwen2_5_omni_text": "qwen2",
    "qwen2_5_vl_text": "qwen2",
    "qwen2_vl_text": "qwen2",
    "qwen3_omni_moe_text": "qwen3_moe",
    "qwen3_vl_moe_text": "qwen3_moe",
    "qwen3_vl_text": "qwen3",
}

# Fields that their code does not ask for: it is written for one value.
FIXED = {
    "gemma4_unified_text": {"hidden_size_per_layer_input": 0},
    "glm4v_text": {"attention_bias": True},
    "glm_ocr_text": {"attention_bias": False},
}
