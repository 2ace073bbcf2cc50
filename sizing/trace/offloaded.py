"""What a real engine puts on the host, and what it sends there, in a step of one rank.

DeepSpeed's ZeRO-2 and ZeRO-3 with offload_optimizer. On a machine without a GPU "there" and "here"
are the same memory: what lies on the host is told by the engine's own attributes, and what crosses
the bus by the copies between those tensors and all others. Weights that offload_param fetches are
not seen so.

    python -m sizing.trace.offloaded '{"engine": "deepspeed", "zero": 2, "offload": ["optimizer"]}'

prints {"host": bytes, "bus": bytes}. Each measurement is a process of its own.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from collections.abc import Callable

import torch
import torch.distributed as dist
from torch.utils._python_dispatch import TorchDispatchMode

from ..architecture.model import Model
from ..run import Run
from . import build
from .allocations import optimizer_tensors, storage_bytes

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
    step, held = _deepspeed(run)
    crossing = _Crossing({tensor.untyped_storage()._cdata for tensor in held})
    with crossing:
        step()
    # numbers such as step counters left out
    return {"host": storage_bytes(*(t for t in held if t.ndim)), "bus": crossing.bytes}


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


def _deepspeed(run: Run) -> tuple[Callable[[], None], list[torch.Tensor]]:
    """A step of DeepSpeed's engine, taken twice already, and what it keeps on the host."""
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
    held = list(optimizer_tensors([*found, dict(engine.optimizer.state)]))
    masters = [t for t in held if isinstance(t, torch.nn.Parameter) and t.grad is not None]
    held += [t.grad for t in masters]
    return step, held


def main(settings: str) -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.CRITICAL)
    os.environ |= {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    print(json.dumps(measure(run_of(json.loads(settings)))))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
