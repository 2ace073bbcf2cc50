"""What can set a family's layers apart from Llama's; `family_rows` has a row for each family.

`decoder` turns a row into weights and `sizing.footprint` into operations.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Experts:
    """A mixture of experts in the place of the MLP; names of config fields and of modules.

    `layers` is the rule that says which layers have one ("all", "step", "after the first",
    "interval", "listed"). `router` names how it scores: "softmax" (normalised), "softmax as
    configured" (norm_topk_prob), "softmax of the chosen", "sigmoid", "fp32 softmax", ... `every`:
    transformers multiplies every token with every expert, whatever the router says. `jitter` is
    the amplitude of noise that tokens are multiplied with before they are routed.
    """

    count: str = "num_local_experts"
    width: str = "moe_intermediate_size"
    chosen: str = "num_experts_per_tok"
    router: str = "softmax as configured"
    gate: str = "mlp.gate"
    stack: str = "mlp.experts"
    layers: str = "all"
    shared: str | None = None
    shared_width: str | None = None
    shared_count: str | None = None
    shared_gate: str | None = None
    jitter: str | None = None
    bias: bool = False
    transposed: bool = False
    every: bool = False


@dataclass(frozen=True)
class Traits:
    """How a family's layers differ from Llama's. A bias is True, False or the name of a flag.

    Attributes:
        norms: names of the norms before and after attention, before and after the MLP.
        norm: "rms"; "rms, 1 + weight"; "rms, scaled in fp32"; "layer"; "layer, in fp32" (Cohere's,
            written out); "layer, no weights"; "layer, 1 + weight".
        norm_flag: config flag that the norms after attention and MLP depend on.
        parallel: attention and MLP read the same norm; True, False or the name of a flag;
            `residual_last` says that their outputs are added first.
        fused_qkv: one projection for queries, keys and values.
        input_first: weights of linear layers are (in, out), as those of GPT-2's Conv1D.
        qk_norm: which norm queries and keys get: "each head", "all heads", "heads apart" (a weight
            for each head's elements), "a norm a head" (a module
            each) or none; `qk_names` its modules, `qk_flag` the config flag.
        qk_after_rotation: the norm follows the rotary positions.
        mlp: "gated", "fused" (gate and up in one matrix) or "plain"; `mlp_names` its modules.
        window: "never"; "always" where sliding_window is set; "by type" (layer_types).
        full_every: without layer_types, each such layer sees everything (a number or a field).
        rotated_in_part: the code cuts the head in a rotated part and the rest (even if nothing is
            left); `rotary_share` is that part where the config does not say.
        rotary: "halves"; "repeated" (cosines repeated in each layer); "complex".
        rotary_fp32: cosines are kept in fp32; `rotated_in_fp32`: queries and keys are cast as well.
        rotary_sets: one set of cosines for each kind of layer.
        without_positions: layers that are not rotated: "", "listed", "full", "full if windows".
        fused_attention: transformers has more than the written-out attention; without, "flash" runs
            as "eager". `always_masked`: it hands the kernel a mask of s x s in every case.
        dropouts: fields of the rates after attention and MLP; of the embedding.
        scaled_embedding, scaled_residual, scaled_logits: multiplied with a number; the embedding
            "within" its module or "after" it.
        may_upcast_scores: a flag of the config has eager scores computed in fp32.
    """

    norms: tuple[str | None, str | None, str | None, str | None] = (
        "input_layernorm",
        None,
        "post_attention_layernorm",
        None,
    )
    norm: str = "rms"
    norm_flag: str | None = None
    final_norm: str = "norm"
    parallel: bool | str = False
    residual_last: bool = False
    qkv_bias: bool | str = "attention_bias"
    out_bias: bool | str = "attention_bias"
    fused_qkv: str | None = None
    input_first: bool = False
    out: str = "o_proj"
    qk_norm: str | None = None
    qk_names: tuple[str, str] = ("q_norm", "k_norm")
    qk_flag: str | None = None
    qk_after_rotation: bool = False
    sinks: bool = False
    scaled_queries: bool = False
    mlp: str = "gated"
    mlp_root: str = "mlp"
    mlp_names: tuple[str, ...] = ("gate_proj", "up_proj", "down_proj")
    mlp_bias: bool | str = False
    mlp_width: str = "intermediate_size"
    head_bias: bool | str = False
    activation: str = "hidden_act"
    head_dim: bool = True
    whole_heads: bool = False
    window: str = "never"
    full_every: int | str | None = None
    rotary_share: float = 1.0
    rotated_in_part: bool = False
    rotary: str = "halves"
    rotary_fp32: bool = False
    rotated_in_fp32: bool = False
    rotary_sets: bool = False
    without_positions: str = ""
    softcaps: bool = False
    capped_by_kernel: bool = False
    scaled_embedding: str = ""
    scaled_residual: bool = False
    scaled_logits: bool = False
    softmax_in_fp32: bool = True
    may_upcast_scores: bool = False
    fused_attention: bool = True
    always_masked: bool = False
    attention_dropout: str | None = "attention_dropout"
    dropouts: tuple[str | None, str | None, str | None] = (None, None, None)
    experts: Experts | None = None
