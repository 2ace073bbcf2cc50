"""Masks of attention as a model hands them to its layers, one for each window."""

from __future__ import annotations

from .tape import Tensor


def of_layers(f) -> dict[int | None, Tensor | None]:
    """{window of a layer: its mask, None where the kernel needs none}."""
    windows = {block.window for block in f.model.blocks}
    if f.traits.window == "never":  # GPT-Neo's windows are cut by the layers themselves
        return dict.fromkeys(windows, _mask(f, None))
    return {window: _mask(f, window) for window in windows}


def _mask(f, window: int | None) -> Tensor | None:
    beyond = window is not None and f.run.sequence >= window
    span = "b" if f.tape.batched else 1
    if f.eager:
        dtype = "bool" if f.family == "mpt" else f.dtype
        return Tensor((span, 1, "s", "s"), dtype, "mask", grad=False, shared=True)
    if f.config.get("alibi"):  # Falcon's: the bias by distance, head by head
        shape = ("b", f.model.heads, "s", "s")
        return Tensor(shape, f.dtype, "mask and alibi", grad=False, shared=True)
    if (beyond and not _capped(f)) or f.traits.always_masked:
        return Tensor((1, 1, "s", "s"), "bool", "mask", grad=False, shared=True)
    return None


def _capped(f) -> bool:
    """Whether the fused kernel caps the scores, and then takes no mask."""
    cap = f.config.get("attn_logit_softcapping")
    return f.traits.capped_by_kernel and cap is not None
