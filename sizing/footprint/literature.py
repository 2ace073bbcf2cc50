"""Formulas of the literature for activations and model state, by name, to be compared with ours."""

from __future__ import annotations

from ..run import Run


def korthikanti(run: Run) -> int:
    """Activation bytes of all layers after Korthikanti et al. 2022 (arXiv:2205.05198).

    Equation 2, a layer of one GPU: s b h (10 + 24/t + 5 a s / (h t)), with t = 1 equation 1,
    s b h (34 + 5 a s / h). Without the attention core under recompute="selective" (section 5);
    its input alone, 2 s b h, under "full". It describes GPT-3's layer in 16 bits with dropout, as
    Megatron-LM fused it; flash attention was not yet there.
    """
    model, t = run.model, run.tensor
    tokens_width = run.sequence * run.micro_batch * model.hidden
    if run.recompute == "full":
        return 2 * tokens_width * model.layers
    core = 0 if run.recompute == "selective" else 5 * model.heads * run.sequence / model.hidden
    return round(tokens_width * (10 + (24 + core) / t) * model.layers)


def bytes_per_parameter(gradients: str = "same") -> int:
    """Model state of mixed-precision Adam in the literature, in bytes a parameter.

    16: bf16 weights and gradients, fp32 master weights and two moments (Rajbhandari et al. 2020,
    arXiv:1910.02054, section 3.1). 18 with fp32 gradients (Megatron-LM's distributed optimizer).

    Raises:
        ValueError: `gradients` is neither "same" nor "fp32".
    """
    if gradients not in ("same", "fp32"):
        raise ValueError(f"gradients: {gradients!r} given; allowed: 'same', 'fp32'")
    return 18 if gradients == "fp32" else 16
