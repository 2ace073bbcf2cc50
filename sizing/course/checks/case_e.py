"""Case lab E, the capstone: rules of thumb under test, and what each known mistake leads to."""

from dataclasses import replace

from ...architecture.model import Model
from ...compute import flops
from ...footprint.step import memory
from ...hardware import gpu
from ...planning.storage import checkpoint
from ...run import Run
from ...speed.step import step_time
from ...units import GB, GIB
from ..exercise import Exercise
from ..rubric import grade, specimens

LENGTHS = (2048, 4096, 8192, 16_384, 32_768, 65_536)
SHAPE = {"precision": "bf16-master", "optimizer": "adamw-fused", "sequence": 2048}
SMALL, MEDIUM, LARGE = "smollm2-135m", "llama-3.2-1b", "llama-2-13b"


def utilisation(tokens: int, part: str = "total") -> float:
    """MFU on an H100 of a step of so many tokens: one sequence, or several of 2048."""
    sequence = min(tokens, 2048)
    count = tokens // sequence
    micro = min(8, count)
    shape = {**SHAPE, "sequence": sequence, "micro_batch": micro, "accumulation": count // micro}
    run, card = Run(SMALL, **shape), gpu("h100-sxm")
    time = step_time(run, card)
    seconds = time.total if part == "total" else time.total - time.host
    return flops(run).model / seconds / card.peak_flops("bf16")


def batches():
    """Per cent MFU at 256 tokens per step and at 131,072."""
    return 100 * utilisation(256), 100 * utilisation(131_072)


def state(each: float = 16, unit: float = GB) -> float:
    return each * Model(MEDIUM).parameters.total / unit


def recompute_from(limit: float = 1.0, **fields) -> int:
    """The first length in LENGTHS at which an 8B over 8 H100s does not fit without recompute."""
    run = Run("llama-3.1-8b", **{**SHAPE, "data": 8, "zero": 3, **fields})
    room = limit * gpu("h100-sxm").memory
    return next(s for s in LENGTHS if memory(replace(run, sequence=s)).total > room)


def large(unit: float = GB, **fields) -> float:
    """Peak of the 13B on each of 8 GPUs."""
    run = Run(LARGE, **{**SHAPE, "data": 8, "zero": 3, "recompute": "full", **fields})
    return memory(run).total / unit


def crossover(factor: float = 6, field: str = "hidden") -> float:
    return factor * getattr(Model(LARGE), field)


def disk(run_zero: int = 3, unit: float = GB, optimizer: str = "adamw-fused") -> float:
    shape = {**SHAPE, "optimizer": optimizer}
    return checkpoint(Run(LARGE, **shape, data=8, zero=run_zero)).total / unit


RULES = {
    "100M: 4-8 GPUs": "falls",
    "256 tokens a batch": "falls",
    "1B: ZeRO required": "falls",
    "10B+: tensor + pipeline": "falls",
    "recompute mandatory when long": "depends",
    "cost quadratic in length": "depends",
    "larger batches raise throughput": "depends",
    "accumulation free of memory": "depends",
    "Adafactor lighter": "stands",
    "fused AdamW faster": "stands",
    "store masters and moments": "stands",
}


def verdicts(**changed: str) -> dict[str, str]:
    names = {"small": "100M: 4-8 GPUs", "large": "10B+: tensor + pipeline",
             "recompute": "recompute mandatory when long", "free": "accumulation free of memory",
             "adafactor": "Adafactor lighter", "quadratic": "cost quadratic in length",
             "larger": "larger batches raise throughput", "fused": "fused AdamW faster",
             "store": "store masters and moments"}  # fmt: skip
    return RULES | {names[key]: value for key, value in changed.items()}


def grades(**changed: str) -> dict[str, str]:
    return {name: grade(handed) for name, handed in specimens().items()} | changed


EXERCISES = (
    Exercise(
        "batches",
        answer=batches,
        unit="%",
        tolerance=0.03,
        mistakes=(
            (
                lambda: tuple(value / 100 for value in batches()),
                "That is a fraction: give per cent.",
            ),
            (
                lambda: tuple(value / 2 for value in batches()),
                "That is against the peak with sparsity: take the dense one.",
            ),
        ),
        because="At 256 tokens the GPU waits for Python; real runs take 10^5 to 10^6.",
    ),
    Exercise(
        "state",
        answer=state,
        unit="GB",
        mistakes=(
            (
                lambda: state(unit=GIB),
                "That is in GiB.",
            ),
            (
                lambda: state(2),
                "That is the weights in bf16 alone: AdamW with a master copy takes 16 bytes.",
            ),
            (
                lambda: state(12),
                "That leaves the gradients or a copy out: 2 + 2 for weight and gradient, 4 for the "
                "master weight, 8 for two moments.",
            ),
        ),
        because="It fits one 40 GB card, so what needs more GPUs is time, not memory.",
    ),
    Exercise(
        "recompute",
        answer=recompute_from,
        tolerance=0,
        mistakes=(
            (
                lambda: recompute_from(recompute="full"),
                "That is where it does not fit even with recompute.",
            ),
            (
                lambda: recompute_from(zero=0) if recompute_from(zero=0) else 0,
                "That is without ZeRO: the state alone does not fit then.",
            ),
        ),
        because="With flash attention activations grow with the length, not with its square.",
    ),
    Exercise(
        "large",
        answer=large,
        unit="GB",
        mistakes=(
            (
                lambda: large(unit=GIB),
                "That is in GiB.",
            ),
            (
                lambda: large(recompute="none"),
                "That is without recompute. It fits as well, with less room.",
            ),
            (
                lambda: large(zero=0),
                "That is the whole state on each GPU: ZeRO-3 divides it by 8.",
            ),
            (
                lambda: 16 * Model(LARGE).parameters.total / 8 / GB,
                "That is the state's share alone. The peak holds activations and gathered weights.",
            ),
        ),
        because="One node with ZeRO-3 alone holds a 13B: no tensor or pipeline parallelism.",
    ),
    Exercise(
        "crossover",
        answer=crossover,
        tolerance=0,
        unit="tokens",
        mistakes=(
            (
                lambda: crossover(1),
                "At s = h attention is a sixth of the other products.",
            ),
            (
                lambda: crossover(12),
                "12 h^2 parameters against 2 s h products per token: s = 6 h.",
            ),
        ),
        because="Below it the cost per token hardly depends on the length.",
    ),
    Exercise(
        "disk",
        answer=disk,
        unit="GB",
        mistakes=(
            (
                lambda: disk(unit=GIB),
                "That is in GiB.",
            ),
            (
                lambda: 2 * Model(LARGE).parameters.total / GB,
                "That is the bf16 weights alone. To go on, one needs master weights and moments.",
            ),
            (
                lambda: 3 * disk(),
                "One checkpoint is asked for.",
            ),
        ),
        because="The chapter's list of contents is right; the bytes decide the disk.",
    ),
    Exercise(
        "rules",
        answer=verdicts,
        mistakes=(
            (
                lambda: verdicts(small="stands"),
                "A 100M model fits any card: more GPUs buy time alone.",
            ),
            (
                lambda: verdicts(large="stands"),
                "Exercise 4: a 13B fits one node with ZeRO-3 alone.",
            ),
            (
                lambda: verdicts(recompute="stands"),
                "It depends on the length, the micro-batch and the card: exercise 3 has the point.",
            ),
            (
                lambda: verdicts(free="stands"),
                "From the second micro-batch on the gradients stay while activations grow: the "
                "peak may rise (lesson 07).",
            ),
            (
                lambda: verdicts(quadratic="stands"),
                "Attention alone is quadratic, and half of the work only from s = 6 h on.",
            ),
            (
                lambda: verdicts(larger="stands"),
                "Up to the knee they do (lesson 07). Beyond it a larger batch adds tokens and time "
                "alike.",
            ),
            (
                lambda: verdicts(fused="depends"),
                "One pass over weights, gradients and moments moves fewer bytes than several do, "
                "on every card (lesson 06).",
            ),
            (
                lambda: verdicts(store="depends"),
                "Without them the run that goes on is another run (lesson 10).",
            ),
            (
                lambda: verdicts(adafactor="falls"),
                "Its second moment is two vectors for a matrix (lesson 06): it is lighter.",
            ),
        ),
        because="A rule of thumb without its condition is a guess.",
    ),
    Exercise(
        "grades",
        answer=grades,
        mistakes=(
            (
                lambda: grades(A="fair"),
                "What does not fit has no days and no dollars.",
            ),
            (
                lambda: grades(B="good"),
                "It keeps every limit, but nobody can start half of it or see why it was chosen.",
            ),
            (
                lambda: grades(C="fair"),
                "It fits, keeps both limits at the band's high end, starts and says why.",
            ),
        ),
        because="A plan is good when somebody else can start it and defend it.",
    ),
)
