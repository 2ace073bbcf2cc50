"""What real engines put on the host, and what they send there, in a step of one rank.

DeepSpeed's ZeRO-2 and ZeRO-3 with offload_optimizer and offload_param, and FSDP2's
CPUOffloadPolicy. On a machine without a GPU "there" and "here" are the same memory: what lies on
the host is told by the engine's own attributes, and what crosses the bus by the copies between
those tensors and all others.

    python -m sizing.trace.offloaded '{"zero": 2, "offload": ["optimizer"]}'

prints {"host": bytes, "bus": bytes}. Each measurement is a process of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Iterator

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, MixedPrecisionPolicy, fully_shard
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from transformers.modeling_layers import GradientCheckpointingLayer

from ..architecture.model import Model
from ..run import Run
from . import build

MODEL = {
    "model_type": "llama",
    "vocab_size": 1000,
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
}
# Attributes of DeepSpeed's optimizers whose tensors are on the host (deepspeed 0.19,
# runtime/zero/stage_1_and_2.py and stage3.py).
_ON_HOST = (
    "single_partition_of_fp32_groups",
    "param_buffer_of_bit16_for_cpu_offload_groups",
    "offload_gradient_dict",
    "accumulated_grads_in_cpu",
    "fp32_partitioned_groups_flat",
    "grad_partitions_flat_buffer",
    "param_groups_fp16_flat_cpu_memory",
)


def run_of(settings: dict) -> Run:
    """The run of one rank that a measurement is of."""
    usual = {"sequence": 64, "optimizer": "adamw-fused"}
    return Run(Model(MODEL, name="small-llama"), **usual | settings)


def measure(run: Run) -> dict[str, int]:
    """Bytes on the host between steps, and over the bus in a steady step, of a rank alone.

    Raises:
        ImportError: deepspeed is not installed.
    """
    return _deepspeed(run) if run.engine == "deepspeed" else _fsdp2(run)


class _Crossing(TorchDispatchMode):
    """Bytes copied between host and the rest; torch casts on the host (aten/native/cuda/Copy.cu),
    so that what comes crosses in the dtype that it gets, and what goes in the one that it had."""

    def __init__(self, host: set[int]):
        super().__init__()
        self.host, self.bytes = host, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.copy_.default:
            ends = [tensor.untyped_storage()._cdata in self.host for tensor in args[:2]]
            if ends[0] != ends[1]:
                self.bytes += args[0 if ends[1] else 1].nbytes
        return func(*args, **(kwargs or {}))


def _deepspeed(run: Run) -> dict[str, int]:
    os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # it would need a compiler
    network = build.model(run)
    stage = {"stage": run.zero, "overlap_comm": False, "reduce_bucket_size": 100_000}
    stage |= {"stage3_param_persistence_threshold": 0}
    for what, name in (("optimizer", "offload_optimizer"), ("parameters", "offload_param")):
        if what in run.offload:
            stage[name] = {"device": "cpu", "pin_memory": False}
    engine, *_ = deepspeed.initialize(
        model=network,
        optimizer=torch.optim.AdamW(network.parameters(), fused=True),
        config={
            "train_micro_batch_size_per_gpu": run.micro_batch,
            "gradient_accumulation_steps": run.accumulation,
            "steps_per_print": 2**31,
            "bf16": {"enabled": run.recipe.master},
            "gradient_clipping": 0.0,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": stage,
        },
    )
    tokens = torch.zeros(run.micro_batch, run.sequence, dtype=torch.long)

    def step() -> None:
        for _ in range(run.accumulation):
            loss = engine(input_ids=tokens, labels=tokens, use_cache=False).loss
            engine.backward(loss)
            engine.step()

    step()
    step()
    found = [getattr(engine.optimizer, name, None) for name in _ON_HOST]
    held = list(_tensors([*found, dict(engine.optimizer.state)]))
    masters = [t for t in held if isinstance(t, torch.nn.Parameter) and t.grad is not None]
    held += [t.grad for t in masters]
    return _counted(held, step)


def _fsdp2(run: Run) -> dict[str, int]:
    """Weights and gradients of FSDP2 lie on the host between uses, and AdamW's moments with them;
    weights are fetched, and gradients sent, by `Tensor.to` of its own code."""
    mesh = init_device_mesh("cpu", (1,))
    network = build.model(run)
    policy = MixedPrecisionPolicy()
    if run.precision == "bf16-mixed":
        policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    layers = [m for m in network.modules() if isinstance(m, GradientCheckpointingLayer)]
    for module in (*layers, network):
        fully_shard(
            module, mesh=mesh, mp_policy=policy, offload_policy=CPUOffloadPolicy(pin_memory=False)
        )
    optimizer = torch.optim.AdamW(network.parameters(), fused=True)
    tokens = torch.zeros(run.micro_batch, run.sequence, dtype=torch.long)

    def step() -> None:
        for _ in range(run.accumulation):
            network(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()

    step()
    optimizer.zero_grad()
    step()
    local = [p.to_local() for p in network.parameters()]
    held = [*local, *(p.grad.to_local() for p in network.parameters())]
    held += [t.to_local() for t in _tensors(dict(optimizer.state)) if hasattr(t, "to_local")]
    optimizer.zero_grad()
    sent = _Sent()
    with sent:
        step()
    return {"host": _bytes(held), "bus": sent.bytes}


class _Sent(TorchFunctionMode):
    """Bytes that FSDP2 moves between devices, by its calls of `Tensor.to` with a device."""

    bytes = 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        moves = func is torch.Tensor.to and len(args) > 1 and isinstance(args[1], torch.device)
        if moves and "non_blocking" in kwargs:  # casts have it not
            self.bytes += args[0].nbytes
        return func(*args, **kwargs)


def _counted(held: list[torch.Tensor], step) -> dict[str, int]:
    crossing = _Crossing({tensor.untyped_storage()._cdata for tensor in held})
    with crossing:
        step()
    return {"host": _bytes(held), "bus": crossing.bytes}


def _bytes(tensors: list[torch.Tensor]) -> int:
    """Of the storages under tensors, each once; numbers such as step counters left out."""
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors if t.ndim}
    return sum(storages.values())


def _tensors(value) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for one in value.values():
            yield from _tensors(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _tensors(one)


def main(settings: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(json.dumps(measure(run_of(json.loads(settings)))))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
