"""speed-up-stack: what each known speed-up of a training step is worth, alone and on the others.

From a plain step (fp32, eager attention, AdamW tensor by tensor, one sequence) to the fastest that
PyTorch takes without a further library. ``stacked`` rows add one change after the other; ``alone``
rows make one change to the plain step. Changes that attack the same wait cannot both have it:
compare the product of the ones alone with the stack.

``job`` rows are whole jobs with a real loader and real saves, and the five changes of case D: each
alone, all together, and what the disk and the tokenizer cost where no worker hides them. Each job
trains on the same number of tokens, and its row says where the time went.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from subprocess import CalledProcessError

import torch
from torch._dynamo.exc import TorchDynamoException

from ..compute import flops
from ..measuring import loading
from ..measuring.allocations import peak, resident
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row, Unavailable, is_out_of_memory
from ..measuring.timing import timed
from ..measuring.training import BYTES_MODEL, as_run, describe, named, real_step
from ..run import Run
from ..trace.step import Step
from ..units import DATA
from .optimizers import LOOP

PLAIN = "plain"
CHANGES = ("bf16 autocast", "flash attention", "fused AdamW", "bf16 weights", "micro-batch")
COMPILE = "torch.compile"  # last: it takes minutes
TEXT = DATA / "text" / "shakespeare.txt"

# Case D's job before its changes, and what each of them changes in it.
JOB = {
    "micro_batch": 2, "accumulation": 8, "workers": 8, "disk": "slow", "tokenised": False,
    "saves": 2, "compiled": False,
}  # fmt: skip
AS_IT_WAS, ALL_FIVE = "as it was", "all five"
FIVE = {
    "larger micro-batch, fewer workers": {"micro_batch": 4, "accumulation": 2, "workers": 4},
    "local disk": {"disk": "local"},
    "half the saves": {"saves": 1},
    COMPILE: {"compiled": True},
    "tokenised before": {"tokenised": True},
}
UNHIDDEN = {  # the same changes where nothing runs beside the GPU
    "no workers": {"workers": 0},
    "no workers, local disk": {"workers": 0, "disk": "local"},
    "no workers, tokenised before": {"workers": 0, "tokenised": True},
    "no workers, both": {"workers": 0, "disk": "local", "tokenised": True},
}


def grid(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
    compiled: bool | None = None,
    sequences: int | None = None,
) -> list[Row]:
    """The plain step, the stack of changes, and each change alone; then the jobs.

    Args:
        model: name of a preset; by default llama-3.2-1b on a GPU, a byte-level model on a CPU.
        sequence: tokens in a sequence; by default 1024 on a GPU, 256 on a CPU.
        micro_batch: sequences of a step after "micro-batch"; by default 1 per 20 GB of a GPU, 4 on
            a CPU.
        compiled: whether to try torch.compile; by default on a GPU only. bf16 too is for a GPU.
            The jobs try it everywhere.
        sequences: of each job, a multiple of 32; by default 256 on a GPU, 32 on a CPU.
    """
    run = Run(
        named(model or ("llama-3.2-1b" if device.cuda else BYTES_MODEL.name)),
        sequence=sequence or (1024 if device.cuda else 256),
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
    rows += [
        _changed(plain, change, batch) | {"kind": "alone", "change": change} for change in alone
    ]
    return rows + jobs(device, model, sequence, sequences)


def jobs(
    device: Device,
    model: str | None = None,
    sequence: int | None = None,
    sequences: int | None = None,
) -> list[Row]:
    """Case D's job as it was, each of the five changes alone, all of them, and without workers."""
    run = Run(
        named(model or ("pythia-160m" if device.cuda else BYTES_MODEL.name)),
        sequence=sequence or (1024 if device.cuda else 128),
        precision="bf16-mixed" if device.cuda else "fp32",
        optimizer="adamw-fused",
    )
    together = {key: value for change in FIVE.values() for key, value in change.items()}
    changes = {AS_IT_WAS: {}, **FIVE, ALL_FIVE: together, **UNHIDDEN}
    count = sequences or (256 if device.cuda else 32)
    return [
        {"kind": "job", "change": name, **describe(run), **JOB, "sequences": count, **change}
        for name, change in changes.items()
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
    if point["kind"] == "job":
        return _job(point, device)
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


def _job(point: Row, device: Device) -> Row:
    """Seconds of a whole job and its parts."""
    step = real_step(as_run(point), device)
    run = step.run
    if point["compiled"]:
        _compile(step)
    with tempfile.TemporaryDirectory() as folder:
        text = TEXT
        if point["tokenised"]:
            text = Path(folder) / "tokens.bin"
            loading.pretokenise(TEXT, text)
        pieces = loading.Pieces(
            text,
            bool(point["tokenised"]),
            run.sequence,
            point["sequences"] + run.sequences,  # and a step to warm up
            loading.SLOW if point["disk"] == "slow" else 0.0,
        )
        return loading.job(
            step, pieces, device, point["workers"], point["saves"], Path(folder) / "saved.pt"
        )


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
