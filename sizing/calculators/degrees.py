"""Tensor x pipeline degrees on a cluster: time and memory of each pair, or why it is impossible."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from functools import lru_cache

from ..compute import flops
from ..footprint.step import Memory, memory
from ..hardware import GPU
from ..parallel import check_degrees
from ..run import Run
from ..speed.step import StepTime, step_time
from ..units import GB, gb
from .base import powers_of_two

TENSOR, PIPELINE = tuple(powers_of_two(1, 32)), tuple(powers_of_two(1, 64))
NO_GPUS = "GPUs"
_DIVISOR = re.compile(r"a divisor of (?:the )?(.+) = \d+")


@dataclass(frozen=True)
class Cluster:
    """What a plan runs on: an accelerator, how many, how many a node, the network between nodes in
    bytes/s of a GPU, one direction, and the engine's launching time in units of its own."""

    card: GPU
    gpus: int
    node: int
    network: float
    host: float


@dataclass(frozen=True)
class Cell:
    """One choice of degrees. `run` is None where there can be none, `time` and `memory` where it
    was not computed; `reason` says why it is impossible, `short` in a word or two; `warning` what
    to know of a possible one."""

    tensor: int
    pipeline: int
    run: Run | None = None
    time: StepTime | None = None
    memory: Memory | None = None
    mfu: float = 0.0
    reason: str = ""
    short: str = ""
    warning: str = ""

    @property
    def possible(self) -> bool:
        return not self.reason

    @property
    def speed(self) -> float:
        """Tokens per second and GPU; 0 where impossible."""
        return self.time.tokens_per_second(self.run) if self.possible else 0.0

    @property
    def name(self) -> str:
        data = f" x data {self.run.data}" if self.run else ""
        return f"tensor {self.tensor} x pipeline {self.pipeline}{data}"


def cell(run: Run, cluster: Cluster, sequences: int, tensor: int, pipeline: int) -> Cell:
    """Time and memory of one choice of degrees, or why it is impossible.

    Args:
        run: model, sequence, micro-batch, precision, ZeRO stage, context degree and the like; its
            data, tensor, pipeline and accumulation are replaced.
        sequences: of the global batch. Data parallelism takes the GPUs that are left.
    """
    no = Cell(tensor, pipeline)
    ranks = tensor * pipeline * run.context
    if cluster.gpus % ranks:
        times = f" x context {run.context}" if run.context > 1 else ""
        return replace(
            no,
            reason=f"tensor {tensor} x pipeline {pipeline}{times} = {ranks} GPUs; "
            f"allowed: a divisor of the {cluster.gpus} there are",
            short=NO_GPUS,
        )
    data = cluster.gpus // ranks
    whole = replace(run, data=data, tensor=tensor, pipeline=pipeline)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            check_degrees(whole)
        except ValueError as error:
            return replace(no, reason=str(error), short=_what(str(error)))
    if pipeline > run.model.layers:
        return replace(no, reason=str(caught[0].message), short="layers")
    if sequences % (data * run.micro_batch):
        return replace(
            no,
            reason=f"the batch has {sequences:,} sequences; data {data} x micro-batch "
            f"{run.micro_batch} takes {data * run.micro_batch:,} at once; allowed: a divisor of it",
            short="batch",
        )
    whole = replace(whole, accumulation=sequences // (data * run.micro_batch))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # check_degrees again, which we have heard
        time = step_time(
            whole, cluster.card, network=cluster.network, node=cluster.node, host=cluster.host
        )
        held = memory(whole)
    rate = cluster.card.peak_flops(run.recipe.products)
    done = replace(
        no,
        run=whole,
        time=time,
        memory=held,
        mfu=flops(whole).model / (time.total * whole.gpus * rate),
        warning=str(caught[0].message) if caught else "",
    )
    excess = held.total - cluster.card.memory
    if excess <= 0:
        return done
    return replace(
        done,
        reason=f"does not fit: {gb(held.total)} at the peak, {gb(excess)} more than the "
        f"{gb(cluster.card.memory)} of {cluster.card.label}",
        short=f"+{excess / GB:,.0f} GB" if excess >= GB else "+<1 GB",
    )


def _what(message: str) -> str:
    """What is not divided, from a message of check_degrees."""
    found = _DIVISOR.search(message)
    return found[1].replace("_", " ").split(" / ")[0] if found else "degrees"


@lru_cache(maxsize=64)
def grid(run: Run, cluster: Cluster, sequences: int) -> dict[tuple[int, int], Cell]:
    """{(tensor, pipeline): cell} over TENSOR and PIPELINE."""
    pairs = [(t, p) for p in PIPELINE for t in TENSOR]
    return {(t, p): cell(run, cluster, sequences, t, p) for t, p in pairs}


def best(cells: dict[tuple[int, int], Cell]) -> Cell | None:
    """The possible choice with the most tokens per second, of equals that with the least memory."""
    possible = [c for c in cells.values() if c.possible]
    return max(possible, key=lambda c: (c.speed, -c.memory.total), default=None)
