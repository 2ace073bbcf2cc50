"""One row a family: what sets its layers apart from Llama's.

To add a family that is built like these, add a row (and its defaults, with
`python -m sizing.trace.defaults`). Each field is named for what it says of the model; beside a row
stands what to look for in modeling_<family>.py of transformers 5.23.
"""

from __future__ import annotations

from dataclasses import replace

from .traits import Experts, Traits

_AROUND = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_AFTER = (None, "post_attention_layernorm", None, "post_feedforward_layernorm")
_ONE = ("input_layernorm", None, None, None)

LLAMA = Traits(mlp_bias="mlp_bias", whole_heads=True)
_MISTRAL = Traits(qkv_bias=False, out_bias=False, window="always")
_QWEN2 = Traits(qkv_bias=True, out_bias=False, window="by type", head_dim=False)
_QWEN3 = Traits(qk_norm="each head", window="by type")
_GEMMA = Traits(norm="rms, 1 + weight", scaled_embedding="within")
_GEMMA2 = replace(
    _GEMMA,
    norms=_AROUND,
    activation="hidden_activation",
    window="by type",
    full_every=2,
    softcaps=True,
    capped_by_kernel=True,
    whole_heads=True,
)
_OLMO2 = Traits(
    norms=_AFTER,
    norm="rms, scaled in fp32",
    qk_norm="all heads",
    rotary_fp32=True,
    head_dim=False,
)
_GLM = Traits(
    out_bias=False,
    mlp="fused",
    mlp_names=("gate_up_proj", "down_proj"),
    rotary="repeated",
    rotary_share=0.5,
    rotated_in_part=True,
)
_GRANITE = Traits(
    mlp_bias="mlp_bias",
    scaled_embedding="after",
    scaled_residual=True,
    scaled_logits=True,
)
_COHERE = Traits(
    norms=_ONE,
    norm="layer, in fp32",
    parallel=True,
    rotated_in_fp32=True,
    scaled_logits=True,
    qk_norm="heads apart",
    qk_flag="use_qk_norm",
)
_SIGMOID = Experts(
    count="n_routed_experts",
    router="sigmoid",
    layers="after the first",
    shared="mlp.shared_experts",
    shared_count="n_shared_experts",
)
_PLAIN = {"mlp": "plain", "mlp_names": ("up_proj", "down_proj")}

TRAITS: dict[str, Traits] = {
    "llama": LLAMA,
    "mistral": _MISTRAL,
    "ministral": replace(_MISTRAL, window="by type"),
    "ministral3": replace(_MISTRAL, scaled_queries=True),
    "qwen2": _QWEN2,
    "qwen3": _QWEN3,
    "gemma": replace(_GEMMA),
    "gemma2": _GEMMA2,
    "gemma3_text": replace(
        _GEMMA2,
        qk_norm="each head",
        full_every="sliding_window_pattern",
        rotary_sets=True,
        softcaps=False,
        capped_by_kernel=False,
    ),
    "olmo": Traits(norm="layer, no weights", rotary_fp32=True),
    "olmo2": _OLMO2,
    "olmo3": replace(_OLMO2, window="by type", full_every=4, rotary_sets=True),
    "phi": Traits(
        norms=_ONE,
        norm="layer",
        final_norm="final_layernorm",
        parallel=True,
        residual_last=True,
        qkv_bias=True,
        out_bias=True,
        out="dense",
        qk_norm="each head",
        qk_names=("q_layernorm", "k_layernorm"),
        qk_flag="qk_layernorm",
        mlp="plain",
        mlp_names=("fc1", "fc2"),
        mlp_bias=True,
        head_bias=True,
        rotary_share=0.5,
        rotated_in_part=True,
        dropouts=("resid_pdrop", "resid_pdrop", "embd_pdrop"),
    ),
    "phi3": Traits(
        qkv_bias=False,
        out_bias=False,
        fused_qkv="qkv_proj",
        mlp="fused",
        mlp_names=("gate_up_proj", "down_proj"),
        window="always",
        rotated_in_part=True,
        dropouts=("resid_pdrop", "resid_pdrop", None),
    ),
    "glm": _GLM,
    "glm4": replace(
        _GLM,
        norms=(
            "input_layernorm",
            "post_self_attn_layernorm",
            "post_attention_layernorm",
            "post_mlp_layernorm",
        ),
    ),
    "granite": _GRANITE,
    "starcoder2": Traits(
        norm="layer",
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp="plain",
        mlp_names=("c_fc", "c_proj"),
        mlp_bias="use_bias",
        window="always",
        dropouts=("residual_dropout", "residual_dropout", "embedding_dropout"),
    ),
    "stablelm": Traits(
        norm="layer",
        parallel="use_parallel_residual",
        qkv_bias="use_qkv_bias",
        out_bias=False,
        qk_norm="a norm a head",
        qk_names=("q_layernorm", "k_layernorm"),
        qk_flag="qk_layernorm",
        rotary_share=0.25,
        rotated_in_part=True,
        head_dim=False,
        dropouts=(None, "hidden_dropout", None),
    ),
    "cohere": _COHERE,
    "cohere2": replace(
        _COHERE,
        qk_norm=None,
        qk_flag=None,
        window="by type",
        full_every="sliding_window_pattern",
        without_positions="full",
        head_dim=False,
    ),
    "smollm3": Traits(
        mlp_bias="mlp_bias",
        window="by type",
        without_positions="listed",
    ),
    "exaone4": Traits(
        norms=_AFTER,
        qkv_bias=False,
        out_bias=False,
        qk_norm="each head",
        window="by type",
        full_every="sliding_window_pattern",
        without_positions="full if windows",
    ),
    "ernie4_5": Traits(
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        rotary="repeated",
        rotary_fp32=True,
        rotated_in_fp32=True,
        attention_dropout=None,
    ),
    "seed_oss": Traits(
        mlp_bias="mlp_bias",
        out_bias="attention_out_bias",
        dropouts=("residual_dropout", "residual_dropout", None),
    ),
    "arcee": Traits(mlp_bias="mlp_bias", whole_heads=True, **_PLAIN),
    "apertus": Traits(
        norms=("attention_layernorm", None, "feedforward_layernorm", None),
        qk_norm="each head",
        **_PLAIN,
    ),
    "nemotron": Traits(
        norm="layer, 1 + weight",
        mlp_bias="mlp_bias",
        rotary_share=0.5,
        rotated_in_part=True,
        **_PLAIN,
    ),
    "hunyuan_v1_dense": Traits(
        qk_norm="each head",
        qk_names=("query_layernorm", "key_layernorm"),
        qk_after_rotation=True,
    ),
    "hyperclovax": replace(
        _GRANITE,
        norms=("input_layernorm", "post_norm1", "post_attention_layernorm", "post_norm2"),
        norm_flag="use_post_norm",
        whole_heads=True,
    ),
    # -- mixtures of experts
    "mixtral": replace(
        _MISTRAL,
        experts=Experts(width="intermediate_size", router="softmax", jitter="router_jitter_noise"),
    ),
    "qwen3_moe": replace(_QWEN3, window="always", experts=Experts(layers="step")),
    "qwen2_moe": replace(
        _QWEN2,
        qkv_bias="qkv_bias",
        experts=Experts(
            count="num_experts",
            layers="step",
            shared="mlp.shared_expert",
            shared_width="shared_expert_intermediate_size",
            shared_gate="mlp.shared_expert_gate",
        ),
    ),
    "olmoe": Traits(
        qk_norm="all heads",
        experts=Experts(count="num_experts", width="intermediate_size"),
    ),
    "granitemoe": replace(
        _GRANITE,
        mlp_bias=False,
        experts=Experts(
            width="intermediate_size",
            router="softmax of the chosen",
            gate="block_sparse_moe.router",
            stack="block_sparse_moe.experts",
        ),
    ),
    "glm4_moe": Traits(
        out_bias=False,
        qk_norm="each head",
        qk_flag="use_qk_norm",
        rotary_share=0.5,
        rotated_in_part=True,
        experts=_SIGMOID,
    ),
    "dots1": replace(_QWEN3, experts=_SIGMOID),
    "minimax_m2": Traits(
        qkv_bias=False,
        out_bias=False,
        qk_norm="all heads",
        rotated_in_part=True,
        experts=Experts(width="intermediate_size", router="plain sigmoid"),
    ),
    "ernie4_5_moe": Traits(
        qkv_bias="use_bias",
        out_bias="use_bias",
        mlp_bias="use_bias",
        head_bias="use_bias",
        rotary="repeated",
        rotary_fp32=True,
        rotated_in_fp32=True,
        attention_dropout=None,
        experts=Experts(
            count="moe_num_experts",
            chosen="moe_k",
            router="fp32 softmax",
            layers="interval",
            shared="mlp.shared_experts",
            shared_count="moe_num_shared_experts",
        ),
    ),
    "gpt_oss": Traits(
        norm="rms, scaled in fp32",
        sinks=True,
        window="by type",
        full_every=2,
        rotary="two halves",
        experts=Experts(
            width="intermediate_size",
            router="softmax of the chosen, biased",
            gate="mlp.router",
            bias=True,
            transposed=True,
        ),
    ),
    "llama4_text": Traits(
        mlp_root="feed_forward",
        softmax_in_fp32=False,
        mlp_width="intermediate_size_mlp",
        window="by type",
        rotary="complex",
        without_positions="listed",
        experts=Experts(
            width="intermediate_size",
            router="every expert",
            gate="feed_forward.router",
            stack="feed_forward.experts",
            layers="listed",
            shared="feed_forward.shared_expert",
            shared_width="intermediate_size",
            transposed=True,
            every=True,
        ),
    ),
    # -- latent attention (its own weights, in `families`)
    "deepseek_v3": Traits(experts=_SIGMOID),
    "deepseek_v2": Traits(
        mlp_bias="mlp_bias",
        rotary="complex",
        experts=replace(_SIGMOID, router="fp32 softmax, scaled"),
    ),
    # -- written in functions of their own
    "gemma4_text": replace(
        _GEMMA2,
        norm="rms, all in fp32",
        rotary_sets=True,
        softcaps=False,
        capped_by_kernel=False,
        experts=Experts(
            count="num_experts",
            chosen="top_k_experts",
            router="scaled softmax",
            gate="router.proj",
            stack="experts",
        ),
    ),
    "gemma3n_text": replace(
        _GEMMA2,
        norm="rms, all in fp32",
        rotary_sets=True,
        softcaps=False,
        capped_by_kernel=False,
    ),
    "minimax": replace(
        _MISTRAL,
        experts=Experts(width="intermediate_size", router="softmax", jitter="router_jitter_noise"),
    ),
    "gpt2": Traits(
        norm="layer",
        input_first=True,
        may_upcast_scores=True,
        softmax_in_fp32=False,
        attention_dropout="attn_pdrop",
        activation="activation_function",
        dropouts=("resid_pdrop", "resid_pdrop", "embd_pdrop"),
    ),
    "gpt_neox": Traits(
        norm="layer",
        rotary_share=0.25,
        rotated_in_part=True,
        dropouts=("hidden_dropout", "hidden_dropout", "hidden_dropout"),
    ),
    "opt": Traits(norm="layer", activation="activation_function"),
    "gpt_bigcode": Traits(
        norm="layer",
        attention_dropout="attn_pdrop",
        activation="activation_function",
        dropouts=("resid_pdrop", "resid_pdrop", "embd_pdrop"),
    ),
    "gptj": Traits(
        norm="layer",
        fused_attention=False,
        attention_dropout="attn_pdrop",
        activation="activation_function",
        dropouts=("resid_pdrop", "resid_pdrop", "embd_pdrop"),
    ),
    "gpt_neo": Traits(
        norm="layer",
        fused_attention=False,
        activation="activation_function",
        dropouts=("resid_dropout", "resid_dropout", "embed_dropout"),
    ),
    "bloom": Traits(norm="layer", fused_attention=False),
    "mpt": Traits(norm="layer", fused_attention=False),
    "falcon": Traits(norm="layer", softmax_in_fp32=False, always_masked=True),
}
