"""frozen-weights: a frozen model behind small trained parts, whole on every rank or sharded.

An encoder, latent vectors and an adapter write a prefix of embeddings for a language model that is
not trained. One process, DDP and FSDP2 take the same global batch; one row a rank. What the ranks
hold between steps shows whose weights are divided, what they hold at the peak that activations are
not, and what they send what each way costs.

One process also trains all weights once: what freezing spares in activations is between the two.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from ..measuring import workers
from ..measuring.allocations import steady, storage_bytes
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.traffic import Traffic
from ..measuring.training import BYTES_MODEL, as_run, describe, named
from ..measuring.workers import World
from ..run import Run
from ..trace import build
from .zero import timed_steps

# Engine, and whether the language model is trained as well.
SETTINGS = (("single", True), ("single", False), ("ddp", False), ("fsdp2", False))
FEATURES, WIDTH, LATENTS = 768, 256, 32  # of the trained parts


class Bridge(nn.Module):
    """The trained parts: features of shape (b, 768) become `LATENTS` embeddings for the model."""

    def __init__(self, hidden: int):
        super().__init__()
        self.encoder = nn.Linear(FEATURES, WIDTH)
        self.latents = nn.Parameter(torch.randn(LATENTS, WIDTH))
        self.adapter = nn.Linear(WIDTH, hidden)

    def forward(self, features: Tensor) -> Tensor:
        return self.adapter(self.latents + self.encoder(features).unsqueeze(1))


class Joined(nn.Module):
    """Bridge and language model; the loss is over the text that follows the prefix."""

    def __init__(self, run: Run, frozen: bool):
        super().__init__()
        self.bridge = Bridge(run.model.hidden)
        self.language = build.model(run).requires_grad_(not frozen)

    def forward(self, features: Tensor, tokens: Tensor) -> Tensor:
        text = self.language.get_input_embeddings()(tokens)
        prefix = self.bridge(features).to(text.dtype)
        unscored = tokens.new_full(prefix.shape[:2], -100)
        return self.language(
            inputs_embeds=torch.cat([prefix, text], 1),
            labels=torch.cat([unscored, tokens], 1),
            use_cache=False,
        ).loss


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int = 1,
    ranks: int | None = None,
) -> list[Row]:
    """Every engine on the same global batch; weights are bf16 on GPUs, the trained parts fp32.

    Args:
        model: name of a preset with a head of its own; by default pythia-1.4b on GPUs, a byte-level
            model on a CPU.
        sequence: tokens of text after the 32 latents; by default 480 on GPUs, 96 on a CPU.
        micro_batch: sequences of a rank; one process alone takes those of all ranks.
        ranks: processes; by default one a GPU, two on a CPU, or as many as torchrun started.

    Raises:
        ValueError: a model whose head is its embedding: they are wrapped one by one.
    """
    chosen = named(model or ("pythia-1.4b" if device.cuda else BYTES_MODEL.name))
    if chosen.tied:
        raise ValueError(f"model: {chosen.name!r} given; allowed: one with a head of its own")
    count = ranks or workers.processes(device)
    run = Run(
        chosen,
        sequence=sequence or (480 if device.cuda else 96),
        micro_batch=micro_batch,
        precision="bf16" if device.cuda else "fp32",
    )
    points = []
    for engine, trained in SETTINGS:
        alone = engine == "single"
        shape = replace(run, micro_batch=micro_batch * count) if alone else run
        points.append(
            {
                "engine": engine,
                "weights": "trained" if trained else "frozen",
                "ranks": 1 if alone else count,
                **describe(shape),
                "latents": LATENTS,
            }
        )
    return points


def measure(point: Row, device: Device) -> list[Row]:
    """One row a rank: memory, bytes sent, seconds, and the mean loss of its last step.

    ``trained_parameters`` get a gradient, all those of the whole model; ``activation_bytes``, in
    one process, are what a forward pass keeps for the backward pass besides weights.
    """
    return workers.launch(work, point, point["ranks"], device)


def work(point: Row, world: World) -> Row:
    """Train on this rank and report."""
    run, ranks = as_run(point), world.ranks
    features, tokens = _batch(run, world)
    built = []

    def begin() -> Callable[[], Tensor]:
        torch.manual_seed(0)  # the same weights on every rank and in every engine
        joined = Joined(run, point["weights"] == "frozen")
        trained = sum(p.numel() for p in joined.parameters() if p.requires_grad)
        network = _ENGINES[point["engine"]](joined, world)
        optimizer = torch.optim.AdamW(p for p in network.parameters() if p.requires_grad)

        def step() -> Tensor:
            loss = network(features, tokens)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            return loss.detach()

        built.append((network, trained, step))
        return step

    memory = steady(begin, world.device)
    ((network, trained, step),) = built
    with Traffic(ranks) as traffic:
        step()
    return {
        "rank": world.rank,
        "trained_parameters": trained,
        **memory,
        "activation_bytes": saved(network, features, tokens) if ranks == 1 else None,
        "sent_bytes": traffic.total,
        **timed_steps(step, world),
    }


def saved(network: nn.Module, *inputs: Tensor) -> int:
    """Bytes that a forward pass keeps for the backward pass, besides the network's own weights."""
    own = {p.untyped_storage().data_ptr() for p in (*network.parameters(), *network.buffers())}
    kept = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = network(*inputs)
    del loss
    return storage_bytes(*kept.values())


def _batch(run: Run, world: World) -> tuple[Tensor, Tensor]:
    """This rank's share of a global batch that depends on nothing but its shape."""
    count, random = run.micro_batch * world.ranks, torch.Generator().manual_seed(1)
    features = torch.randn(count, FEATURES, generator=random)
    tokens = torch.randint(run.model.vocab, (count, run.sequence), generator=random)
    mine = slice(world.rank * run.micro_batch, (world.rank + 1) * run.micro_batch)
    return features[mine].to(world.target), tokens[mine].to(world.target)


def _single(joined: Joined, world: World) -> nn.Module:
    return joined.to(world.target)


def _ddp(joined: Joined, world: World) -> nn.Module:
    return DistributedDataParallel(joined.to(world.target))


def _fsdp2(joined: Joined, world: World) -> nn.Module:
    """Full shard: each unit is gathered for its forward pass and again for its backward pass."""
    mesh = init_device_mesh(world.device.kind, (world.ranks,))
    language = joined.language
    outer = (language.get_input_embeddings(), language.get_output_embeddings())
    for module in (joined.bridge, *outer, *language.base_model.layers, joined):
        fully_shard(module, mesh=mesh, reshard_after_forward=True)
    return joined


_ENGINES = {"single": _single, "ddp": _ddp, "fsdp2": _fsdp2}

EXPERIMENT = Experiment("frozen-weights", grid, measure, workers.find, distributed=True)
