"""One rank of FSDP2 in a world that is not there: torch's fake process group, on fake tensors."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
import torch.distributed as dist
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.fsdp2_mem_tracker import FSDPMemTracker
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.testing._internal.distributed.fake_pg import FakeStore
from transformers.modeling_layers import GradientCheckpointingLayer

from ..run import Run
from . import adapters, build


@contextmanager
def fake_world(ranks: int) -> Iterator[DeviceMesh]:
    """A mesh of ranks of which this process is the first; collectives return at once."""
    dist.init_process_group("fake", rank=0, world_size=ranks, store=FakeStore())
    try:
        yield init_device_mesh("cpu", (ranks,))
    finally:
        dist.destroy_process_group()


def peak(run: Run) -> int:
    """Bytes of a rank at the peak of a steady step under FSDP2 (zero=3), by torch's FSDPMemTracker;
    every layer and the model are wrapped, and fused AdamW or SGD updates.

    Raises:
        ValueError: what FSDP2 is not traced with here.
    """
    _may(run)
    recipe = run.recipe
    with build.not_packed(), fake_world(run.data) as mesh, FakeTensorMode(), torch.device("cpu"):
        network = build.model(replace(run, precision="fp32") if run.gathers_products else run)
        if run.lora:
            network = adapters.add(network, run)
        policy, products = MixedPrecisionPolicy(), build.DTYPES[recipe.products]
        if run.gathers_products:
            reduced = torch.float32 if run.reduce == "fp32" else products
            policy = MixedPrecisionPolicy(param_dtype=products, reduce_dtype=reduced)
        for layer in [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]:
            fully_shard(layer, mesh=mesh, mp_policy=policy)
        fully_shard(network, mesh=mesh, mp_policy=policy)
        trained = [p for p in network.parameters() if p.requires_grad]
        optimizer = {
            "adamw-fused": lambda: _Fused(trained, {}),
            "sgd": lambda: torch.optim.SGD(trained, lr=0.01, foreach=False),
        }[run.optimizer]()
        tracker = FSDPMemTracker(network, optimizer)
        tracker.track_inputs((torch.zeros(1),))
        tokens = torch.zeros(run.micro_batch, run.sequence, dtype=torch.long)
        autocast = recipe.autocast and not run.gathers_products  # over frozen weights
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()
                with torch.autocast("cpu", products, enabled=autocast):
                    loss = network(input_ids=tokens, labels=tokens, use_cache=False).loss
                loss.backward()
                del loss
                optimizer.step()
                optimizer.zero_grad()
        (snapshot,) = tracker.get_tracker_snapshot("peak").values()
    return next(size for name, size in snapshot.items() if str(name).endswith("Total"))


class _Fused(torch.optim.Optimizer):
    """What fused AdamW allocates: two moments of each shard, and nothing to update them. The real
    one would gather the shards here, where no rank answers."""

    @torch.no_grad()
    def step(self, closure=None):
        for weight in self.param_groups[0]["params"]:
            if weight.grad is not None and not self.state[weight]:
                moments = [torch.zeros_like(weight) for _ in range(2)]
                self.state[weight] = dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=True))


def _may(run: Run) -> None:
    for field, allowed in (
        ("zero", (3,)),
        *((name, (1,)) for name in ("tensor", "pipeline", "context", "replicate", "accumulation")),
        ("optimizer", ("adamw-fused", "sgd")),
        *((name, ("eager",)) for name in ("kernels", "loss_kernel")),
        *(("outputs", ("released",)), ("offload", ((),)), ("objective", ("lm",))),
        *(("quantization", (None,)), ("optimizer_in_backward", (False,)), ("gradients", ("same",))),
        ("precision", ("fp32", "bf16", "bf16-mixed", "fp16", "fp16-mixed")),
    ):
        if getattr(run, field) not in allowed:
            raise ValueError(
                f"{field}: {getattr(run, field)!r} given; allowed in a step of FSDP2 here: "
                f"{', '.join(map(repr, allowed))}"
            )
