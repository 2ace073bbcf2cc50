"""Case lab B, one, two or four GPUs: answers and what each known mistake leads to."""

from ...units import GB, GIB
from ..bridge import (
    LLAMA,
    SPEED,
    all_divided,
    always_sharded,
    batch,
    break_even,
    doubled,
    efficiency,
    everything,
    forgotten,
    gpu_hours,
    in_bytes,
    kept,
    listed,
    measured,
    never_sharded,
    no_input,
    no_norm_scales,
    nothing_gathered,
    per_gpu,
    request,
    spared,
    step,
    trained,
    weights,
)
from ..exercise import Exercise
from ..memos import exercise

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
            (
                (..., 14.2),
                "14.2 is the second in GiB. GB are asked for.",
            ),
            (
                lambda: weights(1),
                "One byte per weight. bf16 takes 2.",
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
            (
                (4096, ..., ...),
                "4096 is Llama's width. Look at the other model's `hidden`.",
            ),
            (
                lambda: (..., 2 * (256 * 4096 + 4096) + 768 * 256 + 256 + 32 * 256, ...),
                "The parameters with two adapters of 4096. Each is as wide as its own model.",
            ),
            (
                lambda: (..., ..., listed(12)[2]),
                "Twelve bytes per parameter are moments and a gradient or a master copy. The "
                "moments are two fp32 numbers.",
            ),
            (
                lambda: (..., ..., listed()[2] / 1000),
                "The last is in GB. MB are asked for.",
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
            (
                (128, ...),
                "128 tokens are left without the latents. The sample includes its 32 latents.",
            ),
            (
                (192, ...),
                "192 is the length after 32 latents more.",
            ),
            (
                lambda: (..., forgotten(passes=4)[1]),
                "Four passes: at 2.0 samples per second a sample goes once forward and once "
                "backward through each model.",
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
                lambda: (1 - spared()[0], ...),
                "The first is what freezing spares. The share that is *still needed* is asked for.",
            ),
            (
                lambda: (100 * spared()[0], ...),
                "The first in per cent. A share is asked for.",
            ),
            (
                lambda: (..., kept(LLAMA) / GB),
                "The second is Llama alone. Both models keep activations.",
            ),
            (
                lambda: (..., spared(everything)[1]),
                "The second is with all weights trained.",
            ),
            (
                lambda: (..., 2 * spared()[1]),
                "Twice as much: the tensors are in bf16 as they are listed.",
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
            (
                lambda: (measured()[1], ..., ...),
                "DDP keeps all weights on each rank: the first is not below one.",
            ),
            (
                lambda: (1 / measured()[0], 1 / measured()[1], ...),
                "The first two are upside down: a rank's bytes over the single process's.",
            ),
            (
                lambda: (..., ..., 2 * measured()[2]),
                "Twice as much: compare one rank with one rank.",
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
            (
                lambda: (..., 100 * efficiency(4), ...),
                "The efficiency in per cent. A share is asked for.",
            ),
            (
                lambda: (gpu_hours(1), ..., ...),
                "The first is one GPU's. Four of them work for 1.85 h.",
            ),
            (
                lambda: (..., ..., break_even(2, 4)),
                "The last compares 2 with 4 GPUs. Asked is 1 against 4.",
            ),
            (
                lambda: (..., ..., 2.69 * break_even(1, 4)),
                "The last is in dollars. Give it in prices of a GPU-hour.",
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
            (
                lambda: (*batch()[:2], 2.6),
                "2.6 is the rate at batch 8.",
            ),
            (
                lambda: (*batch()[:2], 1.3 * 2.6),
                "30 % more once again. The fixed part does not shrink again: use the line.",
            ),
            (
                lambda: (*batch()[:2], 1 / batch()[2]),
                "The last is seconds per sample. Samples per second are asked for.",
            ),
            (
                lambda: (*batch()[:2], 16 * batch()[1] + batch()[0]),
                "The last is the seconds of a step of 16. Divide 16 by it.",
            ),
            (
                lambda: (batch()[1], batch()[0], ...),
                "The first two are swapped: the fixed part comes first.",
            ),
            (
                lambda: (..., 4 * batch()[1], ...),
                "The second is for four samples. Give it for one.",
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
            (
                (2, 4, ...),
                "Four GPUs are one node here.",
            ),
            (
                lambda: request(4, doubled(4) / 2),
                "Samples *and* epochs double: four times the work, not twice.",
            ),
        ),
        because="The one choice of the three that the queue's limit allows.",
    ),
    exercise("case_b"),
)
