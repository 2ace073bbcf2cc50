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

# 3: the optimizer on the host; seconds of a step, of its arithmetic, of the CPU's update
STEP, ARITHMETIC, UPDATE, MICRO_BATCHES, MORE = 10.5, 8.0, 1.2, 4, 16
# 5: what people say of fine-tuning
CLAIMS = {"A": False, "B": False, "C": True, "D": False, "E": True, "F": False, "G": False}

# 4: what is out of memory, and what may be changed
LONG = Run("llama-3.1-8b", sequence=6144, lora=16, recompute="full", optimizer="adamw-fused")
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


def missing(scales: float = 0.5, outside: float = 2.0) -> tuple[float, float]:
    """GB that a count of half a byte per weight leaves out: scales, and what is not quantised."""
    rest = Model(MODEL).parameters.total - _inside()
    return _inside() * scales / 8 / GB, rest * (outside - 0.5) / GB


def host(per_weight: float = 4.0, update: float = UPDATE) -> tuple[float, float]:
    """(GB/s of the bus, per cent of a step of 16 micro-batches that bus and CPU take)."""
    on_bus = STEP - ARITHMETIC - update
    waiting = STEP - ARITHMETIC
    whole = ARITHMETIC / MICRO_BATCHES * MORE + waiting
    return per_weight * Model(MODEL).parameters.total / on_bus / GB, 100 * waiting / whole


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
        "missing",
        answer=missing,
        unit="GB",
        tolerance=0.01,
        mistakes=(
            (
                lambda: (missing(32 / 64 * 8)[0], ...),
                "A scale has 32 bits for each 64 weights: half a **bit** per weight, not half a "
                "byte.",
            ),
            (
                lambda: (missing(0.127)[0], ...),
                "That is with double quantisation. Here each scale is a number in fp32.",
            ),
            (
                lambda: (missing(0.5 * Model(MODEL).parameters.total / _inside())[0], ...),
                "The first is for all weights. Scales belong to the quantised ones alone.",
            ),
            (
                lambda: (..., missing(outside=2.5)[1]),
                "The second is all that embedding, head and norms take. The tool has counted half "
                "a byte of it already.",
            ),
            (
                lambda: (..., missing(outside=4.0)[1]),
                "The second is with embedding and head in fp32, as peft's preparation makes them. "
                "Here they stay in bf16.",
            ),
            (lambda: missing()[::-1], "The two are swapped: the scales come first."),
            (
                (0.83, ...),
                "The first is both errors together. Give them apart.",
            ),
        ),
        because="Not a quarter of the bf16 model: scales, and what is not quantised, make it "
        "nearly a third.",
    ),
    Exercise(
        "host",
        answer=host,
        tolerance=0.01,
        mistakes=(
            (
                lambda: (host(update=0)[0], ...),
                "The CPU's update is in those seconds too: the bus has the rest of them.",
            ),
            (
                lambda: (host(2.0)[0], ...),
                "One way only. Gradients go out **and** new weights come back.",
            ),
            (
                lambda: (host(8.0)[0], ...),
                "Eight bytes per weight would be fp32 both ways, or moments that travel. In pure "
                "bf16 it is 2 + 2, and the moments stay.",
            ),
            (
                lambda: (host(4.0 * MICRO_BATCHES)[0], ...),
                "Gradients add up on the GPU and cross once per step, not with every micro-batch.",
            ),
            (
                lambda: (..., 100 * (STEP - ARITHMETIC) / STEP),
                "That is the share with four micro-batches. With 16 the arithmetic is four times "
                "as long.",
            ),
            (
                lambda: (..., 100 * (STEP - ARITHMETIC) / (4 * ARITHMETIC)),
                "The second is waiting over arithmetic. The step is both.",
            ),
            (
                lambda: (..., host()[1] / 100),
                "The second as a fraction. Per cent is asked for.",
            ),
            (
                lambda: (
                    ...,
                    100 * (STEP - ARITHMETIC - UPDATE) / (ARITHMETIC * 4 + STEP - ARITHMETIC),
                ),
                "The second is the bus alone. The CPU's update is asked for as well.",
            ),
        ),
        because="What happens once per step is paid by more micro-batches, if their gradients fit.",
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
    Exercise(
        "claims",
        answer=lambda: dict(CLAIMS),
        mistakes=(
            (
                CLAIMS | {"A": True},
                "Look at A again: which of the three products per layer does a frozen weight "
                "spare?",
            ),
            (
                CLAIMS | {"B": True},
                "Look at B again: in which precision does a quantised layer multiply?",
            ),
            (
                CLAIMS | {"C": False},
                "Look at C again: what do frozen weights with the adapters switched off compute?",
            ),
            (CLAIMS | {"D": True}, "Look at D again: when does AdamW make its moments?"),
            (
                CLAIMS | {"E": False},
                "Look at E again: context, gaps and other processes' memory are no tensors.",
            ),
            (
                CLAIMS | {"F": True},
                "Look at F again: what part of a peak follows the rank?",
            ),
            (
                CLAIMS | {"G": True},
                "Look at G again: does a fused loss compute anything else, or at another moment?",
            ),
        ),
        because="Each wrong claim mixes up what is held with what is computed, or one moment with "
        "another.",
    ),
)
