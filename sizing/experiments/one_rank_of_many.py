"""one-rank-of-many: the share of one rank in a world of up to 1024, on one device.

torch's fake process group stands in for the other ranks: a collective returns at once, after the
buffers that it would have filled were allocated as in a real world. So memory and traffic are those
of one rank, while the weights that it gathers hold no meaning: nothing is trained, and no time is
measured. FSDP2 divides; every layer and the model are wrapped, and only the rank's own share is
ever allocated. ``stage`` is 3 where layers are released after forward and gathered again for
backward (ZeRO-3), 2 where they are kept until their backward pass, which sends as much as ZeRO-2
but divides the weights between steps. In a world of 1 nothing is divided: a plain training step.

``how`` tells real tensors, computed on the device, from fake ones, which have a shape and nothing
else: their bytes are counted without there being any, so that a CPU can follow a large model. In
bf16-master a rank of FSDP2 holds fp32 weights and gathers them in bf16, 16 bytes a parameter like
the bf16 weights and master copies of one process. FSDP2 divides weights by rows, and fills those
with fewer rows than ranks up: in a large world it sends more than the parameters' bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.device_mesh import init_device_mesh
from torch.testing._internal.distributed.fake_pg import FakeStore

from ..footprint.step import memory
from ..measuring import workers
from ..measuring.allocations import steady
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.traffic import KINDS, Traffic
from ..measuring.training import BYTES_MODEL, as_run, describe, named
from ..measuring.workers import World
from ..run import Run
from ..trace import build
from ..trace.step import Step
from .zero import divide, fused_adamw, run_of, train_step

RANKS = (1, 8, 64, 1024)
REAL, FAKE = "real tensors", "fake tensors"
LARGE = 70e9  # bytes of a GPU that holds one rank of 64 of a model of 70 B parameters


def grid(
    device: Device,
    model: str | None = None,
    sequence: int = 2048,
    recompute: str = "none",
    ranks: tuple[int, ...] | None = None,
) -> list[Row]:
    """One rank of worlds of several sizes, in both ways to keep gathered weights.

    Args:
        model: name of a preset, traced on fake tensors on a CPU; by default llama-3.2-1b, to which
            a CPU adds a byte-level model on real tensors, a large GPU one rank of llama-3.1-70b.
        sequence: tokens in the one sequence of a rank; 128 for the byte-level model.
        recompute: as in `Run`.
        ranks: sizes of the world; by default 1, 8, 64, 1024, on a CPU's real tensors 1 and 8.
    """
    run = Run(
        named(model or "llama-3.2-1b"),
        sequence=sequence,
        precision="bf16-master",
        optimizer="adamw-fused",
        recompute=recompute,
    )
    points = _points(run, REAL if device.cuda else FAKE, ranks or RANKS)
    if model is None and device.cuda and device.memory > LARGE:
        large = replace(run, model=named("llama-3.1-70b"), recompute="full")
        points += _points(large, REAL, (64, 1024), stages=(3,))
    if model is None and not device.cuda:
        small = replace(run, model=BYTES_MODEL, sequence=128, precision="fp32")
        points += _points(small, REAL, ranks or (1, 8))
    return points


def _points(run: Run, how: str, worlds: tuple[int, ...], stages=(3, 2)) -> list[Row]:
    divided = [("fsdp2", stage, ranks) for stage in stages for ranks in worlds if ranks > 1]
    alone = [("single", 0, 1)] if 1 in worlds else []
    return [
        {"how": how, "engine": engine, "stage": stage, "ranks": ranks, **describe(run)}
        for engine, stage, ranks in alone + divided
    ]


def measure(point: Row, device: Device) -> Row:
    """Memory and bytes sent; on a CPU in a process of its own, which takes the fake world with it.

    On a GPU this process does it: to start another and load torch there takes longer than a step.
    """
    if point["how"] == REAL:
        device.require(memory(run_of(point), device=device.kind).total)
    if device.cuda and not workers.torchrun():
        return _here(point, device)
    (row,) = workers.launch(work, point, 1, device)
    return row


def _here(point: Row, device: Device) -> Row:
    try:
        return work(point, World(0, 1, device))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def work(point: Row, world: World) -> Row:
    """Take a rank's training steps and report."""
    run, ranks = as_run(point), point["ranks"]
    _join_fake_world(ranks)
    begin = partial(Step, run) if ranks == 1 else _share(run, point["stage"], ranks, world)
    steps = []

    def keep() -> Callable[[], object]:
        steps.append(begin())
        return steps[0]

    with _tensors(point["how"], world):
        held = steady(keep, world.device, warmup=1)
        with Traffic(ranks) as traffic:
            steps[0]()
    return {
        **held,
        "sent_bytes": traffic.total,
        **{f"{kind}_bytes": traffic.sent(kind) for kind in KINDS},
        "collectives": sum(traffic.calls.values()),
    }


def _join_fake_world(ranks: int) -> None:
    """Leave the process group of this process alone for one of which it is the first rank."""
    if dist.is_initialized():
        dist.destroy_process_group()
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())


@contextmanager
def _tensors(how: str, world: World) -> Iterator[None]:
    """Make new tensors on the rank's device, or fake ones as if there."""
    with ExitStack() as modes:
        if how == FAKE:
            modes.enter_context(build.not_packed())
            # The divided model begins on the meta device, outside of this mode.
            modes.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        modes.enter_context(torch.device(world.target))
        yield


def _share(run: Run, stage: int, ranks: int, world: World) -> Callable[[], Callable[[], object]]:
    """Divide a model that has shapes and no memory; what this returns allocates the rank's share.

    Dividing fake tensors would take a minute in a large world, those of the meta device a second.
    """
    mesh = init_device_mesh(world.device.kind, (ranks,))
    with torch.device("meta"):
        network = build.model(replace(run, precision="fp32"))
    divide(network, run, stage, mesh)

    def begin() -> Callable[[], object]:
        network.to_empty(device=world.target)
        batch = torch.zeros(run.micro_batch, run.sequence, dtype=torch.long)
        return train_step(network, fused_adamw(network), batch)

    return begin


EXPERIMENT = Experiment("one-rank-of-many", grid, measure)
