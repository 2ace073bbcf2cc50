"""speed-up-stack: what each known speed-up of a training step is worth, alone and on the others.

From a plain step (fp32, eager attention, AdamW tensor by tensor, one sequence) to the fastest that
PyTorch takes without a further library. ``stacked`` rows add one change after the other; ``alone``
rows make one change to the plain step. Changes that attack the same wait cannot both have it:
compare the product of the ones alone with the stack.
"""

from __future__ import annotations

from subprocess import CalledProcessError

import torch
from torch._dynamo.exc import TorchDynamoException

from ..compute import flops
from ..measuring.allocations import peak, resident
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row, Unavailable, is_out_of_memory
from ..measuring.timing import timed
from ..measuring.training import BYTES_MODEL, as_run, describe, named, real_step
from ..run import Run
from ..trace.step import Step
from .optimizers import LOOP

PLAIN = "plain"
CHANGES = ("bf16 autocast", "flash attention", "fused AdamW", "bf16 weights", "micro-batch")
COMPILE = "torch.compile"  # last: it takes minutes


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
    compiled: bool | None = None,
) -> list[Row]:
    """The plain step, the stack of changes, and each change alone.

    Args:
        model: name of a preset; by default llama-3.2-1b on a GPU, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 2048 on a GPU, 256 on a CPU.
        micro_batch: sequences of a step after "micro-batch"; by default 1 per 20 GB of a GPU, 4 on
            a CPU.
        compiled: whether to try torch.compile; by default on a GPU only. bf16 too is for a GPU.
    """
    run = Run(
        named(model or ("llama-3.2-1b" if device.cuda else BYTES_MODEL.name)),
        sequence=sequence or (2048 if device.cuda else 256),
        precision="fp32",
        attention="eager",
    )
    batch = micro_batch or (max(2, int(device.memory // 20e9)) if device.cuda else 4)
    changes = [name for name in CHANGES if device.cuda or "bf16" not in name]
    changes += [COMPILE] if (device.cuda if compiled is None else compiled) else []
    plain = {"kind": PLAIN, "change": PLAIN, "compiled": False, **describe(run), "optimizer": LOOP}
    rows, stacked = [plain], plain
    for change in changes:
        stacked = _changed(stacked, change, batch) | {"kind": "stacked", "change": change}
        rows.append(stacked)
    # bf16 weights come after autocast: alone they would be another precision of the same row
    alone = [name for name in changes if name != "bf16 weights"]
    return rows + [
        _changed(plain, change, batch) | {"kind": "alone", "change": change} for change in alone
    ]


def _changed(point: Row, change: str, batch: int) -> Row:
    """The point with one change made."""
    return (
        point
        | {
            "bf16 autocast": {"precision": "bf16-mixed"},
            "flash attention": {"attention": "flash"},
            "fused AdamW": {"optimizer": "adamw-fused"},
            "bf16 weights": {"precision": "bf16"},
            "micro-batch": {"micro_batch": batch},
            COMPILE: {"compiled": True},
        }[change]
    )


def measure(point: Row, device: Device) -> Row:
    """Time, throughput, peak memory; ``mfu`` of the dense bf16 peak, where a datasheet is known."""
    loop = point["optimizer"] == LOOP
    run = as_run(point | ({"optimizer": "adamw"} if loop else {}))
    step = real_step(run, device)
    if loop:
        step.optimizer = torch.optim.AdamW(step.model.parameters(), foreach=False)
    if point["compiled"]:
        _compile(step)
    timing = timed(step, device, 2.0, warmup=3, most=20, shortest=0)
    work, best = flops(run).model, device.datasheet("bf16")
    return {
        "tokens": run.tokens,
        **timing.row,
        "tokens_per_second": run.tokens / timing.median,
        "flops": work,
        "flops_per_second": work / timing.median,
        "mfu": work / timing.median / best if best else None,
        **peak(step, device, resident(step)),
    }


def _compile(step: Step) -> None:
    """Compile the model and take a step.

    Raises:
        Unavailable: there is no compiler here, or it fails.
    """
    step.model.compile()
    try:
        step()
    except (TorchDynamoException, CalledProcessError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise Unavailable(f"torch.compile: {reason}") from error


EXPERIMENT = Experiment("speed-up-stack", grid, measure)
