"""How many tokens in a step, and which learning rate: the noise scale and what replaced it.

Below the critical batch, twice the batch halves the steps; above it, it mostly costs tokens. Four
answers to where it lies are here, and they disagree: from the loss (Kaplan et al.), from the tokens
of the whole run (Zhang et al., Li et al.), and measured by branching runs (Merrill et al.). The
gradient noise scale (McCandlish et al.) is what the first rests on; for Adam and a language model
it came out too small by orders of magnitude (Merrill et al., section 4).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..units import positive
from .scaling import constants

CONTEXT = 512  # tokens of a sequence in Zhang et al.
DOCUMENT = 4096  # tokens of a document in Merrill et al.
SCALING = {"adam": 0.5, "sgd": 1.0}  # power of the batch by which the learning rate grows


@dataclass(frozen=True)
class NoiseScale:
    """Signal and noise of a gradient.

    Attributes:
        signal: |G|^2, the squared norm of the true gradient.
        noise: tr(Sigma), the variance of one example's gradient, summed over parameters.
    """

    signal: float
    noise: float

    @property
    def batch(self) -> float:
        """B_simple = tr(Sigma) / |G|^2, in the examples that batches were counted in."""
        return self.noise / self.signal


def noise_scale(small: int, small_norm2: float, big: int, big_norm2: float) -> NoiseScale:
    """Signal and noise from the squared norms of gradients over two sizes of batch.

    E|g_B|^2 = |G|^2 + tr(Sigma) / B, solved for both (McCandlish et al., arXiv:1812.06162, appendix
    A.1). Each norm is best a mean over several batches: the estimates are unbiased, their ratio is
    not.

    Args:
        small, big: examples (or tokens) in the smaller and the larger batch.
        small_norm2, big_norm2: squared norms of the gradients, averaged over batches.

    Raises:
        ValueError: names the field; also where the norms leave no signal.
    """
    if not 0 < small < big:
        raise ValueError(f"big: {big!r} given with small={small!r}; allowed: more than small")
    positive("small_norm2", small_norm2)
    positive("big_norm2", big_norm2)
    signal = (big * big_norm2 - small * small_norm2) / (big - small)
    noise = (small_norm2 - big_norm2) / (1 / small - 1 / big)
    if signal <= 0:
        raise ValueError(
            f"big_norm2: {big_norm2!r} given; allowed: above small / big x small_norm2 = "
            f"{small / big * small_norm2:.4g}: average over more batches"
        )
    return NoiseScale(signal, max(0.0, noise))


def steps_and_tokens(batch: float, critical: float) -> tuple[float, float]:
    """(steps over the fewest possible, tokens over the fewest possible) for a batch size.

    1 + B_crit / B and 1 + B / B_crit: at the critical batch both are 2.

    Source: McCandlish et al., arXiv:1812.06162, equation 2.11; Kaplan et al., arXiv:2001.08361,
    section 5.1.
    """
    positive("batch", batch)
    positive("critical", critical)
    return 1 + critical / batch, 1 + batch / critical


def critical_batch_at(loss: float) -> float:
    """Critical batch in tokens at a loss: B* / L^(1 / alpha_B) (Kaplan et al., equation 1.4)."""
    positive("loss", loss)
    found = constants("batch-kaplan-2020")
    return found["tokens"] / loss ** (1 / found["alpha"])


def critical_batch_for(tokens: float) -> float:
    """Critical batch in tokens for a whole run: grows with its tokens, hardly with its parameters.

    Critical means 20 % more steps than if doubling the batch still halved them. Measured at 85 M to
    1.2 B parameters and 20 tokens a parameter, sequences of 512.

    Source: Zhang et al., arXiv:2410.21676: 22.91 D^0.47 sequences, D in millions of tokens.
    """
    positive("tokens", tokens)
    found = constants("batch-zhang-2024")
    return CONTEXT * found["sequences"] * (tokens / 1e6) ** found["exponent"]


def critical_batch_late() -> float:
    """Critical batch in tokens late in a run: where that of OLMo 1B and 7B levels off.

    Early in training it is near 0, which is why the batch may be raised on the way.

    Source: Merrill et al., arXiv:2505.23971, section 3.3.
    """
    return DOCUMENT * constants("batch-merrill-2025")["documents"]


def step_law(parameters: float, tokens: float) -> tuple[float, float]:
    """(learning rate, batch in tokens) with the lowest loss: Step Law, AdamW.

    Args:
        parameters: without the vocabulary's tables.
        tokens: of the whole run.

    Source: Li et al., arXiv:2503.04715: 1.79 N^-0.713 D^0.307 and 0.58 D^0.571.
    """
    positive("parameters", parameters)
    positive("tokens", tokens)
    found = constants("step-law-2025")
    rate = parameters ** found["rate_parameters"] * tokens ** found["rate_tokens"]
    return found["rate"] * rate, found["batch"] * tokens ** found["batch_tokens"]


def scaled_rate(rate: float, batch: float, new: float, optimizer: str = "adam") -> float:
    """The learning rate for another batch size, below the critical one.

    Adam: with the square root of the batch; SGD: in proportion (Merrill et al., arXiv:2505.23971,
    section 3.1, after Malladi et al., arXiv:2205.10287).

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for field, value in (("rate", rate), ("batch", batch), ("new", new)):
        positive(field, value)
    if optimizer not in SCALING:
        raise ValueError(f"optimizer: {optimizer!r} given; allowed: {', '.join(SCALING)}")
    return rate * math.pow(new / batch, SCALING[optimizer])
