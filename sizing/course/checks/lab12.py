"""Lab 12, fine-tuning: what is right, and what each known mistake leads to."""

from dataclasses import replace

from ...architecture.model import Model
from ...footprint.step import memory
from ...lora import Lora, linear_layers
from ...run import Run, adapter_parameters
from ...units import GB
from ..exercise import Exercise

MODEL, CARD = "mistral-7b", "rtx-4090"
THIN = Run(MODEL, lora=Lora(8, ("q_proj", "v_proj")))

# 3: the optimizer on the host
BUS, MICRO_BATCHES, ARITHMETIC = 25 * GB, 4, 8.0

# 4: what is out of memory, and what may be changed
LONG = Run("llama-3.1-8b", sequence=8192, lora=16, recompute="full", optimizer="adamw-fused")
CURES = {
    "rank": {"lora": 4},
    "offload": {"offload": ("optimizer",)},
    "loss": {"loss": "fused"},
    "qlora": {"quantization": "nf4"},
}


def _shapes():
    (block,) = THIN.model.blocks
    return block.count, linear_layers(THIN.model)


def _inside() -> int:
    layers, shapes = _shapes()
    return layers * sum(a * b for a, b in shapes.values())


def _adapted(join, names=("q_proj", "v_proj")) -> int:
    """8 times what `join` makes of each adapted layer's shape, over all layers."""
    layers, shapes = _shapes()
    return layers * 8 * sum(join(*s) for n, s in shapes.items() if n.endswith(names))


def weights(bits: float = 4.5, outside: float = 2.0) -> float:
    """GB of the model with so many bits inside the blocks and bytes outside."""
    total = Model(MODEL).parameters.total
    return (_inside() * bits / 8 + (total - _inside()) * outside) / GB


def bus(per_weight: float = 4.0, times: int = 1) -> float:
    """Per cent of the step that the bus takes."""
    seconds = times * per_weight * Model(MODEL).parameters.total / BUS
    return 100 * seconds / (seconds + ARITHMETIC)


def cure() -> str:
    """The first of the cures, in the order of their cost, after which the step fits."""
    fitting = (
        name
        for name, change in CURES.items()
        if memory(replace(LONG, **change)).on(CARD).verdict == "fits"
    )
    return next(fitting)


EXERCISES = (
    Exercise(
        "adapters",
        answer=lambda: adapter_parameters(THIN),
        unit="weights",
        tolerance=0,
        mistakes=(
            (
                lambda: _adapted(lambda out, into: 4096 + into),
                "You gave `v` the width of `q`. Keys and values are shared by groups of heads: the "
                "output of `v_proj` is 1024 wide.",
            ),
            (
                lambda: _adapted(lambda out, into: into),
                "That is `down` alone. `up` has rank x out weights beside it.",
            ),
            (
                lambda: _adapted(lambda out, into: out + into) // _shapes()[0],
                "That is one layer. The model has 32.",
            ),
            (
                lambda: _adapted(lambda out, into: out + into, ("_proj",)),
                "Those are adapters on all linear layers. Only two of seven are asked for.",
            ),
            (
                lambda: _adapted(lambda out, into: out * into) // 8,
                "Those are the frozen matrices themselves.",
            ),
        ),
        because="A two-thousandth of the model.",
    ),
    Exercise(
        "weights",
        answer=weights,
        unit="GB",
        tolerance=0.01,
        mistakes=(
            (lambda: weights(4.0), "The scales are missing: an fp32 number for each 64 weights."),
            (
                lambda: weights(4.5, 4.5 / 8),
                "You quantised all of it. Embedding, head and norms stay in 16 bits here.",
            ),
            (
                lambda: weights(4.5, 4.0),
                "That is with embedding and head in fp32, as peft's preparation makes them. Here "
                "they stay in bf16.",
            ),
            (lambda: weights(4.5, 0.0), "And embedding, head and norms?"),
            (lambda: weights(16.0), "That is all of it in bf16."),
        ),
        because="Not a quarter of the bf16 model: scales, and what is not quantised, make it "
        "nearly a third.",
    ),
    Exercise(
        "bus",
        answer=bus,
        unit="%",
        tolerance=0.01,
        mistakes=(
            (
                lambda: bus(times=MICRO_BATCHES),
                "Without ZeRO-2 or 3, gradients gather on the GPU and cross once per step, not "
                "with every micro-batch.",
            ),
            (lambda: bus(2.0), "One way only. Gradients go out **and** new weights come back."),
            (
                lambda: bus(8.0),
                "The moments do not cross the bus: that is why they were sent away.",
            ),
            (
                lambda: 100 * 4 * Model(MODEL).parameters.total / BUS / ARITHMETIC,
                "That is bus over arithmetic. The step is both, one after the other.",
            ),
        ),
        because="More micro-batches per step, and the share falls; overlap, and it falls again.",
    ),
    Exercise(
        "cure",
        answer=cure,
        mistakes=(
            ("rank", "Rank 4 saves less than half a gigabyte. Adapters do not fill this card."),
            ("offload", "AdamW keeps moments for adapters alone: a third of a gigabyte."),
            (
                "qlora",
                "Look at the phase of the peak: it is the loss. And which cure leaves the training "
                "as it is?",
            ),
        ),
        because="It acts on the phase that is full, and costs neither time nor accuracy.",
    ),
)
