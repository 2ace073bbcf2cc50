"""A layer of Llama and of every family of `sizing.architecture.family_rows`, on a tape.

A line an operation: to check it against the model, lay modeling_<family>.py beside it.
"""

from __future__ import annotations

from . import norms, rotary
from .activations import xielu
from .experts import mixture
from .layers import attend, heads_of
from .tape import Tensor


def decoder(f, x: Tensor) -> Tensor:
    """Attention and MLP, each between its norms and added to what came in."""
    t, traits = f.tape, f.traits
    mixer = _latent_attention if "kv_lora_rank" in f.config else attention
    before, after, before_mlp, after_mlp = traits.norms
    normed = f.norm(x, before) if before else x
    mlp = _module_of_mlp(f)
    f.frame = (x, normed)
    y = t.dropout(f.module("self_attn", mixer, normed), f.rate(traits.dropouts[0]))
    y = _residual(f, y, after)
    if f.switched(traits.parallel):
        z = t.dropout(f.module(mlp, _mlp, normed), f.rate(traits.dropouts[1]))
        if traits.residual_last:
            return t.add(t.add(y, z), x, "residual")
        return t.add(t.add(x, y, "residual"), z, "residual")
    x = t.add(x, y, "residual")
    y = f.norm(x, before_mlp) if before_mlp else x
    f.frame = (x, y)
    y = t.dropout(f.module(mlp, _mlp, y), f.rate(traits.dropouts[1]))
    return t.add(x, _residual(f, y, after_mlp), "residual")


def _residual(f, y: Tensor, after: str | None) -> Tensor:
    """What is added to the residual stream: normalised or scaled, in some families."""
    if after and f"{after}.weight" in f.named:
        y = f.norm(y, after)
    return f.tape.scale(y) if f.traits.scaled_residual else y


# -- attention


def attention(f, x: Tensor) -> Tensor:
    t, traits, heads, groups = f.tape, f.traits, f.block.heads, f.model.kv_heads
    eager = f.eager
    q, k, v = _projections(f, x)
    if traits.qk_norm == "all heads":
        q, k = (f.norm(y, f"self_attn.{n}") for y, n in zip((q, k), traits.qk_names, strict=True))
    if f.config.get("clip_qkv") is not None:
        q, k, v = (t.unary("clamp_", y, keeps="input", temporaries=2) for y in (q, k, v))
    copied = f.block.rotated or eager
    v = heads_of(f, v, groups, eager)
    q, k = heads_of(f, q, heads, copied), heads_of(f, k, groups, copied)
    by_head = traits.qk_norm in ("each head", "heads apart", "a norm a head")
    if by_head and not traits.qk_after_rotation:
        q, k = _normed_heads(f, q, k)
    if f.block.rotated:
        turns = rotary.of_layer(f)
        q, k = rotary.rotate(f, q, turns), rotary.rotate(f, k, turns)
    if by_head and traits.qk_after_rotation:
        q, k = _normed_heads(f, q, k)
    if traits.experts and traits.experts.every:
        q, k = _llama4(f, q, k)
    if traits.scaled_queries:
        scale = Tensor((1, 1, "s", 1), f.dtype, "scale by position", grad=False)
        q = t.mul(q, scale, "scaled queries", "scale")
    return f.linear(attend(f, q, k, v), f"self_attn.{traits.out}")


def _projections(f, x: Tensor) -> list[Tensor]:
    fused = f.traits.fused_qkv
    if fused is None:
        return [f.linear(x, f"self_attn.{name}") for name in ("q_proj", "k_proj", "v_proj")]
    both = f.linear(x, f"self_attn.{fused}")
    widths = [n * f.model.head_dim for n in (f.block.heads, f.model.kv_heads, f.model.kv_heads)]
    return [f.tape.slice(both, (*both.shape[:-1], width)) for width in widths]


def _normed_heads(f, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    names = [f"self_attn.{name}" for name in f.traits.qk_names]
    if f.traits.qk_norm == "a norm a head":
        return _one_by_one(f, q, names[0]), _one_by_one(f, k, names[1])
    if f"{names[0]}.weight" not in f.named:
        return q, k
    return f.norm(q, names[0]), f.norm(k, names[1])


def _one_by_one(f, x: Tensor, name: str) -> Tensor:
    """StableLM 2: a LayerNorm module for each head, their outputs joined."""
    if f"{name}.norms.0.weight" not in f.named:
        return x
    t, count = f.tape, x.shape[1]
    parts = t.split(x, [("b", 1, "s", x.shape[-1])] * count)
    outs = [
        t.layer_norm(part, f.weight(f"{name}.norms.{i}.weight"), None, f"{name}.norms.{i}")
        for i, part in enumerate(parts)
    ]
    return t.cat(outs, x.shape, "normalised heads")


def _llama4(f, q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """After the rotation a norm without weights; without rotation a temperature by position."""
    t = f.tape
    if f.block.rotated:
        if not f.config.get("use_qk_norm"):
            return q, k
        return norms.rms_alone(t, q, "qk_norm"), norms.rms_alone(t, k, "qk_norm")
    if not f.config.get("attn_temperature_tuning"):
        return q, k
    scale = Tensor((1, "s", 1, 1), "fp32", "temperature", grad=False)
    return t.cast(t.mul(q, scale, "tempered queries", "temperature"), q.dtype), k


def _latent_attention(f, x: Tensor) -> Tensor:
    """Multi-head latent attention (arXiv:2412.19437, section 2.1.1): q and k are built from a
    part without positions and a rotated part, which all heads' keys share."""
    t, heads, prefix = f.tape, f.block.heads, "self_attn."
    nope, rope = f.config["qk_nope_head_dim"], f.config["qk_rope_head_dim"]
    rank, width = f.config["kv_lora_rank"], f.config["v_head_dim"]
    if prefix + "q_proj.weight" in f.named:
        q = f.linear(x, prefix + "q_proj")
    else:
        q = f.norm(f.linear(x, prefix + "q_a_proj"), prefix + "q_a_layernorm")
        q = f.linear(q, prefix + "q_b_proj")
    q_plain, q_turned = t.split(
        heads_of(f, q, heads, True), [("b", heads, "s", nope), ("b", heads, "s", rope)]
    )
    latent, k_turned = t.split(
        f.linear(x, prefix + "kv_a_proj_with_mqa"), [("b", "s", rank), ("b", "s", rope)]
    )
    latent = f.norm(latent, prefix + "kv_a_layernorm")
    k_turned = t.view(k_turned, ("b", 1, "s", rope))
    if f.traits.rotary == "complex":
        (turn,) = f.rotary()
        q_turned, k_turned = (rotary.rotate_complex(f, y, turn) for y in (q_turned, k_turned))
    else:
        q_turned, k_turned = (rotary.rotate_pairs(f, y, f.rotary()) for y in (q_turned, k_turned))
    q = t.cat([q_plain, q_turned], ("b", heads, "s", nope + rope), "queries")
    both = heads_of(f, f.linear(latent, prefix + "kv_b_proj"), heads, True)
    k_plain, v = t.split(both, [("b", heads, "s", nope), ("b", heads, "s", width)])
    k = Tensor(q.shape, k_plain.dtype, "keys")
    t.emit("fill", k, [(k_plain, False), (k_turned, False)])
    return f.linear(attend(f, q, k, v), prefix + "o_proj")


# -- MLP


def _module_of_mlp(f) -> str:
    experts = f.traits.experts
    sparse = experts and f"{experts.gate}.weight" in f.named
    return (experts.gate if sparse else f.traits.mlp_root).split(".")[0]


def _mlp(f, x: Tensor) -> Tensor:
    traits = f.traits
    if traits.experts and f"{traits.experts.gate}.weight" in f.named:
        return mixture(f, x, gated_mlp)
    if traits.mlp == "gated":
        return gated_mlp(f, x, traits.mlp_root)
    up_name, down_name = (f"{traits.mlp_root}.{name}" for name in traits.mlp_names)
    up = f.linear(x, up_name)
    if traits.mlp == "plain":
        return f.linear(_activated(f, up), down_name)
    half = (*up.shape[:-1], up.shape[-1] // 2)
    gate, value = f.tape.split(up, [half, half])
    product = f.tape.mul(value, f.activation(gate), "gated", "factor of the gate")
    return f.linear(product, down_name)


def gated_mlp(f, x: Tensor, name: str) -> Tensor:
    gate = f.activation(f.linear(x, f"{name}.gate_proj"))
    f.frame += (gate,)
    up = f.linear(x, f"{name}.up_proj")
    product = f.tape.mul(gate, up, "gated", "factor of the gate")
    f.frame = f.frame[:-1]
    return f.linear(product, f"{name}.down_proj")


def _activated(f, x: Tensor) -> Tensor:
    slopes = [f.weight(f"{f.traits.mlp_root}.act_fn.alpha_{side}") for side in "pn"]
    return xielu(f.tape, x, *slopes) if slopes[0] is not None else f.activation(x)
