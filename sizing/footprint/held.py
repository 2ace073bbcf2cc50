"""What `memory` gives: bytes on the fullest GPU, by part and by phase."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property

from ..hardware import GPU
from .fit import Fit, fit

STATE = ("parameters", "gradients", "optimizer")
PARTS = (*STATE, "activations", "logits", "temporary")
PHASES = ("forward", "loss", "layers", "embedding", "optimizer")


@dataclass(frozen=True)
class Memory:
    """Bytes on the fullest GPU in a steady training step.

    Attributes:
        parameters, gradients, optimizer: model state that this GPU holds, after ZeRO and the
            other degrees; the whole model's is `model_state`.
        activations: what the forward pass keeps for the backward pass, logits left out.
        logits: logits and everything of their shape, at its most.
        temporary: copies, casts and gradients on their way, at the peak.
        peak_phase: the phase with the most alive; `total` is its bytes.
        groups: NCCL communicators that the GPU is in.
        again: whether whole layers are run again, which `on` asks for.
        host: bytes in the host's memory for this GPU: what is offloaded, and paged state.
        bus: bytes between host and GPU in an optimizer step, both directions added.
    """

    parameters: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    temporary: int
    peak_phase: str
    total: int
    _moments: Callable[[], dict[str, dict[str, int]]] = field(repr=False, compare=False)
    groups: int = 0
    again: bool = False
    host: int = 0
    bus: int = 0

    @cached_property
    def phases(self) -> dict[str, dict[str, int]]:
        """{phase: {part: bytes}}; the parts sum to what is alive at the phase's worst moment."""
        return self._moments()

    def on(self, device: str | GPU, bucket: int = 0) -> Fit:
        """The step on a GPU: workspaces, gaps, NCCL's buffers and the context added, and a verdict.

        ``memory(run).on("h100-sxm").verdict`` is "fits", "tight" or "does not fit".

        Args:
            device: a `GPU`, or its name in data/gpus.csv.
            bucket: bytes of an engine's buckets, such as `fit.deepspeed_buckets(run)`.

        Raises:
            ValueError: there is no such GPU.
        """
        return fit(self.total, device, self.groups, bucket, self.again)


@dataclass(frozen=True)
class ModelState:
    """Bytes of the whole model's state before anything is divided."""

    parameters: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        return self.parameters + self.gradients + self.optimizer
