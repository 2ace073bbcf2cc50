"""The course's own plan: what `catch_up` writes for lessons that a learner has not done.

8 H100s for two weeks, llama-3.2-3b. Each line is computed from `sizing`, so that it says what the
lesson would.
"""

from collections.abc import Callable
from dataclasses import replace

from .. import compute, planning
from ..architecture import Model
from ..footprint import bytes_per_parameter, memory
from ..hardware import gpu
from ..parallel import communication
from ..run import Run
from ..speed import step_time
from ..units import count, gb

GPUS, DAYS, CARD = 8, 14, "h100-sxm"
MODEL, SEQUENCE, UTILISATION = (
    "llama-3.2-3b",
    4096,
    0.40,
)  # 40 %: the upper part of lesson 02's runs
SECONDS = GPUS * DAYS * 86400  # of one GPU


def _budget() -> str:
    peak = gpu(CARD).peak_flops("bf16")
    hours = SECONDS / 3600
    return (
        f"{GPUS} H100s for {DAYS} days: {hours:,.0f} GPU-hours, {SECONDS * peak:.2e} FLOPs at peak"
    )


def _model() -> str:
    total = Model(MODEL).parameters.total
    return f"{MODEL}: {total:,} parameters, {gb(2 * total)} in bf16"


def budget_flops() -> float:
    """FLOPs that the GPUs do in the time, at the share of the peak that is planned with."""
    return SECONDS * gpu(CARD).peak_flops("bf16") * UTILISATION


def tokens() -> float:
    """Tokens that the budget trains the model on, by the 6ND of lesson 02."""
    return budget_flops() / (6 * Model(MODEL).parameters.total)


def _compute() -> str:
    share = f"{UTILISATION:.0%}".replace("%", " %")
    return (
        f"{share} of the peak is {budget_flops():.2e} FLOPs: {tokens() / 1e9:.0f} B tokens by 6ND"
    )


def _size() -> str:
    best = planning.optimal(compute=budget_flops())
    ratio = tokens() / Model(MODEL).parameters.total
    return (
        f"optimal for that compute: {best.parameters / 1e9:.1f} B; {MODEL} is smaller and sees "
        f"{ratio:.0f} tokens per parameter: cheaper to serve"
    )


def _sequence() -> str:
    model = Model(MODEL)
    short, long = (
        compute.flops(Run(model, sequence=s)).total / s for s in (SEQUENCE, 8 * SEQUENCE)
    )
    return (
        f"{SEQUENCE} tokens per sequence, flash attention; {8 * SEQUENCE} costs "
        f"{long / short:.2f} times the FLOPs per token (all pairs)"
    )


def _run() -> Run:
    return Run(
        MODEL,
        sequence=SEQUENCE,
        micro_batch=2,
        accumulation=16,
        data=GPUS,
        zero=3,
        precision="bf16-master",
        gradients="fp32",
        optimizer="adamw-fused",
    )


def _memory() -> str:
    alone = replace(_run(), accumulation=1, data=1, zero=0)
    held = memory(alone)
    state = held.parameters + held.gradients + held.optimizer
    return (
        f"one GPU alone, 2 x {SEQUENCE} tokens: {gb(held.total)} at the peak ({held.peak_phase}), "
        f"{gb(state)} of state: {held.on(CARD).verdict} on an H100"
    )


def _optimizer() -> str:
    adamw, muon = (
        memory(replace(_run(), sequence=1, data=1, zero=0, optimizer=name)).optimizer
        for name in ("adamw-fused", "muon")
    )
    return (
        f"AdamW, fused; bf16 weights, fp32 master and gradients: {bytes_per_parameter('fp32')} "
        f"bytes per parameter. Muon would keep {gb(adamw - muon)} less"
    )


def _batch() -> str:
    run = _run()
    return (
        f"micro-batches of {run.micro_batch} x {SEQUENCE} tokens, {run.accumulation} of them on "
        f"each of {GPUS} GPUs: {GPUS * run.micro_batch * run.accumulation * SEQUENCE:,} tokens per "
        "step, no recompute"
    )


def lowest_stage(run: Run) -> Run:
    """The run with the lowest ZeRO stage that fits its card: it sends least."""
    tried = (replace(run, zero=stage) for stage in range(4))
    return next(each for each in tried if memory(each).on(CARD).verdict == "fits")


def _sharding() -> str:
    run = lowest_stage(_run())
    return (
        f"ZeRO {run.zero} on {run.data} GPUs, {run.accumulation} micro-batches of "
        f"{run.micro_batch}: {gb(memory(run).total)} of tensors per GPU, "
        f"{gb(communication(run).total)} sent per step"
    )


def _split() -> str:
    plain = _run()
    run = replace(plain, zero=1, micro_batch=1, accumulation=2 * plain.accumulation)
    halved = replace(run, tensor=2, data=run.data // 2, accumulation=2 * run.accumulation)
    one, two = (step_time(each, CARD).total for each in (run, halved))
    return (
        f"data {run.data} alone, ZeRO {run.zero}, micro-batch {run.micro_batch}: "
        f"{run.tokens / one / run.gpus:,.0f} tokens/s per GPU; tensor 2 would give "
        f"{one / two:.0%} of it"
    )


def _storage() -> str:
    run = _run()
    needed, saved = (
        planning.disk(run, tokens(), documents=tokens() / 1000),
        planning.checkpoint(run),
    )
    return (
        f"{gb(needed.total)}: {count(tokens())} tokens of 4 bytes, 3 checkpoints of "
        f"{gb(saved.total)}"
    )


def sure_tokens() -> float:
    """Tokens on which the model is ready in time at the high end of the band."""
    return tokens() * DAYS / planning.cost(_run(), CARD, tokens()).days_band[1]


def _time() -> str:
    spent = planning.cost(_run(), CARD, sure_tokens())
    (first, last), (least, most) = spent.days_band, spent.dollars_band
    return (
        f"{count(sure_tokens())} tokens: {spent.days:.1f} days, {first:.1f} to {last:.1f}; "
        f"${least:,.0f} to ${most:,.0f}; {spent.facility / 1000:.1f} MWh"
    )


def _decision() -> str:
    widest = next(iter(planning.costs.error_budget()))
    return f"{MODEL} on {count(sure_tokens())} tokens is ready in {DAYS} days; widest: {widest}"


# Topic -> the lesson that writes it, and the line. In the order of the lessons.
_STORY: dict[str, tuple[str, Callable[[], str]]] = {
    "budget": ("00", _budget),
    "model": ("01", _model),
    "compute": ("02", _compute),
    "size": ("03", _size),
    "sequence": ("04", _sequence),
    "memory": ("05", _memory),
    "optimizer": ("06", _optimizer),
    "batch": ("07", _batch),
    "sharding": ("08", _sharding),
    "split": ("09", _split),
    "storage": ("10", _storage),
    "time": ("11", _time),
    "decision": ("11", _decision),
}
TOPICS = {topic: lesson for topic, (lesson, _) in _STORY.items()}


def line(topic: str) -> str:
    """The course's own line of a topic; ValueError with those that there are if it is none."""
    if topic not in _STORY:
        raise ValueError(f"topic: {topic!r} given; allowed: {', '.join(_STORY)}")
    return _STORY[topic][1]()
