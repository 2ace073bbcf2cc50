"""Seconds of one optimizer step: what the GPUs compute, move and wait for.

Matmuls and collectives run at the rates of `sizing.speed.rates`; everything else in a layer takes
its bytes of memory traffic. No pass can be shorter than the host needs to launch it. Stages run
1F1B: the slowest sets the pace, filling and draining is the bubble, which interleaving divides.

What the run's engine adds, hides and fuses is its row of data/engines.csv. Constants that no
datasheet gives stand in data/rates.csv with their origin. `python -m sizing.evidence` prints how
far published runs are from the result.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields, replace
from functools import cached_property, lru_cache

from ..architecture.model import Model
from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..parallel import check_degrees, held_parameters, stages
from ..run import Run
from ..settings import asked_model, sequences_of
from .ends import data_parallel, messages, update
from .engines import engine_of
from .layer import Setting, Work, head, layer, stage_parts
from .offload import check_offload, exposed
from .rates import NETWORK, NODE, Rates, constants, sustained_rates
from .trust import Trust, trust


@dataclass(frozen=True)
class StepTime(Work):
    """Seconds of one optimizer step on the GPUs of the slowest pipeline stage: `Work`, and

    Attributes:
        pipeline_transfer: activations and gradients between stages.
        pipeline_bubble: filling and draining the pipeline.
        data_parallel: gradients and gathered weights, what computation does not hide.
        optimizer: clipping, update, copy to the working weights.
        frozen: forward passes of a reference or a teacher.
        offload: waiting for the host's bus; an update on its CPU is in `optimizer`.

    `trust` says whether it interpolates between published runs or extrapolates, and `band` how far
    the total may be off.
    """

    pipeline_transfer: float
    pipeline_bubble: float
    data_parallel: float
    optimizer: float
    _run: Run = field(repr=False, compare=False)
    _card: str = field(repr=False, compare=False)
    frozen: float = 0.0
    offload: float = 0.0

    @property
    def parts(self) -> dict[str, float]:
        """Seconds by part; they sum to the total."""
        parts = {name: getattr(self, name) for name in STEP_PARTS}
        rare = {name: getattr(self, name) for name in RARE_PARTS}
        return parts | {name: seconds for name, seconds in rare.items() if seconds}

    @property
    def total(self) -> float:
        return sum([getattr(self, name) for name in (*STEP_PARTS, *RARE_PARTS)])

    @cached_property
    def trust(self) -> Trust:
        """Whether published runs are near, how far off they are, and a band around the total."""
        return trust(self._run, self._card, self.total)

    @property
    def band(self) -> tuple[float, float]:
        """Seconds between which the total lies in eight of ten published runs like this one."""
        return self.trust.band

    def tokens_per_second(self, run: Run) -> float:
        """Tokens per second and GPU."""
        return run.tokens / self.total / run.gpus


RARE_PARTS = ("frozen", "offload")
STEP_PARTS = tuple(
    f.name for f in fields(StepTime) if f.name[0] != "_" and f.name not in RARE_PARTS
)


BLOCKWISE = constants()["fp8_blockwise"]  # of the rate of fp8 products with a scale a tensor


@lru_cache(maxsize=256)
def _rates(
    gpu: GPU, dtype: str, scaling: str | None, network: float, node: int, share: float
) -> Rates:
    """Rates of a card, of which the engine's matmuls reach a share, and those with scales of blocks
    in fp8 another."""
    rate = sustained_rates(gpu, dtype, network, node)
    low = rate.low and rate.low * (BLOCKWISE if scaling == "blockwise" else 1)
    return replace(rate, matmul=share * rate.matmul, low=low)


def step_time(
    run: Run,
    gpu: str | GPU = "h100-sxm",
    *,
    network: float = NETWORK,
    node: int = NODE,
    host: float = 1.0,
) -> StepTime:
    """Seconds of one optimizer step, by part.

    Args:
        run: the training run; `run.engine` says who runs it, None is PyTorch's DDP and FSDP.
        gpu: an accelerator's name in data/gpus.csv, or a `GPU`; one whose power is below that of
            the catalogue is slower by the cube root.
        network: bytes/s that each GPU has between nodes, in one direction.
        node: GPUs in a node, joined by the accelerator's link (72 in an NVL72).
        host: the engine's launching time in units of its own; 0 for captured CUDA graphs.

    Raises:
        ValueError: see `check_degrees` and `check_offload`; a GPU without a rate for the run's
            dtype, or without a link where several GPUs need one; an impossible network, node or
            host.

    Left out: an allocator near the end of its memory, congestion, stragglers, an uneven router.
    """
    if run.offload:
        check_offload(run)
    check_degrees(run)
    gpu = find_gpu(gpu) if isinstance(gpu, str) else gpu
    if not host >= 0:
        raise ValueError(f"host: {host!r} given; allowed: a number >= 0")
    if gpu.link is None and run.gpus > 1 and node > 1:
        raise ValueError(
            f"gpu: {gpu.name!r} given, whose link is unknown; allowed: a GPU with a link, or node=1"
        )
    engine = engine_of(run)
    rate = _rates(gpu, run.recipe.products, run.scaling, network, node, engine.matmul_share)
    at = Setting(engine, gpu.name, rate, host)
    asked = asked_model(run)
    frozen = run.accumulation * _forward_alone(run, asked, at) if asked else 0.0
    if sequences_of(run.objective) > 1:
        run = replace(run, micro_batch=sequences_of(run.objective) * run.micro_batch)
    one, last = layer(run, at), head(run, at)
    kinds = Counter(stages(run))
    held = {stage: held_parameters(run, stage) for stage in kinds}
    passes = {stage: stage_parts(run, at, stage, held[stage][0], one, last) for stage in kinds}
    lengths = {stage: sum(parts.values()) for stage, parts in passes.items()}
    slowest = max(lengths.values())
    parts = next(passes[stage] for stage, length in lengths.items() if length == slowest)
    ends = [
        (
            data_parallel(run, at, stage, holds, one),
            update(run, at, stage, holds[0]),
            exposed(run, gpu.name, stage, holds[0], one) if run.offload else 0.0,
        )
        for stage, holds in held.items()
    ]
    reducing, updating, waiting = max(ends, key=sum)
    bubble = sum(lengths[stage] * count for stage, count in kinds.items()) - slowest
    micro = run.accumulation
    messages_sent = 2 * (run.pipeline - 1)
    if run.interleave == 1 or not at.engine.overlaps_context:  # else they travel beside other work
        messages_sent += micro * run.interleave
    return StepTime(
        **{name: seconds * micro for name, seconds in parts.items()},
        pipeline_transfer=messages(run, at) * messages_sent,
        pipeline_bubble=bubble / run.interleave,
        data_parallel=reducing,
        optimizer=updating,
        _run=run,
        _card=gpu.name,
        frozen=frozen,
        offload=waiting,
    )


def _forward_alone(run: Run, model: Model, at: Setting) -> float:
    """Seconds of a micro-batch's forward pass through a reference or a teacher."""
    micro = sequences_of(run.objective) * run.micro_batch
    plain = {"objective": "lm", "recompute": "none", "lora": None, "quantization": None}
    run = replace(run, model=model, micro_batch=micro, **plain)
    return model.layers * layer(run, at).forward + head(run, at).forward
