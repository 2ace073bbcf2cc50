"""Figures of case lab B: a bridge between two frozen models, and what people get wrong of them."""

from functools import cache
from math import ceil

from ..architecture.model import Model
from ..compute import flops
from ..experiments import load
from ..footprint import Saved, saved_tensors
from ..hardware import gpu
from ..run import Run
from ..units import GB

LLAMA, QWEN = Model("llama-3.1-8b"), Model("qwen2.5-7b")
BATCH, LENGTH, SAMPLES = 4, 160, 5000 * 8
SPEED = {1: 2.0, 2: 3.5, 4: 6.0}  # samples per second in the memo
FROZEN = 2 * (LLAMA.parameters.total + QWEN.parameters.total)
GATHERED, UNDIVIDED = 5.2 * GB, 7 * GB


def weights(width=2, unit=GB):
    return tuple(width * model.parameters.total / unit for model in (LLAMA, QWEN))


def trained(widths=(LLAMA.hidden, QWEN.hidden)):
    """Parameters of the encoder, the latents and the adapters."""
    return 768 * 256 + 256 + 32 * 256 + sum(256 * width + width for width in widths)


def listed(per_parameter=8, unit=1e6, **changed):
    """(width of Qwen2.5-7B, parameters trained, their moments in MB)."""
    return QWEN.hidden, trained(**changed), per_parameter * trained(**changed) / unit


def forgotten(latents=32, slower=0.20, passes=2, models=(LLAMA, QWEN)):
    """(tokens of a sample, MFU in percent at 2.0 samples per second)."""
    length = round(latents / slower)
    work = sum(flops(Run(model, sequence=length)).forward for model in models)
    return length, 100 * passes * work * SPEED[1] / gpu("h100-sxm").peak_flops("bf16")


def stays(tensor: Saved) -> bool:
    """Whether anything but the gradient of a frozen weight needs a saved tensor."""
    spared = ("input of self_attn.", "input of mlp.", "scaling in ")
    return not all(reason.startswith(spared) for reason in tensor.why.split(", "))


@cache
def kept(model, keep=stays):
    """Bytes that all layers of a model keep for the backward pass, of the tensors to keep."""
    run = Run(model, sequence=LENGTH, micro_batch=BATCH, precision="bf16")
    return sum(
        tensor.bytes * (1 if tensor.shared else model.layers)
        for tensor in saved_tensors(run)
        if keep(tensor)
    )


def everything(tensor):
    return True


def no_input(tensor):
    """Mistakes the inputs of functions for inputs of weights."""
    return not all(r.startswith(("input of", "scaling")) for r in tensor.why.split(", "))


def no_norm_scales(tensor):
    """Mistakes the norms' scales for trained weights."""
    return stays(tensor) or tensor.why.startswith("scaling")


def spared(keep=stays, unit=GB):
    """(share of Llama's kept bytes that frozen weights still need, of both models in GB)."""
    share = kept(LLAMA, keep) / kept(LLAMA, everything)
    return share, (kept(LLAMA, keep) + kept(QWEN, keep)) / unit


def measured(column="resident_bytes", base="frozen"):
    """(DDP's and FSDP2's bytes per rank over one process's, FSDP2's sent bytes over DDP's)."""
    rows = load("frozen-weights").ok
    one, ddp, sharded = (
        next(row for row in rows if row["engine"] == engine and row["weights"] == weights)
        for engine, weights in (("single", base), ("ddp", "frozen"), ("fsdp2", "frozen"))
    )
    return (
        ddp[column] / one[column],
        sharded[column] / one[column],
        sharded["sent_bytes"] / ddp["sent_bytes"],
    )


def per_gpu(gpus, sharded):
    """GB on each GPU."""
    if sharded:
        return (FROZEN / gpus + GATHERED + UNDIVIDED) / GB
    return (FROZEN + UNDIVIDED) / GB


def all_divided(gpus, sharded):
    return (FROZEN + UNDIVIDED) / gpus / GB


def always_sharded(gpus, sharded):
    return per_gpu(gpus, True)


def never_sharded(gpus, sharded):
    return per_gpu(gpus, False)


def nothing_gathered(gpus, sharded):
    return (FROZEN / (gpus if sharded else 1) + UNDIVIDED) / GB


def in_bytes(gpus, sharded):
    return per_gpu(gpus, sharded) * GB


def gpu_hours(count):
    return count * SAMPLES / SPEED[count] / 3600


def break_even(few, many):
    """Hours of a GPU that an hour of waiting must be worth before more GPUs are cheaper."""
    saved = gpu_hours(few) / few - gpu_hours(many) / many
    return (gpu_hours(many) - gpu_hours(few)) / saved


def efficiency(count):
    return SPEED[count] / (count * SPEED[1])


def step(faster=1.3):
    """(seconds of any step, seconds more for a sample), from batches 4 and 8."""
    four, eight = 4 / SPEED[1], 8 / (faster * SPEED[1])
    each = (eight - four) / 4
    return four - 4 * each, each


def batch(faster=1.3):
    fixed, each = step(faster)
    return fixed, each, 16 / (fixed + 16 * each)


def doubled(count):
    """Hours for twice the samples and twice the epochs."""
    return 4 * gpu_hours(count) / count


def request(count, hours, margin=1.1, nodes=1):
    """(nodes, GPUs on each, minutes) of a batch script."""
    return nodes, count // nodes, ceil(round(60 * hours * margin, 6))
