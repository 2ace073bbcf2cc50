"""What one GPU holds of a training step: model state, activations and buffers divided.

A `Share` takes the moments of the whole model on one GPU, as `sizing.memory` knows them, and gives
those of a GPU among many. Data parallelism divides model state alone, as far as the ZeRO stage
says; tensor and context parallelism divide activations; a pipeline divides layers but keeps several
micro-batches of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..parallel import (
    Stage,
    expert_slices,
    gradient_bytes,
    held_parameters,
    stage_parameters,
    stages,
)
from ..run import Run
from .offload import kept_gradients


def zero_state(
    run: Run, parameters: float, gradients: float, optimizer: float
) -> tuple[float, float, float]:
    """Model state after ZeRO: (parameters, gradients, optimizer) bytes on each rank.

    Stage 1 divides the optimizer's state by the ranks that hold the same weights (data x context,
    or a group of them under hybrid sharding: `Run.shards`), stage 2 the gradients too, stage 3 the
    parameters too. Mixed-precision Adam's 2, 2 and 12 bytes
    a parameter over N ranks: 4 + 12/N, 2 + 14/N, 16/N. Source: Rajbhandari et al.
    (arXiv:1910.02054), figure 1 and section 5.
    """
    ranks = run.shards
    return (
        parameters / (ranks if run.zero >= 3 else 1),
        gradients / (ranks if run.zero >= 2 else 1),
        optimizer / (ranks if run.zero >= 1 else 1),
    )


def gathers(run: Run) -> bool:
    """Whether a layer's weights are fetched for it: from the other ranks, or from the host."""
    return run.zero == 3 and (run.shards > 1 or "parameters" in run.offload)


def holds_inputs(run: Run) -> bool:
    """Whether FSDP1 holds every layer's input, and the input's gradient, through the backward pass.

    It does where a layer's weights are frozen and re-entrant checkpointing, transformers' default
    before 5.0, runs the layer again on a detached input: FSDP hangs the hook that gives frozen
    weights back on that input (`_register_post_backward_reshard_only_hook`), and the hook's handle
    keeps the input and what was accumulated on it until the pass is over.
    """
    return run.engine == "fsdp" and run.lora is not None and run.recompute == "full"


def in_flight(run: Run, rank: int) -> float:
    """Micro-batches whose activations a pipeline rank keeps at once under 1F1B.

    The first stage starts as many as there are stages before the first comes back:
    min(p - rank, m). Source: Narayanan et al. (arXiv:2104.04473), section 2.2.1.

    Interleaved over v stages a rank, counted in micro-batches of all its layers: rank 0 keeps
    pv + p - 1 stages' worth, hence p (1 + (p - 1) / (pv)) (section 2.2.2; Korthikanti et al.,
    arXiv:2205.05198, section 4.2.3); each further rank starts two stages' worth fewer.
    """
    if run.interleave == 1:
        return min(run.pipeline - rank, run.accumulation)
    ahead = 2 * (run.pipeline - rank - 1) + (run.interleave - 1) * run.pipeline + 1
    return min(ahead, run.accumulation * run.interleave) / run.interleave


def shares(run: Run, trained: float = 1.0, whole: Whole | None = None) -> tuple[Share, ...]:
    """What the GPUs of each pipeline stage hold, equal stages once: of those the first keeps most
    micro-batches.

    They depend on the run's degrees, not on its micro-batch and sequence; `trained` is the share
    of the parameters that get a gradient, below 1 with frozen weights; `whole` is what tensor
    parallelism without sequence parallelism does not divide.
    """
    first = {}
    for rank, stage in enumerate(stages(run)):
        first.setdefault(stage, rank)
    return tuple(
        Share.of(run, stage, rank, trained, whole or Whole(0.0, 0.0))
        for stage, rank in first.items()
    )


@dataclass(frozen=True)
class Whole:
    """Share of a layer's tensors that is whole on every tensor-parallel rank, where sequence
    parallelism does not divide it: for each monomial of a size (see `tape.MONOMIALS`).

    Attributes:
        kept: of what the forward pass keeps: under full recompute the layer's input, all of it.
        inside: of all that a layer's operations save.
    """

    kept: float | np.ndarray
    inside: float | np.ndarray


def _left(run: Run, whole) -> float | np.ndarray:
    """Share of activations that tensor and context parallelism leave on a rank."""
    return (whole + (1 - whole) / run.tensor) / run.context


@dataclass(frozen=True)
class Share:
    """What one GPU of a pipeline stage holds of the whole model's bytes.

    Tensor parallelism (with sequence parallelism) divides every activation, the logits and their
    gradients by its degree, and so does context parallelism (Korthikanti et al., arXiv:2205.05198,
    section 4.2.2). Without sequence parallelism what lies between a row-split and the next
    column-split matmul stays whole (section 4.2.1): `Whole` says how much. Temporaries are divided
    like what they are copies of. What the split adds is in "temporary": DDP's flat buckets beside
    the gradients (zero 0 and 1); the unreduced gradients of two layers and of an untied head (zero
    2 and 3); and under zero 3 the gathered weights of two layers, one at work and one prefetched,
    and of everything outside the layers, which FSDP2 keeps from forward to backward. That is FSDP2
    with every layer and the model wrapped; its traces under torch's FSDPMemTracker agree
    (tests/test_parallel.py).

    Attributes:
        stage: its layers.
        state: (parameters, gradients, optimizer), each as a share of the whole model's bytes.
        whole: the stage's share of the model.
        tokens: share of logits and their like that tensor and context parallelism leave.
        kept, inside: the same of what the forward pass keeps, and of what is inside a layer.
        layers: share of the layers.
        others: micro-batches in flight beside the one at work.
        updated: share of the optimizer's temporaries.
        buffers: {phase: bytes that data parallelism adds}.
        gathered_width: bytes for each token of the micro-batch that tensor parallelism gathers.
        under_zero_3: what FSDP2 gathers, None under the other stages or on one rank.
        mixed: whether gradients are reduced in another dtype than they are made in.
    """

    stage: Stage
    state: tuple[float, float, float]
    whole: float
    tokens: float
    kept: float | np.ndarray
    inside: float | np.ndarray
    layers: float
    others: float
    updated: float
    buffers: Mapping[str, float]
    gathered_width: float
    under_zero_3: UnderZero3 | None
    mixed: bool = False

    @classmethod
    def of(cls, run: Run, stage: Stage, rank: int, trained: float, whole: Whole) -> Share:
        held, routed = held_parameters(run, stage)
        gathered = run.tensor > 1 and run.sequence_parallel
        width = run.model.hidden * run.recipe.activation_bytes if gathered else 0.0
        parameters, gradients, optimizer = _state(run, held - routed, routed)
        if "parameters" in run.offload:
            parameters = 0.0
        gradients *= kept_gradients(run)
        if run.gathers_products:  # made in 16 bits, kept as shards of the weights' dtype
            gradients *= run.recipe.weight_bytes / run.gathered_bytes
        divided = gathers(run)
        phases = ("forward", "loss", "layers", "embedding", "optimizer")
        return cls(
            stage=stage,
            state=(parameters, gradients, optimizer),
            whole=held / run.model.parameters.total,
            tokens=1 / (run.tensor * run.context),
            kept=_left(run, whole.kept),
            inside=_left(run, whole.inside),
            layers=stage.layers / run.model.layers,
            others=in_flight(run, rank) - 1,
            updated=optimizer,
            buffers={name: _buffers(run, stage, held, trained, name) for name in phases},
            gathered_width=width,
            under_zero_3=UnderZero3.of(run, stage, held, trained) if divided else None,
            mixed=run.gathers_products,
        )

    def moments(self, phase: str, parts, forward, tokens, one=1) -> Iterator[dict]:
        """{part: bytes} of every moment that can be this GPU's worst in a phase.

        Bytes may be numbers, or anything that is added and multiplied by numbers alike, such as
        the coefficients of polynomials; `one` is then 1 byte.

        Args:
            phase: one that `has` this stage.
            parts: {part: bytes} on one GPU at its worst moment of that phase; of "layers" under
                ZeRO-3, at the worst moment of the first layer that the backward pass visits.
            forward: {part: bytes} on one GPU at the end of the forward pass.
            tokens: of one micro-batch on a context-parallel rank.
        """
        kept = forward["activations"] * (self.layers * self.kept)
        if phase == "layers" and self.under_zero_3 and self.stage.layers:
            first = self._divided(phase, parts, kept, tokens, 0 * one, forward["activations"])
            made = parts["gradients"] * self.whole
            yield from self.under_zero_3.layers(first, made, kept, self.stage.layers, one)
            return
        divided = self._divided(
            phase, parts, kept, tokens, self.buffers[phase] * one, forward["activations"]
        )
        if phase == "embedding" and self.under_zero_3 and not self.under_zero_3.accumulates:
            # the layers' alone are reduced by then
            divided["gradients"] = self.under_zero_3.shard * self.stage.layers * one
        yield divided
        if phase == "embedding" and self.under_zero_3 and self.mixed:
            last, none = self.under_zero_3.last * one, 0 * one
            yield {**divided, "activations": none, "logits": none, "temporary": last}
        if phase == "forward" and self.under_zero_3:
            state = {part: divided[part] for part in ("parameters", "gradients", "optimizer")}
            gather = self.under_zero_3.first_gather * one
            yield {**dict.fromkeys(divided, 0 * one), **state, "temporary": gather}

    def has(self, phase: str) -> bool:
        """Whether the stage goes through a phase: loss and embedding belong to its ends."""
        ends = {"loss": self.stage.head, "embedding": self.stage.embedding}
        return ends.get(phase, True)

    def _divided(self, name: str, parts, kept, tokens, buffers, forward) -> dict[str, float]:
        parameters, gradients, optimizer = self.state
        activations = parts["activations"] * (self.layers * self.inside)
        # Beyond the share inside a layer, what all layers keep: their inputs, under recompute.
        activations = activations + forward * (self.layers * (self.kept - self.inside))
        if name == "optimizer":
            temporary = parts["temporary"] * self.updated
        else:
            activations = activations + self.others * kept
            inside = name in ("forward", "layers")
            temporary = parts["temporary"] * (self.inside if inside else self.tokens)
            # In forward a matmul's input and another's sum before it is scattered; in backward the
            # input again, the output's gradient and the input's: whole for a moment.
            temporary = temporary + tokens * self.gathered_width * (3 if name == "layers" else 2)
        return {
            "parameters": parts["parameters"] * parameters,
            "gradients": parts["gradients"] * gradients,
            "optimizer": parts["optimizer"] * optimizer,
            "activations": activations,
            "logits": parts["logits"] * (self.tokens if self.stage.head else 0),
            "temporary": temporary + buffers,
        }


def _state(run: Run, dense: float, routed: float) -> tuple[float, float, float]:
    """(parameters, gradients, optimizer) that a GPU keeps, as shares of the whole model's: ZeRO
    divides the experts by the ranks that hold the same ones, all else by data x context."""
    whole = run.model.parameters.total
    mine = zero_state(run, dense / whole, dense / whole, dense / whole)
    if not routed:
        return mine
    copies = max(1, run.shards * run.tensor // expert_slices(run))
    of_experts = (routed / whole / (copies if run.zero >= stage else 1) for stage in (3, 2, 1))
    return tuple(a + b for a, b in zip(mine, of_experts, strict=True))


@dataclass(frozen=True)
class UnderZero3:
    """The moments of a pass whose weights are gathered layer by layer, as FSDP2 takes it.

    Attributes:
        accumulates: whether gradients of earlier micro-batches are there all along.
        outer, layer: bytes of the weights outside the layers, and of one layer.
        gradients: bytes of a layer's gradients in the dtype in which they are reduced.
        shard: bytes that a rank keeps of them.
        head: bytes of an untied head's unreduced gradient.
        last: bytes of the gradients of everything outside the layers: as they came, and copied to
            be reduced; the share that comes of it is made when the first are gone.
        first_gather: bytes as the forward pass begins.
        holds: whether every layer's input and its gradient stay until the pass is over, see
            `holds_inputs`.
    """

    accumulates: bool
    outer: float
    layer: float
    gradients: float
    shard: float
    last: float
    head: float
    first_gather: float
    holds: bool = False

    @classmethod
    def of(cls, run: Run, stage: Stage, held: float, trained: float) -> UnderZero3:
        outer, layer = _units(run, stage, held)
        width, gradient = run.gathered_bytes, trained * unreduced_bytes(run)
        return cls(
            accumulates=run.accumulation > 1 or (run.gradients == "fp32" and width == 2),
            outer=outer * width,
            layer=layer * width,
            gradients=layer * trained * gradient_bytes(run),
            shard=layer
            * trained
            * (run.recipe.weight_bytes if run.gathers_products else gradient_bytes(run))
            / run.shards
            * kept_gradients(run),
            last=outer * trained * (unreduced_bytes(run) + gradient_bytes(run)),
            head=_head_gradient(run, stage) * gradient,
            # the first layer and what lies outside, in a flat buffer and copied from it
            first_gather=2 * (outer + layer) * width,
            holds=holds_inputs(run),
        )

    def layers(self, first, made, kept, count: int, one) -> Iterator[dict]:
        """The moments of the layers' backward pass that can be its worst.

        While a layer is at work its weights are gathered, those of the next are on their way, and
        the gradients of the one before, whole, are being reduced. All else changes from layer to
        layer by the same amount, so that the worst layer is the first or last of those with both,
        or at an end of the pass, where one is missing.

        Args:
            first: parts in the first layer visited, without these buffers.
            made: bytes of gradients that are complete there, divided by no rank.
            kept: bytes that all layers saved for the backward pass.
            count: layers of the stage.
            one: a byte, as in `Share.moments`.
        """
        # The layer's own gradients so far, unless gradients are there all along.
        own = made - self.head * one
        own = 0 * one if self.accumulates else own * (own > 0)  # of no tokens: a constant
        whole = first["temporary"] + own + (self.outer + self.layer + self.head) * one
        for visited in sorted({1, 2, count - 1, count} & set(range(1, count + 1))):
            before = visited - 1
            reduced = before * self.shard * one
            left = before * kept / count  # the inputs of the layers that are done
            # and their gradients, but the one that is the next layer's incoming one
            beside = max(before - 1, 0) * kept / count if self.holds else 0 * left
            yield {
                **first,
                "gradients": first["gradients"] if self.accumulates else reduced,
                "activations": first["activations"] - (0 * left if self.holds else left),
                "temporary": whole
                + beside
                + (self.layer if visited < count else 0) * one
                + (self.gradients if visited > 1 else 0) * one,
            }


def _buffers(run: Run, stage: Stage, held: float, trained: float, phase: str) -> float:
    """Bytes that data parallelism adds in a phase."""
    if run.shards == 1 and not gathers(run):
        return 0.0
    weight = run.recipe.weight_bytes
    if run.zero <= 1:
        return held * trained * weight
    outer, layer = _units(run, stage, held)
    unreduced = _head_gradient(run, stage) if phase in ("layers", "embedding") else 0.0
    if run.zero == 2 and phase == "layers":
        unreduced += min(2, stage.layers) * layer
    gathered = outer + layer if run.zero == 3 and phase != "optimizer" else 0.0
    sent = 0.0
    if run.zero == 3 and phase == "embedding":  # of the layer before, what is being reduced is left
        gathered, sent = outer, layer * trained * gradient_bytes(run)
    return gathered * run.gathered_bytes + sent + unreduced * trained * unreduced_bytes(run)


def unreduced_bytes(run: Run) -> int:
    """Bytes of a gradient element as the backward pass makes it, where it is reduced at once."""
    return run.gathered_bytes if run.gathers_products else gradient_bytes(run)


def _head_gradient(run: Run, stage: Stage) -> float:
    """Elements of the gradient that a head of its own keeps whole until the embedding's joins it;
    that of a tied one is among the phases' own temporaries."""
    if run.model.tied or not stage.head:
        return 0.0
    return run.model.vocab * run.model.hidden / run.tensor


def _units(run: Run, stage: Stage, held: float) -> tuple[float, float]:
    """Parameters that ZeRO-3 gathers together: what lies outside the layers, and one layer."""
    outer = stage_parameters(run.model, Stage(0, stage.embedding, stage.head), run.tensor)
    return outer, (held - outer) / stage.layers if stage.layers else 0.0
