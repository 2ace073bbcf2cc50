"""The plan: which runs are possible on the GPUs that there are, and which is the best of them.

Every combination of a card, a number of GPUs and of the fields of `Run` that the search may vary is
a candidate. `step_time` orders them, `memory` drops those that do not fit, `cost` prices the rest.
`axes` has what is varied, `candidates` what a candidate is and says.
"""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product

from ..architecture.model import Model
from ..footprint.fit import communicators, room
from ..footprint.step import memory, model_state
from ..hardware import GPU
from ..partition import check_degrees, expert_slices, routed_parameters
from ..run import Run
from ..speed.rates import NETWORK, NODE
from ..speed.step import step_time
from ..units import GB, count, gb, positive
from .axes import (
    COUNTED,
    KEPT,
    axes_of,
    cards_of,
    check_search,
    counts_of,
    degrees_of,
    template_of,
)
from .candidates import Candidate, priced_candidate, within
from .costs import cost, usual_price

OFF_BATCH = 0.1  # share by which a candidate's global batch may miss the one asked for


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
    cards = cards_of(gpus)
    template, tokens = template_of(model, tokens, fixed)
    limits = {"deadline_days": deadline_days, "budget": budget}
    limits = {field: value for field, value in limits.items() if value is not None}
    for field, value in ({"tokens": tokens, "batch": batch} | limits).items():
        positive(field, value)
    counts = tuple(counts) if isinstance(counts, Iterable) else counts
    check_search(cards, prices, counts, keep, vary)
    axes = axes_of(template, fixed, vary or {})
    groups = [
        (card, number) for card, most in cards.items() for number in counts_of(most, node, counts)
    ]
    dropped: Counter = Counter()
    runs: list[Candidate] = []
    rejected: list[Candidate] = []
    considered = 0
    memories: dict[Run, int] = {}
    for device, number in progress(groups) if progress else groups:
        price = _price(device, prices or {})
        timed, seen, nearest, refused = _timed(
            template, device, number, axes, batch, network, node, dropped
        )
        considered += seen
        found, skipped = _fitting(timed, device, keep, memories, dropped)
        for run, held in found:
            priced = cost(run, device, tokens, price, network=network, node=node)
            runs.append(priced_candidate(run, device, held, priced, skipped, network, node))
        if not found:
            rejected.append(_too_large(template, device, number, timed, nearest, refused, memories))
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


def _price(device: GPU, prices: Mapping[str, float]) -> float:
    """Dollars per GPU-hour, as given or as listed."""
    if device.name in prices:
        return prices[device.name]
    try:
        return usual_price(device)
    except ValueError:
        raise ValueError(
            f"prices: none given for {device.name!r}, and data/prices.csv has none on demand; "
            f"allowed: prices={{{device.name!r}: dollars per GPU-hour}}"
        ) from None


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


def _timed(
    template: Run,
    device: GPU,
    number: int,
    axes: Mapping,
    batch: float,
    network: float,
    node: int,
    dropped: Counter,
) -> tuple[list[tuple[float, Run]], int, Run | None, str]:
    """Candidates with their GPU-seconds per token, the quickest first; how many there were; the one
    that holds least model state, for a group in which nothing fits; and why the first of those that
    no engine runs, or whose time nobody knows, was refused."""
    model, seen = template.model, 0
    names = [name for name in axes if name not in (*COUNTED, *KEPT, "fixed")]
    kept = [name for name in KEPT if name != "model" and len(axes[name]) > 1]
    share_of = _state_share(template)
    timed: list[tuple[float, Run]] = []
    least: tuple[float, Run] | None = None
    refused, divided = "", False
    for tensor, pipeline, context, data in degrees_of(model, number, node, axes):
        for values in product(*(axes[name] for name in (*names, *kept))):
            chosen = dict(zip((*names, *kept), values, strict=True))
            zero = chosen.get("zero", template.zero)
            if (zero and data * context == 1) or (zero >= 2 and pipeline > 1):
                dropped["ZeRO without ranks to divide by, or under a pipeline"] += 1
                seen += 1
                continue
            divided = True
            for micro in axes["micro_batch"]:
                seen += 1
                accumulation = max(1, round(batch / (template.sequence * data * micro)))
                step = accumulation * template.sequence * data * micro
                if abs(step / batch - 1) > OFF_BATCH:
                    dropped["global batch missed by more than a tenth"] += 1
                    continue
                try:
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
                    share = share_of(run)
                    if least is None or share < least[0]:
                        _check(run)
                        least = share, run
                    if share > room(device) and not kept:
                        dropped["model state alone does not fit"] += 1
                        continue
                    seconds = _seconds(run, device, network, node)
                except ValueError as error:  # no engine runs it so, or nobody knows its time
                    dropped[str(error).split(" given")[0]] += 1
                    refused = refused or str(error)
                    continue
                timed.append((seconds * number / run.tokens, run))
    timed.sort(key=lambda pair: pair[0])
    if not divided and seen:
        refused = f"zero: its stage has no ranks to divide by on {number} of these GPUs"
    return timed, seen, least[1] if least else None, refused


def _state_share(template: Run) -> Callable[[Run], float]:
    """The least bytes of model state that a GPU of a candidate holds; gradients go to the host with
    the optimizer that lies there, or away with each update in the backward pass."""
    state = model_state(template)
    experts = routed_parameters(template.model) / template.model.parameters.total

    def share(run: Run) -> float:
        least = 0.0
        sent = "optimizer" in run.offload or run.optimizer_in_backward
        for part, stage in (("parameters", 3), ("gradients", 2), ("optimizer", 1)):
            if part in run.offload or (part == "gradients" and sent):
                continue
            ranks = run.tensor * (run.shards if run.zero >= stage else 1)
            routed = ranks if run.zero >= stage else expert_slices(run)
            least += getattr(state, part) * ((1 - experts) / ranks + experts / routed)
        return least / run.pipeline

    return share


def _check(run: Run) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        check_degrees(run)


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
        try:
            held = _held(run, memories)
        except ValueError as error:  # nobody knows what it holds
            dropped[str(error).split(" given")[0]] += 1
            continue
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


def _too_large(template, device, number, timed, nearest, refused, memories) -> Candidate:
    """The candidate of a group, in which nothing fits, that comes nearest."""

    def lacking(run: Run, held: int, why: str) -> Candidate:
        return Candidate(run, device, held, "does not fit", None, "", why)

    if nearest is None:
        plain = {"tensor": 1, "pipeline": 1, "context": 1, "expert": 1, "interleave": 1}
        try:
            alone = replace(template, data=number, **plain)
        except ValueError:  # what no engine divides
            alone = replace(template, data=1, **plain)
        batch = (
            f"no degrees of {number:,} GPUs make a batch near the one asked for: choose another "
            f"`batch`, a multiple of the sequence of {template.sequence:,} tokens"
        )
        return lacking(alone, 0, refused or batch)
    tried = [nearest, *(run for _, run in timed[-8:])]
    tried = [replace(r, recompute="full") if r.recompute == "none" else r for r in tried]
    sized = []
    for run in tried:
        try:
            sized.append((_held(run, memories), run))
        except ValueError as error:
            refused = refused or str(error)
    if not sized:
        return lacking(nearest, 0, refused)
    held, run = min(sized, key=lambda pair: pair[0])
    most = room(device, communicators(run))
    if held <= most:  # it fits, and yet has no time
        return lacking(run, held, refused)
    enough = math.ceil(number * held / most)
    return lacking(
        run,
        held,
        f"does not fit: {gb(held)} on the fullest GPU at least, {gb(held - most)} too many; it "
        f"would take about {enough} such GPUs, or larger ones",
    )
