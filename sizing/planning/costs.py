"""Time, money and energy of a training run.

Hours are steps times `sizing.step_time`, over the share of the time in which steps that last are
taken (goodput): failures, restarts, saves and evaluation take the rest. Rates of failure, power and
prices are rows of data/goodput.csv, data/facilities.csv and data/prices.csv.
`sizing.evidence.hours` holds the result against published runs.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cache
from statistics import median

from ..hardware import GPU, prices
from ..hardware import gpu as find_gpu
from ..run import Run
from ..speed.rates import NETWORK, NODE
from ..speed.step import step_time
from ..units import DATA, DAY, GB, HOUR, not_negative, positive
from .storage import Saving, checkpoint_numbers, saving, token_files

# Assumptions that no source gives, each an argument of `cost`.
RESTART = 600.0  # s from a failure to the first step after it: noticed, rescheduled, loaded, warm
DISK = 1e9  # bytes/s that shared storage takes from each node
EVALUATION = 0.01  # share of the time that evaluation takes
KEEP = 3  # checkpoints on disk at the same time


@dataclass(frozen=True)
class Term:
    """One reason why hours differ from those predicted: factors on the hours, low and high end.

    Attributes:
        name: what it is.
        low, high: factors.
        origin: where they are from.
    """

    name: str
    low: float
    high: float
    origin: str

    @property
    def width(self) -> float:
        """Its part in the band, which is a product: the logarithm of high over low."""
        return math.log(self.high / self.low)


# Of the hours without any loss. Together they hold nine in ten of the runs in data/layouts.csv.
TERMS = (
    Term(
        "step time",
        0.92,
        1.16,
        "a tenth of the runs in data/parallel_error.csv is beyond either end",
    ),
    Term(
        "another engine or older kernels",
        1.0,
        1.47,
        "Pythia 12B's steps, published without lost time, against `step_time` of no named engine",
    ),
    Term(
        "lost time",
        1.0,
        1 / 0.7783,
        "restarts by hand (HLAT in data/goodput.csv) against no loss at all",
    ),
)
FASTEST, SLOWEST = math.prod(t.low for t in TERMS), math.prod(t.high for t in TERMS)


def error_budget() -> dict[str, float]:
    """Each term's share of the band's width; they sum to one, the largest first."""
    total = sum(term.width for term in TERMS)
    shares = {term.name: term.width / total for term in TERMS}
    return dict(sorted(shares.items(), key=lambda item: -item[1]))


@dataclass(frozen=True)
class Goodput:
    """Where the time goes, as shares of the wall-clock time; they sum to one.

    Attributes:
        useful: steps that last.
        failures: restarts and steps done again.
        saves: GPUs that wait for checkpoints.
        evaluation: held-out loss and benchmarks.
        preemption: the same as failures, by a provider who takes spot machines back.
    """

    useful: float
    failures: float
    saves: float
    evaluation: float
    preemption: float


@dataclass(frozen=True)
class Cost:
    """A training run from its first step to its last.

    Attributes:
        gpus: how many.
        steps: optimizer steps.
        step: seconds of one.
        goodput: where the time goes.
        saving: when it saves.
        gpu_hours: GPU-hours, lost time included.
        band: GPU-hours, low and high end: nine in ten published runs lie within.
        price: dollars per GPU-hour.
        compute, storage, idle: dollars for the hours, for data and checkpoints on disk, and for
            GPUs that are paid while nothing runs.
        energy: kWh at the nodes.
        facility: kWh with cooling and distribution.
        carbon: kg of CO2 equivalents of that.
    """

    gpus: int
    steps: int
    step: float
    goodput: Goodput
    saving: Saving
    gpu_hours: float
    band: tuple[float, float]
    price: float
    compute: float
    storage: float
    idle: float
    energy: float
    facility: float
    carbon: float

    @property
    def days(self) -> float:
        """Wall-clock days."""
        return self.gpu_hours / self.gpus / 24

    @property
    def days_band(self) -> tuple[float, float]:
        """Wall-clock days, low and high end."""
        low, high = self.band
        return low / self.gpus / 24, high / self.gpus / 24

    @property
    def dollars(self) -> float:
        """All dollars."""
        return self.compute + self.storage + self.idle

    @property
    def dollars_band(self) -> tuple[float, float]:
        """All dollars, low and high end of the hours."""
        fixed = self.storage + self.idle
        low, high = self.band
        return low * self.price + fixed, high * self.price + fixed


def cost(
    run: Run,
    gpu: str | GPU = "h100-sxm",
    tokens: float = 1e12,
    price: float | None = None,
    *,
    network: float = NETWORK,
    node: int = NODE,
    host: float = 1.0,
    failures: float | None = None,
    restart: float = RESTART,
    disk: float = DISK,
    asynchronous: bool = False,
    evaluation: float = EVALUATION,
    preemption: float = 0.0,
    idle: float = 0.0,
    documents: float = 0,
    pue: float | None = None,
    carbon: float | None = None,
) -> Cost:
    """Hours, days, dollars, energy and carbon of a training run.

    Args:
        run: the training run with its degrees.
        gpu: an accelerator's name in data/gpus.csv, or a `GPU`.
        tokens: seen in training.
        price: dollars per GPU-hour; by default the median on-demand price in data/prices.csv.
        network, node, host: as in `step_time`.
        failures: failures per GPU-hour; by default Llama 3.1 405B's, one in 50 700 GPU-hours.
        restart: seconds from a failure to the first step after it.
        disk: bytes/s that storage takes from each node, when all save.
        asynchronous: whether saving goes on beside training.
        evaluation: share of the time that evaluation takes.
        preemption: times per hour and node that a provider takes a spot node back.
        idle: GPU-hours paid while nothing runs, as a share of the others: queues, debugging.
        documents: in the data, for its size on disk.
        pue: kWh of the facility per kWh of its equipment.
        carbon: kg of CO2 equivalents per kWh.

    Raises:
        ValueError: names the field, the value and what is allowed; a GPU without a price; so many
            failures that no step lasts.
    """
    if not isinstance(run, Run):
        raise ValueError(f"run: {run!r} given; allowed: a sizing.Run")
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    positive("tokens", tokens)
    optional = {"failures": failures, "pue": pue, "carbon": carbon}
    given = {"evaluation": evaluation, "idle": idle, "preemption": preemption, "restart": restart}
    for field, value in (given | {k: v for k, v in optional.items() if v is not None}).items():
        not_negative(field, value)
    if evaluation >= 1:
        raise ValueError(f"evaluation: {evaluation!r} given; allowed: a share below 1")
    if pue is not None and pue < 1:
        raise ValueError(f"pue: {pue!r} given; allowed: 1 or more, all kWh per kWh of equipment")
    price = usual_price(device) if price is None else price
    positive("price", price)
    rate = failure_rate() if failures is None else failures
    step = step_time(run, device, network=network, node=node, host=host).total
    steps = math.ceil(tokens / run.tokens)
    nodes = -(-run.gpus // node)
    share, saved = goodput(
        run,
        failures=rate,
        restart=restart,
        disk=disk * nodes,
        asynchronous=asynchronous,
        evaluation=evaluation,
        preemption=preemption * nodes,
    )
    if share.useful <= 0:
        raise ValueError(
            f"failures: {rate!r} given, and preemption {preemption!r}; allowed: fewer, since "
            f"{run.gpus} GPUs stop before they have saved a step that lasts"
        )
    productive = steps * step * run.gpus / HOUR
    hours = productive / share.useful
    low, high = productive * FASTEST, max(productive * SLOWEST, hours)
    months = hours / run.gpus * HOUR / (DAY * 30)
    kept = token_files(tokens, run.model.vocab, documents, run.sequence).total + KEEP * saved.size
    watts = node_power(device) / NODE
    busy, paused = _facility("busy"), _facility("paused")
    energy = hours * watts * (share.useful * busy + (1 - share.useful) * paused) / 1000
    facility = energy * (_facility("pue") if pue is None else pue)
    return Cost(
        gpus=run.gpus,
        steps=steps,
        step=step,
        goodput=share,
        saving=saved,
        gpu_hours=hours,
        band=(low, high),
        price=price,
        compute=hours * price,
        storage=kept / GB * _facility("storage") * months,
        idle=hours * idle * price,
        energy=energy,
        facility=facility,
        carbon=facility * (_facility("carbon") if carbon is None else carbon),
    )


def goodput(
    run: Run,
    *,
    failures: float,
    restart: float = RESTART,
    disk: float = DISK,
    asynchronous: bool = False,
    evaluation: float = EVALUATION,
    preemption: float = 0.0,
) -> tuple[Goodput, Saving]:
    """Where the wall-clock time of a run goes, and when it saves.

    Failures strike each GPU alike and independently, so that a run on n GPUs fails n times as
    often. It saves as often as loses least (Daly 2006).

    Args:
        run: the training run.
        failures: per GPU-hour.
        restart: seconds from a failure to the first step after it.
        disk: bytes/s that the storage takes from all ranks together.
        asynchronous: whether training goes on while a checkpoint is written.
        evaluation: share of the time that evaluation takes.
        preemption: per hour, of the whole job.
    """
    hourly = failures * run.gpus
    size = checkpoint_numbers(run)

    def saved(rate: float) -> Saving:
        mtbf = HOUR / rate if rate > 0 else math.inf
        return saving(
            size, mtbf, disk=disk, gpus=run.gpus, asynchronous=asynchronous, restart=restart
        )

    both, alone = saved(hourly + preemption), saved(hourly)
    rest = 1 - evaluation
    saves = both.useful * both.stall / both.interval
    lost = max(0.0, 1 - both.useful - saves)
    taken = min(lost, max(0.0, alone.useful - both.useful))
    shares = (both.useful, lost - taken, saves)
    return Goodput(*(share * rest for share in shares), evaluation, taken * rest), both


@cache
def failure_rate() -> float:
    """Failures per GPU-hour of the largest run that published them: Llama 3.1 405B."""
    row = next(row for row in _rows("goodput") if row["name"] == "Llama 3.1 405B")
    return float(row["interruptions"]) / (float(row["gpus"]) * float(row["days"]) * 24)


def usual_price(gpu: str | GPU, kind: str = "on-demand") -> float:
    """The median price in data/prices.csv, in dollars per GPU-hour.

    Raises:
        ValueError: no price is known; give one.
    """
    found = [price.dollars for price in prices(gpu, kind)]
    if not found:
        name = gpu.name if isinstance(gpu, GPU) else gpu
        raise ValueError(
            f"price: none given, and data/prices.csv has no {kind} price of {name!r}; allowed: "
            "dollars per GPU-hour above 0"
        )
    return median(found)


def node_power(gpu: str | GPU) -> float:
    """Watts of a node of eight GPUs and their host at most; by default twice what the GPUs take.

    DGX H100 takes 1.8 times, DGX A100 2.0 times what its eight GPUs are rated at.
    """
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    known = {row["name"].split()[0]: row for row in _rows("facilities") if "node" in row["name"]}
    family = device.name.split("-")[0]
    family = {"h200": "h100", "h800": "h100", "a800": "a100"}.get(family, family)
    if "pcie" not in device.name and family in known:
        return float(known[family]["value"])
    return 2 * NODE * (device.power or 400.0)


def _facility(name: str) -> float:
    return float(next(row["value"] for row in _rows("facilities") if row["name"] == name))


@cache
def _rows(table: str) -> tuple[dict[str, str], ...]:
    with (DATA / f"{table}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def training_time(
    flops: float, gpu: GPU | str, count: int = 1, mfu: float = 0.4, dtype: str = "bf16"
) -> float:
    """Seconds that `count` GPUs need for a number of model FLOPs.

    time = FLOPs / (count x dense peak FLOP/s x MFU): the definition of model FLOPs utilisation
    solved for time (PaLM, arXiv:2204.02311, section 4.1).

    Args:
        flops: model FLOPs of the whole training (forward and backward, without recompute).
        gpu: a `GPU`, or its name in data/gpus.csv.
        count: number of GPUs.
        mfu: model FLOPs utilisation, above 0 and at most 1.
        dtype: which dense peak to hold it against: "bf16", "fp16", "tf32", "fp32" or "fp8".

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if not flops > 0:
        raise ValueError(f"flops: {flops!r} given; allowed: a number above 0")
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"count: {count!r} given; allowed: a whole number >= 1")
    if not 0 < mfu <= 1:
        raise ValueError(f"mfu: {mfu!r} given; allowed: above 0 and at most 1, as 0.4 for 40 %")
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    return flops / (count * device.peak_flops(dtype) * mfu)


def megatron_days(parameters: float, tokens: float, count: int, achieved: float) -> float:
    """Days of end-to-end training by Megatron-LM's rule: 8 T P / (n X).

    Eight FLOPs per parameter and token: six of the model and two of full recompute.

    Args:
        parameters: P.
        tokens: T.
        count: n, GPUs.
        achieved: X, FLOP/s that each reaches, recompute counted.

    Source: Narayanan et al. (arXiv:2104.04473), equation 4.

    >>> round(megatron_days(175e9, 300e9, 1024, 140e12))
    34
    """
    for field in ("parameters", "tokens", "count", "achieved"):
        positive(field, locals()[field])
    return 8 * tokens * parameters / (count * achieved) / DAY
