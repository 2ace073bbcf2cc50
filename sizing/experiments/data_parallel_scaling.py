"""data-parallel-scaling: the same step in 1, 2, 4, ... processes, and what efficiency is left.

Weak scaling under PyTorch's DDP: every rank takes the same micro-batch, so that with perfect
scaling a step would last as long in any world. What it lasts is measured beside its parts, all in
turn in the same world, because computers differ from one minute to the next: the step of one rank
while the others wait, the step of all ranks at once without their all-reduce (they share memory
bandwidth, caches and power), and the all-reduce of as many bytes on its own. The sum of the last
two is the step without overlap.

On a CPU every process has the same number of threads, in a world of one too: what the cores give
each in the largest world.
"""

from __future__ import annotations

import statistics
from contextlib import nullcontext

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from ..measuring import workers
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.timing import summary
from ..measuring.traffic import Traffic
from ..measuring.training import BYTES_MODEL, as_run, default_precision, describe, named, real_step
from ..measuring.workers import World
from ..run import Run

ROUNDS = 7  # in each of which everything is timed once
WARMUP = 3  # steps; DDP plans its buckets anew after the first


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batches: tuple[int, ...] = (1, 4),
    precision: str | None = None,
    ranks: tuple[int, ...] | None = None,
) -> list[Row]:
    """Worlds of several sizes, at a small and a larger micro-batch.

    Args:
        model: name of a preset; by default pythia-410m on GPUs, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 1024 on GPUs, 128 on a CPU.
        micro_batches: sequences of a rank.
        precision: as in `Run`; by default fp32 on a CPU, bf16-mixed on GPUs.
        ranks: sizes of the world; by default the powers of two up to one rank a GPU, 1 and 2 on a
            CPU; where torchrun started the world, that alone.
    """
    most = workers.processes(device)
    worlds = ranks or ((most,) if workers.torchrun() else _doubling(most))
    threads = None if device.cuda else max(1, device.cores // max(worlds))
    points = []
    for micro_batch in micro_batches:
        run = Run(
            named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)),
            sequence=sequence or (1024 if device.cuda else 128),
            micro_batch=micro_batch,
            precision=precision or default_precision(device),
            optimizer="adamw-fused",
        )
        points += [{"ranks": count, "threads": threads, **describe(run)} for count in worlds]
    return points


def _doubling(most: int) -> tuple[int, ...]:
    """1, 2, 4, ... and the most itself."""
    return tuple(sorted({2**n for n in range(most.bit_length())} | {most}))


def measure(point: Row, device: Device) -> list[Row]:
    """One row a rank.

    Columns, in seconds: ``seconds`` of its step (median, with spread), ``alone_seconds`` of that of
    rank 0 while the others wait, ``compute_seconds`` of its own beside the others without the
    all-reduce, ``all_reduce_seconds``. ``tokens_per_second`` are the world's, at the pace of the
    slowest rank of each round; ``efficiency`` is that over what as many ranks would do, each as
    fast as rank 0 alone.
    """
    return workers.launch(work, point, point["ranks"], device)


def work(point: Row, world: World) -> Row:
    """Train on this rank and report."""
    if point["threads"]:
        torch.set_num_threads(point["threads"])
    run, ranks = as_run(point), world.ranks
    step = real_step(run, world.device)
    size = sum(p.numel() * p.element_size() for p in step.model.parameters())
    together, quiet = step, nullcontext
    if ranks > 1:
        # Buffers are the same on all ranks: nothing but gradients needs to be sent.
        step.model = DistributedDataParallel(step.model, broadcast_buffers=False)
        quiet = step.model.no_sync
    gradients = torch.zeros(size // 4, device=world.target)

    def compute() -> None:
        with quiet():
            step()

    for _ in range(WARMUP):
        together()
    with Traffic(ranks) as traffic:
        together()
    alone, computing, reducing, samples = [], [], [], []
    for _ in range(ROUNDS):
        if ranks > 1:
            if world.rank == 0:
                alone.append(world.seconds(compute, together=False))
            computing.append(world.seconds(compute))
            reducing.append(world.seconds(lambda: dist.all_reduce(gradients)))
        samples.append(world.seconds(together))
    if ranks == 1:
        alone, computing, reducing = samples, samples, [0.0]
    everyone = _gathered({"samples": samples, "alone": alone}, world)
    slowest = statistics.median(map(max, zip(*(row["samples"] for row in everyone), strict=True)))
    one = statistics.median(everyone[0]["alone"])
    return {
        "rank": world.rank,
        "tokens": run.tokens,
        **summary(samples).row,
        "alone_seconds": one,
        "compute_seconds": statistics.median(computing),
        "all_reduce_seconds": statistics.median(reducing),
        "gradient_bytes": size,
        "sent_bytes": traffic.total,
        "tokens_per_second": ranks * run.tokens / slowest,
        "efficiency": one / slowest,
    }


def _gathered(mine: dict, world: World) -> list[dict]:
    """What every rank has to say."""
    if world.ranks == 1:
        return [mine]
    rows = [None] * world.ranks
    dist.all_gather_object(rows, mine)
    return rows


EXPERIMENT = Experiment("data-parallel-scaling", grid, measure, workers.find, distributed=True)
