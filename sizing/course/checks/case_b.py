"""Case lab B, one, two or four GPUs: answers and what each known mistake leads to."""

from functools import cache
from math import ceil

from ...architecture.model import Model
from ...compute import flops
from ...experiments import load
from ...footprint import Saved, saved_tensors
from ...hardware import gpu
from ...run import Run
from ...units import GB, GIB
from ..exercise import Exercise
from ..memos import exercise

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


EXERCISES = (
    Exercise(
        "weights",
        answer=weights,
        unit="GB",
        mistakes=(
            (
                lambda: weights(unit=GIB),
                "These are GiB; a GB is 1e9 bytes. But is the second one not the memo's 14?",
            ),
            (
                (16, 14),
                "These are the memo's figures. 7B is a name; `parameters.total` is the number.",
            ),
            (
                lambda: weights(width=4),
                "This counts 4 bytes per parameter. bf16 takes 2.",
            ),
            (
                lambda: weights(unit=1),
                "These are bytes. Divide by 1e9.",
            ),
        ),
        because="Together 31.3 GB. The memo's 16 is Llama in GB, its 14 is Qwen in GiB.",
    ),
    Exercise(
        "trained",
        answer=listed,
        mistakes=(
            (
                lambda: (4096, trained((4096, 4096)), 8 * trained((4096, 4096)) / 1e6),
                "This is the memo's list. An adapter that writes 4096 numbers does not fit a model "
                "whose `hidden` is another one.",
            ),
            (
                lambda: listed(per_parameter=4),
                "Adam keeps two moments a parameter, each of 4 bytes.",
            ),
            (
                lambda: listed(per_parameter=16),
                "16 bytes per parameter are weights, gradients and moments. The moments are 8.",
            ),
            (
                lambda: listed(unit=2**20),
                "These are MiB. A MB is 1e6 bytes.",
            ),
            (
                lambda: listed(widths=(LLAMA.hidden,)),
                "There are two adapters, one for each model.",
            ),
        ),
        because="17 MB of moments where the memo says 2 GB, and an adapter of the wrong width.",
    ),
    Exercise(
        "length",
        answer=forgotten,
        tolerance=0.02,
        mistakes=(
            (
                lambda: (128, forgotten()[1]),
                "128 tokens are the text alone: the first 32 latents are part of the 160.",
            ),
            (
                lambda: forgotten(slower=0.2, latents=64),
                "The latents that are added are 32. They are 20 % of what was there before.",
            ),
            (
                lambda: forgotten(passes=3),
                "Three times the forward pass is training with weight gradients. A frozen weight "
                "has none: the backward pass costs as much as the forward pass.",
            ),
            (
                lambda: forgotten(passes=1),
                "This leaves the backward pass out. Gradients must flow through both models.",
            ),
            (
                lambda: forgotten(models=(LLAMA,)),
                "Every sample goes through both models.",
            ),
            (
                lambda: (forgotten()[0], forgotten()[1] / 100),
                "The MFU is asked for in per cent.",
            ),
        ),
        because="At that length 98 % of the H100's arithmetic is unused: look there first.",
    ),
    Exercise(
        "kept",
        answer=spared,
        mistakes=(
            (
                lambda: spared(everything),
                "This keeps all. Freezing spares what only a weight's own gradient needs.",
            ),
            (
                (0, 0),
                "Freezing does not remove activations: the gradient flows through the frozen model "
                "to what is trained before it.",
            ),
            (
                lambda: spared(no_input),
                "`input of silu` and `input of pow` are no weights: their own derivatives need "
                "them, frozen or not.",
            ),
            (
                lambda: spared(no_norm_scales),
                "A norm's scale is a frozen weight too: what only `scaling in` needs can go.",
            ),
            (
                lambda: spared(unit=GIB),
                "The second value is in GiB. A GB is 1e9 bytes.",
            ),
            (
                lambda: (spared()[0], kept(LLAMA) / GB),
                "The second value counts Llama alone. Both models keep theirs.",
            ),
        ),
        because="Freezing takes a third away, and leaves almost three times the memo's 2 GB.",
    ),
    Exercise(
        "measured",
        answer=measured,
        mistakes=(
            (
                lambda: measured(column="peak_bytes"),
                "These are peaks, with activations. Take `resident_bytes`, what stays.",
            ),
            (
                lambda: measured(base="trained"),
                "You compare with the process that trains all weights. Take the frozen one.",
            ),
            (
                lambda: (*measured()[:2], 1 / measured()[2]),
                "The last ratio is upside down: FSDP2's bytes over DDP's.",
            ),
        ),
        because="DDP divides no frozen weight; sharding halves them, and moves them in each step.",
    ),
    Exercise(
        "table",
        answer=per_gpu,
        unit="GB",
        inputs=((1, False), (2, False), (4, False), (2, True), (4, True)),
        mistakes=(
            (
                all_divided,
                "This is the memo's rule: all of it divided by the GPUs. DDP divides nothing, and "
                "sharding no activations.",
            ),
            (
                always_sharded,
                "Without sharding each GPU holds the frozen weights whole.",
            ),
            (
                never_sharded,
                "With sharding each GPU holds its share of the frozen weights.",
            ),
            (
                nothing_gathered,
                "A sharded GPU also holds the weights at work: they are gathered to be used.",
            ),
            (
                in_bytes,
                "These are bytes. Divide by 1e9.",
            ),
        ),
        because="38, 38, 38 GB with DDP; 28 and 20 sharded. The memo says 34, 17, 8.5.",
    ),
    Exercise(
        "waiting",
        answer=lambda: (gpu_hours(4), efficiency(4), break_even(1, 4)),
        mistakes=(
            (
                lambda: (gpu_hours(4) / 4, efficiency(4), break_even(1, 4)),
                "1.85 h is how long it takes. Four GPUs are paid for all of it.",
            ),
            (
                lambda: (gpu_hours(4), 3.0, break_even(1, 4)),
                "3.0 is the speed-up. Efficiency is the speed-up over the GPUs.",
            ),
            (
                lambda: (gpu_hours(4), efficiency(4), 1 / break_even(1, 4)),
                "The last one is upside down: GPU-hours more, for each hour less of waiting.",
            ),
            (
                lambda: (gpu_hours(4), efficiency(4), gpu_hours(4) - gpu_hours(1)),
                "The last one is the GPU-hours more. Divide them by the hours saved.",
            ),
        ),
        because="Against one GPU, four pay once an hour of waiting is worth half a GPU-hour.",
    ),
    Exercise(
        "batch",
        answer=batch,
        mistakes=(
            (
                lambda: (0, 1 / SPEED[1], SPEED[1]),
                "With no fixed part a larger batch would not be faster at all. Use both readings.",
            ),
            (
                lambda: batch(faster=1 / 0.7),
                "This takes 30 % off the time of a sample. The memo says 30 % faster: 2.6 samples "
                "a second.",
            ),
            (
                lambda: (*step(), 16 / step()[1]),
                "A step of 16 samples also has the fixed part.",
            ),
            (
                lambda: (*step(), 2 / (step()[0] + 16 * step()[1]) * 4),
                "A step of batch 16 yields 16 samples.",
            ),
        ),
        because="One GPU at batch 16 comes near what the memo buys a second GPU for.",
    ),
    Exercise(
        "sbatch",
        answer=lambda: request(4, doubled(4)),
        mistakes=(
            (
                lambda: request(1, doubled(1)),
                "One GPU needs 22 hours: SLURM ends the job at 12.",
            ),
            (
                lambda: request(2, doubled(2)),
                "Two GPUs need 12.7 hours: SLURM ends the job at 12.",
            ),
            (
                lambda: request(4, doubled(4), margin=1),
                "The tenth more is missing: a job is ended at its limit, finished or not.",
            ),
            (
                lambda: request(4, doubled(4), nodes=4),
                "This asks for one GPU on each of four nodes. They sit in one: `node=4`.",
            ),
            (
                lambda: request(4, doubled(4) / 4),
                "Twice the samples and twice the epochs are four times the time.",
            ),
            (
                lambda: request(4, 12, margin=1),
                "Asking for all 12 hours works, but a shorter job is scheduled sooner.",
            ),
        ),
        because="The one choice of the three that the queue's limit allows.",
    ),
    exercise("case_b"),
)
