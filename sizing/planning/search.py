"""The plan: which runs are possible on the GPUs that there are, and which is the best of them.

Every combination of a card, a number of GPUs and of the fields of `Run` that the search may vary is
a candidate. `step_time` orders them, `memory` drops those that do not fit, `cost` prices the rest.
Fields and their values come from `Run` and `CHOICES`, so that a choice added there is searched too.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from functools import cache
from itertools import product

from ..architecture.model import Model, presets
from ..footprint.fit import communicators, fit, room
from ..footprint.step import memory, model_state
from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..parallel import check_degrees
from ..run import CHOICES, Run
from ..speed.rates import NETWORK, NODE
from ..speed.step import step_time
from ..units import GB, count, gb
from .costs import Cost, cost, usual_price
from .scaling import TRAIN, optimal

# Fields whose values change what is trained and not only how fast: as the template has them.
KEPT = (
    *("model", "sequence", "precision", "gradients", "optimizer", "attention", "lora"),
    *("offload", "optimizer_in_backward", "objective", "reduce"),
    *("quantization", "kernels", "loss", "outputs", "engine", "scaling", "document"),
)
# Fields with a number that the search sets from the count of GPUs and the batch.
COUNTED = ("micro_batch", "accumulation", "data", "tensor", "pipeline", "context")
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
CONTEXTS = (1, 2, 4, 8)
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. (arXiv:2203.15556), Table 3, rounded
OFF_BATCH = 0.1  # share by which a candidate's global batch may miss the one asked for


@dataclass(frozen=True)
class Candidate:
    """A run on a card, priced.

    Attributes:
        run: with its degrees.
        device: the card.
        memory: bytes at the peak of the fullest GPU.
        fits: "fits", "tight" or "does not fit", as `Memory.on` judges.
        cost: hours, days, dollars with their bands; None where it does not fit.
        reason: why this one, in words.
        missing: what it lacks, in words; empty for a feasible one.
    """

    run: Run
    device: GPU
    memory: int
    fits: str
    cost: Cost | None
    reason: str
    missing: str = ""

    @property
    def gpu(self) -> str:
        """The card's slug."""
        return self.device.name

    @property
    def capacity(self) -> int:
        """Bytes of the card."""
        return self.device.memory

    @property
    def feasible(self) -> bool:
        return not self.missing

    @property
    def gpus(self) -> int:
        return self.run.gpus

    @property
    def layout(self) -> str:
        """The fields that the search has set, in words."""
        return layout(self.run)


@dataclass(frozen=True)
class Plan:
    """What `plan` found.

    Attributes:
        runs: feasible candidates, the best first.
        rejected: one candidate for each card and count that lacks something, the nearest first.
        considered: candidates looked at.
        dropped: {why: how many} of those that were never priced.
        tokens: to train on.
        rank: "money" or "time".
    """

    runs: tuple[Candidate, ...]
    rejected: tuple[Candidate, ...]
    considered: int
    dropped: dict[str, int]
    tokens: float
    rank: str

    @property
    def best(self) -> Candidate | None:
        return self.runs[0] if self.runs else None

    @property
    def frontier(self) -> tuple[Candidate, ...]:
        """Feasible candidates of which no other is both quicker and cheaper, the quickest first."""
        return frontier(self.runs)

    def __str__(self) -> str:
        lines = [
            f"{self.considered:,} candidates for {count(self.tokens)} tokens, by {self.rank}: "
            f"{len(self.runs)} feasible"
        ]
        for candidate in self.runs[:5]:
            low, high = candidate.cost.days_band
            lines.append(
                f"{candidate.gpus:>5} x {candidate.gpu:<14} {candidate.cost.days:7.1f} days "
                f"({low:.1f} to {high:.1f})  {candidate.cost.dollars:>12,.0f} dollars  "
                f"{candidate.fits:<5} {candidate.memory / GB:5.1f} GB  {candidate.layout}"
            )
        lines += [f"{c.gpus:>5} x {c.gpu:<14} {c.missing}" for c in self.rejected[:5]]
        return "\n".join(lines)


def plan(
    model: Model | Run | str | Mapping | float,
    gpus: Mapping[str | GPU, int],
    tokens: float | None = None,
    deadline_days: float | None = None,
    budget: float | None = None,
    *,
    batch: float = 2**22,
    rank: str = "money",
    counts: Iterable[int] | None = None,
    prices: Mapping[str, float] | None = None,
    network: float = NETWORK,
    node: int = NODE,
    keep: int = 3,
    progress: Callable[[list], Iterable] | None = None,
    vary: Mapping[str, Iterable] | None = None,
    **fixed,
) -> Plan:
    """The runs that train a model on the GPUs that there are, the best first.

    Args:
        model: a `Model` or what makes one; a `Run` whose precision, optimizer, sequence and so on
            are kept; or a number of FLOPs, for which the dense preset nearest to the size that
            `optimal` gives is taken with as many tokens as the FLOPs allow.
        gpus: {card: how many there are}, a card being a name in data/gpus.csv or a `GPU`. Fewer are
            tried too: halves, quarters and so on.
        tokens: to train on; by default 20 for each parameter.
        deadline_days: days that it may take, at the middle of the band.
        budget: dollars that it may cost.
        batch: tokens in an optimizer step; a candidate may miss it by a tenth.
        rank: "money" (dollars) or "time" (days).
        counts: numbers of GPUs to try, instead.
        prices: {card: dollars per GPU-hour}, instead of the median on-demand price.
        network, node: as in `step_time`.
        keep: candidates for each card and count.
        progress: wraps the list that the search walks, as `tqdm` does.
        vary: {field of Run: values}, instead of the values that the search would take.
        fixed: fields of `Run` with the one value that they shall have, as `sequence=4096`.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if rank not in ("money", "time"):
        raise ValueError(f"rank: {rank!r} given; allowed: 'money', 'time'")
    cards = _cards(gpus)
    template, tokens = _template(model, tokens, fixed)
    for field, value in (("tokens", tokens), ("batch", batch)):
        if not 0 < value < math.inf:
            raise ValueError(f"{field}: {value!r} given; allowed: a finite number above 0")
    axes = _axes(template, fixed, vary or {})
    groups = [
        (card, number) for card, most in cards.items() for number in _counts(most, node, counts)
    ]
    dropped: Counter = Counter()
    runs: list[Candidate] = []
    rejected: list[Candidate] = []
    considered = 0
    memories: dict[Run, int] = {}
    for device, number in progress(groups) if progress else groups:
        price = (prices or {}).get(device.name) or usual_price(device)
        timed, seen, nearest = _timed(template, device, number, axes, batch, network, node, dropped)
        considered += seen
        found, skipped = _fitting(timed, device, keep, memories, dropped)
        for run, held in found:
            priced = cost(run, device, tokens, price, network=network, node=node)
            runs.append(_candidate(run, device, held, priced, skipped, network, node))
        if not found:
            rejected.append(_too_large(template, device, number, timed, nearest, memories))
    judged = [within(c, deadline_days, budget) for c in runs]
    feasible = [c for c in judged if c.feasible]
    key = _by(rank)
    # Of those that miss a limit, the best of each card and count.
    missed: dict[tuple, Candidate] = {}
    for candidate in sorted((c for c in judged if not c.feasible), key=key):
        missed.setdefault((candidate.gpu, candidate.gpus), candidate)
    return Plan(
        runs=tuple(sorted(feasible, key=key)),
        rejected=(*missed.values(), *rejected),
        considered=considered,
        dropped=dict(dropped),
        tokens=tokens,
        rank=rank,
    )


def frontier(priced: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Those of which no other is both quicker and cheaper, the quickest first."""
    found: list[Candidate] = []
    for candidate in sorted(priced, key=lambda c: (c.cost.days, c.cost.dollars)):
        if not found or candidate.cost.dollars < found[-1].cost.dollars:
            found.append(candidate)
    return tuple(found)


def _by(rank: str) -> Callable[[Candidate], tuple]:
    def key(candidate: Candidate) -> tuple:
        money, time = candidate.cost.dollars, candidate.cost.days
        return (money, time) if rank == "money" else (time, money)

    return key


# --- What is searched ----------------------------------------------------------------------------


def _cards(gpus: Mapping[str | GPU, int]) -> dict[GPU, int]:
    if not isinstance(gpus, Mapping) or not gpus:
        allowed = "{card: how many}, as {'h100-sxm': 64}"
        raise ValueError(f"gpus: {gpus!r} given; allowed: {allowed}")
    for card, number in gpus.items():
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            name = card.name if isinstance(card, GPU) else card
            raise ValueError(f"gpus[{name!r}]: {number!r} given; allowed: a whole number >= 1")
    return {c if isinstance(c, GPU) else find_gpu(c): number for c, number in gpus.items()}


def _template(model, tokens: float | None, fixed: Mapping) -> tuple[Run, float]:
    """The run whose fields the candidates keep, and the tokens to train on."""
    unknown = sorted(set(fixed) - {field.name for field in fields(Run)})
    if unknown:
        allowed = ", ".join(field.name for field in fields(Run))
        raise ValueError(f"{unknown[0]}: not a field of Run; allowed: {allowed}")
    if isinstance(model, (int, float)) and not isinstance(model, bool):
        if not 0 < model < math.inf:
            raise ValueError(f"model: {model!r} FLOPs given; allowed: a finite number above 0")
        size, sized = optimal(model).parameters, _sizes()
        nearest = min(sized, key=lambda name: abs(math.log(sized[name] / size)))
        tokens = model / (TRAIN * sized[nearest]) if tokens is None else tokens
        model = nearest
    if isinstance(model, Run):
        run = replace(model, **fixed)
    else:
        model = model if isinstance(model, Model) else Model(model)
        usual = {
            "precision": "bf16-master",
            "optimizer": "adamw-fused",
            "gradients": "fp32",
            "sequence": min(2048, model.max_positions or 2048),
        }
        run = Run(model, **{**usual, **fixed})
    if tokens is None:
        tokens = TOKENS_PER_PARAMETER * run.model.parameters.total
    return run, tokens


@cache
def _sizes() -> dict[str, int]:
    """Parameters of every dense preset: the laws were fitted to dense models."""
    counts = {name: Model(name).parameters for name in presets()}
    return {name: c.total for name, c in counts.items() if c.active == c.total}


def _axes(template: Run, fixed: Mapping, vary: Mapping) -> dict[str, tuple]:
    """{field: values} of all fields of `Run` that are neither kept nor counted out."""
    axes: dict[str, tuple] = {}
    for field in fields(Run):
        name = field.name
        if name in vary:
            axes[name] = tuple(vary[name])
        elif name in fixed or name in KEPT:
            axes[name] = (getattr(template, name),)
        elif name in CHOICES:
            axes[name] = CHOICES[name]
        elif name == "micro_batch":
            axes[name] = MICRO_BATCHES
        elif name == "context":
            axes[name] = CONTEXTS if template.sequence >= 32_768 else (1,)
        elif name not in COUNTED:
            axes[name] = (getattr(template, name),)
    # With fused attention "selective" is per operation, which the search leaves to `vary`.
    if axes.get("attention") == ("flash",) and "recompute" not in vary:
        axes["recompute"] = tuple(v for v in axes["recompute"] if v != "selective")
    axes["fixed"] = tuple(name for name in COUNTED if name in fixed)
    for name in COUNTED:
        if name in fixed:
            axes[name] = (fixed[name],)
    return axes


def _counts(most: int, node: int, counts: Iterable[int] | None) -> list[int]:
    """Numbers of GPUs to try: all, a half, a quarter and so on, whole nodes above one."""
    if counts is not None:
        return sorted({number for number in counts if number <= most}, reverse=True)
    found = []
    number = most
    while number >= 1:
        if number <= node or number % node == 0:
            found.append(number)
        number //= 2
    return found


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def _degrees(model: Model, number: int, node: int, axes: Mapping) -> Iterator[tuple[int, ...]]:
    """(tensor, pipeline, context, data) with this product. Tensor parallelism stays in a node."""
    tensors = axes.get("tensor") or _divisors(number, node)
    for tensor in tensors:
        if number % tensor or model.heads % tensor or model.kv_heads % tensor or model.ffn % tensor:
            continue
        rest = number // tensor
        for pipeline in axes.get("pipeline") or _divisors(rest, min(model.layers, 64)):
            for context in axes["context"]:
                if rest % (pipeline * context):
                    continue
                data = rest // (pipeline * context)
                if "data" not in axes or data in axes["data"]:
                    yield tensor, pipeline, context, data


def _timed(
    template: Run,
    device: GPU,
    number: int,
    axes: Mapping,
    batch: float,
    network: float,
    node: int,
    dropped: Counter,
) -> tuple[list[tuple[float, Run]], int, Run | None]:
    """Candidates with their GPU-seconds per token, the quickest first; how many there were; and the
    one that holds least model state, for a group in which nothing fits."""
    model, seen = template.model, 0
    names = [name for name in axes if name not in (*COUNTED, *KEPT, "fixed")]
    kept = [name for name in KEPT if name != "model" and len(axes[name]) > 1]
    state = model_state(replace(template, data=1, tensor=1, pipeline=1, context=1, zero=0))
    parts = (state.parameters, state.gradients, state.optimizer)
    timed: list[tuple[float, Run]] = []
    least: tuple[float, Run] | None = None
    for tensor, pipeline, context, data in _degrees(model, number, node, axes):
        for values in product(*(axes[name] for name in (*names, *kept))):
            chosen = dict(zip((*names, *kept), values, strict=True))
            zero = chosen.get("zero", template.zero)
            if (zero and data * context == 1) or (zero >= 2 and pipeline > 1):
                dropped["ZeRO without ranks to divide by, or under a pipeline"] += 1
                seen += 1
                continue
            ranks = data * context
            share = sum(
                size / (ranks if zero >= stage else 1)
                for size, stage in zip(parts, (3, 2, 1), strict=True)
            ) / (tensor * pipeline)
            for micro in axes["micro_batch"]:
                seen += 1
                accumulation = max(1, round(batch / (template.sequence * data * micro)))
                step = accumulation * template.sequence * data * micro
                if abs(step / batch - 1) > OFF_BATCH:
                    dropped["global batch missed by more than a tenth"] += 1
                    continue
                run = replace(
                    template,
                    **chosen,
                    micro_batch=micro,
                    accumulation=accumulation,
                    data=data,
                    tensor=tensor,
                    pipeline=pipeline,
                    context=context,
                )
                if least is None or share < least[0]:
                    least = share, run
                if share > room(device) and not kept:
                    dropped["model state alone does not fit"] += 1
                    continue
                try:
                    seconds = _seconds(run, device, network, node)
                except ValueError as error:
                    dropped[str(error).split(" given")[0]] += 1
                    continue
                timed.append((seconds * number / run.tokens, run))
    timed.sort(key=lambda pair: pair[0])
    return timed, seen, least[1] if least else None


def _seconds(run: Run, device: GPU, network: float, node: int) -> float:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_degrees(run)
        return step_time(run, device, network=network, node=node).total


def _held(run: Run, memories: dict[Run, int]) -> int:
    """Bytes at the peak, which do not depend on the number of micro-batches beyond two."""
    key = replace(run, accumulation=min(run.accumulation, max(2, run.pipeline)))
    if key not in memories:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            memories[key] = memory(key).total
    return memories[key]


def _fitting(
    timed: list[tuple[float, Run]],
    device: GPU,
    keep: int,
    memories: dict[Run, int],
    dropped: Counter,
) -> tuple[list[tuple[Run, int]], tuple[Run, int] | None]:
    """The first candidates that fit, and the quickest one that would have been better but does not.

    Memory is asked for in the order of time, and no longer than needed.
    """
    found: list[tuple[Run, int]] = []
    skipped: tuple[Run, int] | None = None
    beyond: dict[Run, int] = {}  # smallest micro-batch of a layout that did not fit
    for position, (_, run) in enumerate(timed):
        shape = replace(run, micro_batch=1, accumulation=1)
        if run.micro_batch >= beyond.get(shape, math.inf):
            dropped["does not fit"] += 1
            continue
        held = _held(run, memories)
        if held > room(device, communicators(run)):
            beyond[shape] = min(run.micro_batch, beyond.get(shape, math.inf))
            dropped["does not fit"] += 1
            skipped = skipped or (None if found else (run, held))
            continue
        found.append((run, held))
        if len(found) == keep:
            dropped["slower than the best ones"] += len(timed) - position - 1
            break
    return found, skipped


# --- Words ---------------------------------------------------------------------------------------


def layout(run: Run) -> str:
    """Degrees, ZeRO, recompute and micro-batch of a run in words, what is not used left out."""
    words = [
        f"{name} {degree}"
        for name, degree in (
            ("data", run.data),
            ("tensor", run.tensor),
            ("pipeline", run.pipeline),
            ("context", run.context),
        )
        if degree > 1
    ] or ["one GPU"]
    if run.zero:
        words.append(f"ZeRO-{run.zero}")
    if run.recompute != "none":
        words.append(f"{run.recompute} recompute")
    words.append(f"micro-batch {run.micro_batch} x {run.accumulation}")
    return ", ".join(words)


_PARTS = {
    "attention": "attention",
    "elementwise": "memory traffic between the matrix products",
    "recompute": "recompute",
    "host": "waiting for Python to launch kernels",
    "tensor_parallel": "tensor-parallel communication",
    "context_parallel": "context-parallel communication",
    "expert_parallel": "tokens on their way to experts",
    "pipeline_transfer": "messages between stages",
    "pipeline_bubble": "the pipeline's bubble",
    "data_parallel": "data-parallel communication",
    "optimizer": "the optimizer",
}


def _candidate(run, device, held, priced, skipped, network, node) -> Candidate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        parts = step_time(run, device, network=network, node=node).parts
    total = sum(parts.values())
    largest = max(_PARTS, key=lambda name: parts[name])
    words = [
        f"{parts['matmul'] / total:.0%} of a step are matrix products, "
        f"{parts[largest] / total:.0%} {_PARTS[largest]}"
    ]
    if skipped:
        other, needed = skipped
        words.append(
            f"quicker would be {_difference(other, run)}, which needs {gb(needed)} of "
            f"{gb(device.memory)}"
        )
    elif run.gpus > 1:
        words.append("the quickest of all layouts on these GPUs")
    return Candidate(
        run, device, held, fit(held, device, communicators(run)).verdict, priced,
        "; ".join(words),
    )  # fmt: skip


def _difference(other: Run, run: Run) -> str:
    """What the other run does differently."""
    names = [field.name for field in fields(Run) if field.name not in ("model", "accumulation")]
    changed = [name for name in names if getattr(other, name) != getattr(run, name)]
    return ", ".join(f"{name}={getattr(other, name)!r}" for name in changed) or "the same"


def within(candidate: Candidate, deadline: float | None, budget: float | None) -> Candidate:
    """A priced candidate with what it lacks to be done in so many days and for so many dollars."""
    days, dollars = candidate.cost.days, candidate.cost.dollars
    lacks = []
    if deadline is not None and days > deadline:
        lacks.append(
            f"{days - deadline:,.1f} days over the deadline of {deadline:g}: it would take "
            f"{days / deadline:.1f} times as many GPUs, or {deadline / days:.0%} of the tokens"
        )
    if budget is not None and dollars > budget:
        lacks.append(
            f"{dollars - budget:,.0f} dollars over the budget of {budget:,.0f}: it would take a "
            f"price of {candidate.cost.price * budget / dollars:.2f} dollars per GPU-hour, or "
            f"{budget / dollars:.0%} of the tokens"
        )
    return replace(candidate, missing="; ".join(lacks))


def _too_large(template, device, number, timed, nearest, memories) -> Candidate:
    """The candidate of a group, in which nothing fits, that comes nearest."""
    if nearest is None:
        return Candidate(
            replace(template, data=number), device, 0, "does not fit", None, "",
            f"no degrees of {number} GPUs make the global batch: choose another `batch`",
        )  # fmt: skip
    tried = [nearest, *(run for _, run in timed[-8:])]
    tried = [replace(r, recompute="full") if r.recompute == "none" else r for r in tried]
    held, run = min(((_held(run, memories), run) for run in tried), key=lambda pair: pair[0])
    most = room(device, communicators(run))
    short = held - most
    enough = math.ceil(number * held / most)
    return Candidate(
        run, device, held, "does not fit", None, "",
        f"does not fit: {gb(held)} on the fullest GPU at least, {gb(short)} too many; it would "
        f"take about {enough} such GPUs, or larger ones",
    )  # fmt: skip
