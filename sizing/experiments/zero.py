"""zero: memory, traffic, time and loss of data parallelism's engines, in real processes.

The same model and the same global batch, trained by one process, by PyTorch's DDP and FSDP2, and
by DeepSpeed's ZeRO stages: one row a rank. DeepSpeed is set up as ZeRO's paper describes it:
buckets small beside the model, no parameter kept whole, weights released after each use, and as
the others are, without clipping gradients, which it does unless told not to.

What DeepSpeed does beyond the paper shows in the rows: from stage 1 on it keeps an fp32 copy of its
share of the weights even of a model in fp32; and stages 1 and 2 reduce gradients by all-reduce.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..measuring import workers
from ..measuring.allocations import steady
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row, Unavailable
from ..measuring.timing import summary
from ..measuring.traffic import KINDS, Traffic
from ..measuring.training import BYTES_MODEL, as_run, describe, named
from ..measuring.workers import World
from ..run import Run
from ..trace import build

# Engine and ZeRO stage. FSDP2 keeps gathered weights until backward (2) or gathers them twice (3).
ENGINES = (
    ("single", 0),
    ("ddp", 0),
    ("deepspeed", 0),
    ("deepspeed", 1),
    ("deepspeed", 2),
    ("deepspeed", 3),
    ("fsdp2", 2),
    ("fsdp2", 3),
)
STEPS = 5  # that are timed
BUCKET = 1 / 16  # of the parameters, in a bucket of DeepSpeed's

Step = Callable[[], Tensor]  # takes an optimizer step and returns its loss


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int = 1,
    precision: str | None = None,
    ranks: int | None = None,
) -> list[Row]:
    """Every engine on the same global batch.

    Args:
        model: name of a preset; by default pythia-410m on GPUs, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 2048 on GPUs, 128 on a CPU.
        micro_batch: sequences of a rank; one process alone takes those of all ranks.
        precision: by default "bf16-master" on GPUs, "fp32" on a CPU.
        ranks: processes; by default one a GPU, two on a CPU, or as many as torchrun started.
    """
    count = ranks or workers.processes(device)
    run = Run(
        named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)),
        sequence=sequence or (2048 if device.cuda else 128),
        micro_batch=micro_batch,
        precision=precision or ("bf16-master" if device.cuda else "fp32"),
        optimizer="adamw-fused",
    )
    if run.precision not in ("fp32", "bf16-master"):
        allowed = "'fp32', 'bf16-master'"
        raise ValueError(f"precision: {run.precision!r} given; allowed here: {allowed}")
    points = []
    for engine, stage in ENGINES:
        alone = engine == "single"
        shape = replace(run, micro_batch=micro_batch * count) if alone else run
        points.append(
            {"engine": engine, "stage": stage, "ranks": 1 if alone else count, **describe(shape)}
        )
    return points


def run_of(row: Row) -> Run:
    """The `Run` with the degrees and the ZeRO stage that a row measured."""
    return replace(as_run(row), data=row["ranks"], zero=row["stage"])


def measure(point: Row, device: Device) -> list[Row]:
    """One row a rank: memory, bytes sent, seconds, and the mean loss of its last step."""
    if point["engine"] == "deepspeed" and not importlib.util.find_spec("deepspeed"):
        raise Unavailable("DeepSpeed is not installed: pip install -r requirements-distributed.txt")
    return workers.launch(work, point, point["ranks"], device)


def work(point: Row, world: World) -> Row:
    """Train on this rank and report."""
    run, ranks = as_run(point), world.ranks
    held = []

    def begin() -> Step:
        held.append(_ENGINES[point["engine"]](run, point["stage"], world, _batch(run, world)))
        return held[0]

    memory = steady(begin, world.device)
    (step,) = held
    with Traffic(ranks) as traffic:
        step()
    return {
        "rank": world.rank,
        "backend": dist.get_backend(),
        **memory,
        "sent_bytes": traffic.total,
        **{f"{kind}_bytes": traffic.sent(kind) for kind in KINDS},
        "collectives": sum(traffic.calls.values()),
        **timed_steps(step, world),
    }


def timed_steps(step: Step, world: World) -> Row:
    """Seconds of a step, begun by all ranks together, and the ranks' mean loss of the last one."""
    losses = []
    samples = [world.seconds(lambda: losses.append(step())) for _ in range(STEPS)]
    loss = losses[-1]
    if world.ranks > 1:
        dist.all_reduce(loss)
    return {**summary(samples).row, "loss": loss.item() / world.ranks}


def _batch(run: Run, world: World) -> Tensor:
    """This rank's sequences of a global batch that depends on nothing but its shape."""
    size = (run.micro_batch * world.ranks, run.sequence)
    tokens = torch.randint(run.model.vocab, size, generator=torch.Generator().manual_seed(1))
    first = world.rank * run.micro_batch
    return tokens[first : first + run.micro_batch].to(world.target)


def _model(run: Run) -> nn.Module:
    """The same weights on every rank and in every engine: made on the CPU, moved by the engine."""
    torch.manual_seed(0)
    return build.model(run)


def train_step(network: Callable, optimizer: torch.optim.Optimizer, batch: Tensor) -> Step:
    """The step of a causal language model: forward, backward, update."""

    def step() -> Tensor:
        loss = network(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return loss.detach()

    return step


def fused_adamw(network: nn.Module) -> torch.optim.Optimizer:
    """AdamW that needs no memory beside its state."""
    return torch.optim.AdamW(network.parameters(), fused=True)


def _single(run: Run, stage: int, world: World, batch: Tensor) -> Step:
    network = _model(run).to(world.target)
    return train_step(network, fused_adamw(network), batch)


def _ddp(run: Run, stage: int, world: World, batch: Tensor) -> Step:
    network = DistributedDataParallel(_model(run).to(world.target))
    return train_step(network, fused_adamw(network), batch)


def _fsdp2(run: Run, stage: int, world: World, batch: Tensor) -> Step:
    network = _model(replace(run, precision="fp32"))
    divide(network, run, stage, init_device_mesh(world.device.kind, (world.ranks,)))
    return train_step(network, fused_adamw(network), batch)


def divide(network: nn.Module, run: Run, stage: int, mesh: DeviceMesh) -> None:
    """Wrap every layer and the model, whose weights are fp32, in FSDP2.

    They are gathered in the run's precision, for forward and backward at stage 3, once at 2.
    """
    dtype = torch.bfloat16 if run.recipe.master else None
    policy = MixedPrecisionPolicy(param_dtype=dtype)
    for module in (*network.base_model.layers, network):
        fully_shard(module, mesh=mesh, reshard_after_forward=stage == 3, mp_policy=policy)


def _deepspeed(run: Run, stage: int, world: World, batch: Tensor) -> Step:
    import deepspeed

    if not world.device.cuda:  # gloo carries everything; its own kernel would need a compiler
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    network = _model(run)
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=fused_adamw(network),
        config=_config(run, stage),
    )

    def step() -> Tensor:
        loss = engine(input_ids=batch, labels=batch, use_cache=False).loss
        engine.backward(loss)
        engine.step()
        return loss.detach()

    return step


def _config(run: Run, stage: int) -> dict:
    bucket = int(run.model.parameters.total * BUCKET)
    return {
        "train_micro_batch_size_per_gpu": run.micro_batch,
        "gradient_accumulation_steps": 1,
        "steps_per_print": 2**31,
        "bf16": {"enabled": run.recipe.master},
        "gradient_clipping": 0.0,
        "zero_force_ds_cpu_optimizer": False,
        "zero_optimization": {
            "stage": stage,
            "reduce_bucket_size": bucket,
            "allgather_bucket_size": bucket,
            "stage3_prefetch_bucket_size": bucket,
            "stage3_param_persistence_threshold": 0,
            "stage3_max_live_parameters": bucket,
            "stage3_max_reuse_distance": 0,
        },
    }


_ENGINES = {"single": _single, "ddp": _ddp, "deepspeed": _deepspeed, "fsdp2": _fsdp2}

EXPERIMENT = Experiment("zero", grid, measure, workers.find, distributed=True)
