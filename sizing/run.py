"""A training run as an immutable value: model, shape of a step, precision, optimizer, GPUs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .architecture.model import Model

CHOICES = {
    "precision": ("fp32", "bf16-mixed", "bf16-master", "bf16"),
    "gradients": ("same", "fp32"),
    "optimizer": (
        "sgd",
        "momentum",
        "adamw",
        "adamw-fused",
        "adamw-8bit",
        "adafactor",
        "muon",
        "lion",
    ),
    "recompute": ("none", "selective", "full"),
    "attention": ("flash", "eager"),
    "zero": (0, 1, 2, 3),
}

# The dtype that the weights are kept in, by precision.
WEIGHTS = {"fp32": "fp32", "bf16-mixed": "fp32", "bf16-master": "bf16", "bf16": "bf16"}


@dataclass(frozen=True)
class Run:
    """One training run. `dataclasses.replace(run, ...)` makes the next one.

    Args:
        model: a `Model`, or anything that `Model` takes.
        sequence: sequence length in tokens.
        micro_batch: sequences that one data-parallel rank sends through at once.
        accumulation: micro-batches before each optimizer step.
        precision: "fp32"; "bf16-mixed" (fp32 weights under autocast); "bf16-master" (bf16 weights,
            fp32 master copy in the optimizer); "bf16" (bf16 weights and nothing else).
        gradients: "same" as the weights' dtype, or "fp32": an fp32 accumulation buffer beside them.
        optimizer: "sgd", "momentum", "adamw" (foreach, torch's default on a GPU), "adamw-fused",
            "adamw-8bit", "adafactor", "muon" or "lion".
        recompute: "none"; "selective" (the attention core, Korthikanti et al., arXiv:2205.05198);
            "full" (every layer from its input).
        attention: "flash" (fused, no s x s matrix in memory) or "eager".
        data, tensor, pipeline, context: parallel degrees; GPUs are their product.
        zero: ZeRO stage 0 to 3, over the ranks that hold the same weights: data x context.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """

    model: Model
    sequence: int = 2048
    micro_batch: int = 1
    accumulation: int = 1
    precision: str = "bf16-mixed"
    gradients: str = "same"
    optimizer: str = "adamw"
    recompute: str = "none"
    attention: str = "flash"
    data: int = 1
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    context: int = 1

    def __post_init__(self):
        if not isinstance(self.model, Model):
            object.__setattr__(self, "model", Model(self.model))
        for field in fields(self)[1:]:
            value = getattr(self, field.name)
            allowed = CHOICES.get(field.name)
            if allowed is not None:
                if isinstance(value, bool) or value not in allowed:
                    raise ValueError(f"{field.name}: {value!r} given; allowed: {_join(allowed)}")
            elif isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{field.name}: {value!r} given; allowed: a whole number >= 1")
        longest = self.model.max_positions
        if longest is not None and self.sequence > longest:
            raise ValueError(
                f"sequence: {self.sequence} given; allowed: 1 to {longest}, the learned positions "
                f"of {self.model.name}"
            )

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def sequences(self) -> int:
        """Sequences in one optimizer step, over all ranks: the global batch."""
        return self.micro_batch * self.accumulation * self.data

    @property
    def tokens(self) -> int:
        """Tokens in one optimizer step, over all ranks."""
        return self.sequences * self.sequence


def _join(values) -> str:
    return ", ".join(repr(value) for value in values)
