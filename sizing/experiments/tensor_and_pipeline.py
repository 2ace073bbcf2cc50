"""tensor-and-pipeline: one model over several processes, by matrices and by layers.

Both engines are PyTorch's own and both train transformers' Llama. DTensor splits every matrix, and
between them the sequence; its attention takes as many heads as its projections give it.
`torch.distributed.pipelining` gives each process some of the layers, by two schedules. One process
does the same work without either, and every rank compares its loss and gradients with it.

Each rank is one thread of a CPU or one GPU, so that ranks do not share what they compute with.

A stage is busy while it computes forward and backward passes and the loss. Its measured bubble is
the rest of the time from a common start until the last stage is done: waiting for others, sending,
and what the schedule's own Python takes. The textbook's (p - 1) / (m + p - 1) is the waiting alone,
of stages that take equally long.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe
from torch.distributed.tensor import DTensor, Replicate, Shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    SequenceParallel,
    loss_parallel,
    parallelize_module,
)
from torch.nn.functional import cross_entropy

from ..measuring import workers
from ..measuring.allocations import steady
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.timing import summary
from ..measuring.traffic import KINDS, Traffic
from ..measuring.training import BYTES_MODEL, WIDE_MODEL, named
from ..measuring.workers import World
from ..parallel import check_degrees, stages
from ..run import Run
from ..trace import build

STEPS = 5  # that are timed
SCHEDULES = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B}


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int = 1,
    micro_batches: tuple[int, ...] | None = None,
    ranks: int | None = None,
) -> list[Row]:
    """One process and tensor parallelism; then one process and each schedule by micro-batches.

    A row is a rank. Besides the columns of memory:

    - kind: "tensor" or "pipeline"; schedule: "gpipe" or "1f1b", None without a pipeline.
    - ranks, rank, threads of each; micro_batches of `micro_batch` sequences, each the same work.
    - loss: mean over the step; loss_difference, gradient_difference: from one process's, relative
      to its loss and, the worst of this rank's tensors, to that gradient's largest element.
    - sent_bytes, and by collective: what a rank sends in a step, the optimizer's included.
    - seconds: forward and backward passes of all micro-batches, from a common start until the last
      rank is done, without the optimizer.
    - busy_seconds, bubble (1 - busy_seconds / seconds): of this rank, see above.
    - in_flight: micro-batches, at most, that had gone forward and not yet backward.

    Args:
        model: name of a preset of the Llama family whose head is its own; by default a byte-level
            one of 7 M parameters on a CPU, of 0.8 G on GPUs.
        sequence: tokens in a sequence; by default 2048 on GPUs, 128 on a CPU.
        micro_batch: sequences in a micro-batch.
        micro_batches: numbers of them in a step of the pipeline; by default half the ranks, as
            many, twice and four times as many. 1F1B starts at one a stage.
        ranks: processes; by default one a GPU, two on a CPU, or as many as torchrun started.

    Raises:
        ValueError: another family, a head that is the embedding, or `ranks` that do not divide the
            model (see `sizing.parallel.check_degrees`).
    """
    count = ranks or workers.processes(device)
    chosen = named(model or (WIDE_MODEL if device.cuda else BYTES_MODEL).name)
    if chosen.family != "llama" or chosen.tied:
        raise ValueError(f"model: {chosen.name!r} given; allowed: a Llama with a head of its own")
    shape = {
        "model": chosen.name,
        "parameters": chosen.parameters.total,
        "sequence": sequence or (2048 if device.cuda else 128),
        "micro_batch": micro_batch,
        "precision": "fp32",
    }
    numbers = micro_batches or (max(1, count // 2), count, 2 * count, 4 * count)
    alone = [("tensor", None, 1, 1), ("pipeline", None, 1, max(numbers))]
    split = [
        ("tensor", None, count, 1),
        *(
            ("pipeline", schedule, count, m)
            for schedule in SCHEDULES
            for m in numbers
            if schedule == "gpipe" or m >= count
        ),
    ]
    keys = ("kind", "schedule", "ranks", "micro_batches")
    points = [dict(zip(keys, values, strict=True)) | shape for values in (*alone, *split)]
    for point in points:
        check_degrees(run_of(point))
    return points


def run_of(row: Row) -> Run:
    """The `Run` that a row measured."""
    return Run(
        named(row["model"]),
        sequence=row["sequence"],
        micro_batch=row["micro_batch"],
        accumulation=row["micro_batches"],
        precision=row["precision"],
        optimizer="adamw-fused",
        **{row["kind"]: row["ranks"]},
    )


def measure(point: Row, device: Device) -> list[Row]:
    """One row a rank; `grid` says what its columns are."""
    return workers.launch(work, point, point["ranks"], device)


def work(point: Row, world: World) -> Row:
    """Train this rank's part and report."""
    run = run_of(point)
    with _one_thread():
        expected = _expected(run, world)
        held = []

        def begin() -> Callable[[], None]:
            engine = _engine(point, run, world)
            optimizer = torch.optim.AdamW(engine.network.parameters(), fused=True)
            differences = _differences(engine, *expected)
            optimizer.zero_grad()

            def step() -> None:
                engine.passes()
                optimizer.step()
                optimizer.zero_grad()

            held.extend((engine, differences, step))
            return step

        memory = steady(begin, world.device, warmup=1)
        engine, differences, step = held
        with Traffic(world.ranks) as traffic:
            step()
        return {
            "rank": world.rank,
            "threads": torch.get_num_threads(),
            **differences,
            **memory,
            "sent_bytes": traffic.total,
            **{f"{kind}_bytes": traffic.sent(kind) for kind in KINDS},
            **_timed(engine, world),
        }


class Decoder(nn.Module):
    """transformers' Llama from tokens, or what the stage before made of them, to logits.

    Weights are the same on every rank: made on the CPU from one seed.
    """

    def __init__(self, run: Run):
        super().__init__()
        torch.manual_seed(0)
        self.llama = build.model(run)
        self.register_buffer("positions", torch.arange(run.sequence).unsqueeze(0))

    def forward(self, x: Tensor) -> Tensor:
        given = "inputs_embeds" if x.is_floating_point() else "input_ids"
        base = self.llama.model
        hidden = base(**{given: x}, position_ids=self.positions, use_cache=False).last_hidden_state
        return self.llama.lm_head(hidden)


class Elsewhere(nn.Module):
    """Stands where another rank has a module."""

    def forward(self, x: Tensor, **_) -> Tensor:
        return x


class Clock:
    """Sums the time spent inside it: by the host's clock, or by events in a GPU's stream."""

    def __init__(self, device: Device):
        self.device = device
        self.marks = []

    def __enter__(self) -> None:
        self.marks.append(self._now())

    def __exit__(self, *_) -> None:
        self.marks.append(self._now())

    @property
    def seconds(self) -> float:
        """The sum so far; a GPU must be done with what it was given."""
        pairs = zip(self.marks[::2], self.marks[1::2], strict=True)
        if self.device.cuda:
            return sum(start.elapsed_time(end) for start, end in pairs) / 1e3
        return sum(end - start for start, end in pairs)

    def _now(self):
        if not self.device.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


class Stage(PipelineStage):
    """PyTorch's stage, which clocks what it computes and counts micro-batches in flight."""

    def __init__(self, network: nn.Module, world: World):
        super().__init__(network, world.rank, world.ranks, torch.device(world.target))
        self.clock, self.in_flight = Clock(world.device), 0

    def forward_one_chunk(self, *args, **kwargs):
        with self.clock:
            output = super().forward_one_chunk(*args, **kwargs)
        self.in_flight = max(self.in_flight, len(self.fwd_cache))
        return output

    def backward_one_chunk(self, *args, **kwargs):
        with self.clock:
            return super().backward_one_chunk(*args, **kwargs)


@dataclass(frozen=True)
class Engine:
    """What a rank trains.

    Attributes:
        network: this rank's part; its parameters are named as the whole model's.
        passes: forward and backward of all micro-batches; their mean loss, where it is known.
        stage: of a pipeline, else None.
    """

    network: nn.Module
    passes: Callable[[], Tensor | None]
    stage: Stage | None = None


def _engine(point: Row, run: Run, world: World) -> Engine:
    if world.ranks == 1:
        return _one_process(run, world)
    if point["kind"] == "tensor":
        return _tensor(run, world)
    return _pipeline(run, world, SCHEDULES[point["schedule"]])


def _one_process(run: Run, world: World) -> Engine:
    network = Decoder(run).to(world.target)
    tokens, targets = (part.chunk(run.accumulation) for part in _batch(run, world))

    def passes() -> Tensor:
        total = 0.0
        for x, y in zip(tokens, targets, strict=True):
            loss = _loss(network(x), y) / run.accumulation
            loss.backward()
            total += loss.detach()
        return total

    return Engine(network, passes)


def _tensor(run: Run, world: World) -> Engine:
    mesh = init_device_mesh(world.device.kind, (world.ranks,))
    network = parallelize_module(Decoder(run).to(world.target), mesh, _plan())
    tokens, targets = _batch(run, world)

    def passes() -> Tensor:
        with loss_parallel():
            loss = _loss(network(tokens), targets)
            loss.backward()
        return loss.detach().full_tensor()

    return Engine(network, passes)


def _plan() -> dict:
    """Megatron's split of each layer, with sequence parallelism (arXiv:2205.05198, section 4.2.2).

    Columns, then rows, of each pair of matrices, the vocabulary of embedding, head and loss, and
    the sequence wherever a layer's input is normalised or added to.
    """
    tokens, whole = Shard(1), Replicate()
    row = RowwiseParallel(output_layouts=tokens)
    layer = {
        "input_layernorm": SequenceParallel(),
        "self_attn": PrepareModuleInput(
            input_kwarg_layouts={"hidden_states": tokens},
            desired_input_kwarg_layouts={"hidden_states": whole},
        ),
        **{f"self_attn.{name}_proj": ColwiseParallel() for name in "qkv"},
        "self_attn.o_proj": row,
        "post_attention_layernorm": SequenceParallel(),
        "mlp": PrepareModuleInput(input_layouts=tokens, desired_input_layouts=whole),
        "mlp.gate_proj": ColwiseParallel(),
        "mlp.up_proj": ColwiseParallel(),
        "mlp.down_proj": row,
    }
    return {
        "llama.model.embed_tokens": RowwiseParallel(input_layouts=whole, output_layouts=tokens),
        **{f"llama.model.layers.*.{name}": style for name, style in layer.items()},
        "llama.model.norm": SequenceParallel(),
        "llama.lm_head": ColwiseParallel(
            input_layouts=tokens, output_layouts=Shard(-1), use_local_output=False
        ),
    }


def _pipeline(run: Run, world: World, schedule: type) -> Engine:
    network = Decoder(run)
    _keep(network.llama, run, world.rank)
    stage = Stage(network.to(world.target), world)

    def clocked_loss(logits: Tensor, targets: Tensor) -> Tensor:
        with stage.clock:
            return _loss(logits, targets)

    steps = schedule(stage, run.accumulation, loss_fn=clocked_loss)
    tokens, targets = _batch(run, world)
    given = (tokens,) if stage.is_first else ()

    def passes() -> Tensor | None:
        losses = []
        steps.step(*given, target=targets, losses=losses, return_outputs=False)
        return torch.stack(losses).mean().detach() if losses else None

    return Engine(network, passes, stage)


def _keep(llama: nn.Module, run: Run, rank: int) -> None:
    """Leave a pipeline rank its layers, the first its embedding, the last norm and head."""
    split = stages(run)
    start = sum(stage.layers for stage in split[:rank])
    base, mine = llama.model, range(start, start + split[rank].layers)
    for number in range(len(base.layers)):
        if number not in mine:
            base.layers[number] = Elsewhere()
    if not split[rank].embedding:
        base.embed_tokens = Elsewhere()
    if not split[rank].head:
        base.norm, llama.lm_head = Elsewhere(), Elsewhere()


def _batch(run: Run, world: World) -> tuple[Tensor, Tensor]:
    """Tokens of all micro-batches, and the next ones: (accumulation * micro_batch, sequence)."""
    size = (run.accumulation * run.micro_batch, run.sequence + 1)
    tokens = torch.randint(run.model.vocab, size, generator=torch.Generator().manual_seed(1))
    tokens = tokens.to(world.target)
    return tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()


def _loss(logits: Tensor, targets: Tensor) -> Tensor:
    return cross_entropy(logits.flatten(0, 1), targets.flatten())


def _expected(run: Run, world: World) -> tuple[float, dict[str, Tensor]]:
    """Loss and gradients, kept on the CPU, of one process."""
    engine = _one_process(replace(run, tensor=1, pipeline=1), world)
    loss = engine.passes().item()
    return loss, {name: p.grad.cpu() for name, p in engine.network.named_parameters()}


def _differences(engine: Engine, loss: float, gradients: dict[str, Tensor]) -> Row:
    """How far an engine's first loss and gradients are from one process's."""
    found = engine.passes()
    worst = 0.0
    for name, parameter in engine.network.named_parameters():
        gradient = parameter.grad
        if isinstance(gradient, DTensor):
            gradient = gradient.full_tensor()
        off = (gradient.cpu() - gradients[name]).abs().max() / gradients[name].abs().max()
        worst = max(worst, off.item())
    return {
        "loss": None if found is None else found.item(),
        "loss_difference": None if found is None else abs(found.item() / loss - 1),
        "gradient_difference": worst,
    }


def _timed(engine: Engine, world: World) -> Row:
    """Median seconds, until the last rank is done, and of a pipeline the part that was work."""
    samples, busy, stage = [], [], engine.stage
    for _ in range(STEPS):
        if stage:
            stage.clock.marks.clear()
        samples.append(_slowest(world.seconds(engine.passes), world))
        if stage:
            busy.append(stage.clock.seconds)
        engine.network.zero_grad()
    timing = summary(samples)
    if not stage:
        return timing.row
    worked = summary(busy).median
    return {
        **timing.row,
        "busy_seconds": worked,
        "bubble": 1 - worked / timing.median,
        "in_flight": stage.in_flight,
    }


def _slowest(seconds: float, world: World) -> float:
    if world.ranks == 1:
        return seconds
    slowest = torch.tensor(seconds, dtype=torch.float64, device=world.target)
    dist.all_reduce(slowest, dist.ReduceOp.MAX)
    return slowest.item()


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


EXPERIMENT = Experiment("tensor-and-pipeline", grid, measure, workers.find, distributed=True)
