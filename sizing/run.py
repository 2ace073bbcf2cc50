"""A training run as an immutable value: model, shape of a step, precision, optimizer, GPUs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .architecture.model import Model
from .settings import (
    Distillation,
    Dpo,
    check_together,
    numbered,
    objective_of,
    offload_of,
    one_of,
    whole_number,
)
from .units import BYTES


@dataclass(frozen=True)
class Recipe:
    """Which dtypes a precision recipe keeps: of the weights, and of the matrix products' inputs.

    `autocast` casts fp32 weights for each product; `master` keeps an fp32 copy of 16-bit weights
    in the optimizer, whose state is fp32 then.
    """

    weights: str
    products: str
    autocast: bool = False
    master: bool = False

    @property
    def weight_bytes(self) -> int:
        """Bytes of one weight."""
        return BYTES[self.weights]

    @property
    def activation_bytes(self) -> int:
        """Bytes of one element that matrix products take and give."""
        return 2 if self.products == "fp8" else BYTES[self.products]  # fp8 in, bf16 out


RECIPES = {
    "fp32": Recipe("fp32", "fp32"),
    "bf16-mixed": Recipe("fp32", "bf16", autocast=True),
    "bf16-master": Recipe("bf16", "bf16", master=True),
    "bf16": Recipe("bf16", "bf16"),
    "fp16-mixed": Recipe("fp32", "fp16", autocast=True),
    "fp16": Recipe("fp16", "fp16"),
    "fp8": Recipe("fp32", "fp8", autocast=True),
}

CHOICES = {
    "precision": tuple(RECIPES),
    "gradients": ("same", "fp32"),
    "optimizer": (
        "sgd",
        "momentum",
        "adamw",
        "adamw-fused",
        "adamw-8bit",
        "adafactor",
        "muon",
        "lion",
        "adamw-4bit",
        "paged-adamw-8bit",
        "galore",
        "adam-mini",
    ),
    "recompute": ("none", "selective", "full"),
    "attention": ("flash", "eager"),
    "zero": (0, 1, 2, 3),
    "reduce": ("fp32", "same"),
}

# What people type for one of the choices: the names of transformers' arguments and of torch.
WORDS = {
    "precision": {
        "float32": "fp32",
        "bfloat16": "bf16",
        "float16": "fp16",
        "half": "fp16",
    },
    "optimizer": {
        "adam": "adamw",
        "adamw-torch": "adamw",
        "adamw-torch-fused": "adamw-fused",
        "adamw-torch-8bit": "adamw-8bit",
        "adamw-bnb-8bit": "adamw-8bit",
        "adamw-torch-4bit": "adamw-4bit",
        "paged-adamw": "paged-adamw-8bit",
        "galore-adamw": "galore",
        "lion-32bit": "lion",
    },
    "recompute": {True: "full", False: "none"},
    "attention": {
        "sdpa": "flash",
        "flash-attention-2": "flash",
        "flash-attention-3": "flash",
        "flash-attention": "flash",
    },
}


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on the linear layers inside the blocks; all other weights are frozen.

    As peft adds them to a model (Hu et al., arXiv:2106.09685): fp32 adapters of this rank.

    Raises:
        ValueError: the rank is not a whole number >= 1.
    """

    rank: int

    def __post_init__(self):
        object.__setattr__(self, "rank", whole_number("rank", self.rank))


@dataclass(frozen=True)
class Run:
    """One training run. `dataclasses.replace(run, ...)` makes the next one.

    Args:
        model: a `Model`, or anything that `Model` takes.
        sequence: sequence length in tokens.
        micro_batch: sequences that one data-parallel rank sends through at once.
        accumulation: micro-batches before each optimizer step.
        precision: "fp32"; "bf16-mixed" (fp32 weights under autocast); "bf16-master" (bf16 weights,
            fp32 master copy in the optimizer); "bf16" (bf16 weights and nothing else); "fp16-mixed"
            and "fp16", the same with fp16, of which a T4 or V100 has nothing else; "fp8", as
            "bf16-mixed" with the layers' linears multiplied in fp8 (torchao's Float8Linear). With
            zero=3 over several ranks the mixed ones are FSDP2's MixedPrecisionPolicy: fp32 shards,
            gathered and computed in 16 bits.
        gradients: "same" as the weights' dtype, or "fp32": an fp32 accumulation buffer beside them.
        optimizer: "sgd", "momentum", "adamw" (foreach, torch's default on a GPU), "adamw-fused",
            "adamw-8bit", "adafactor", "muon" or "lion"; "adamw-4bit" (torchao), "paged-adamw-8bit"
            (bitsandbytes), "galore" (rank 128, or as "galore-1024"), "adam-mini".
        recompute: "none"; "selective" (with eager attention its core, Korthikanti et al.,
            arXiv:2205.05198; with flash attention all but that and every second matrix product, as
            torchtitan does per operation); "full" (every layer from its input); "every-2" and so
            on (every second layer); or names of a layer's modules, as ("mlp", "input_layernorm").
        attention: "flash" (fused, no s x s matrix in memory) or "eager".
        data, tensor, pipeline, context: parallel degrees; GPUs are their product.
        zero: ZeRO stage 0 to 3, over the ranks that hold the same weights: data x context.
        lora: None to train all weights, a rank, or a `Lora`.
        offload: what lies in the host's memory: some of "optimizer" (its state, and gradients as
            they come), "parameters" (fetched layer by layer, zero=3) and "activations".
        optimizer_in_backward: whether each weight is updated as soon as its gradient is there.
        objective: "lm"; "dpo" or a `Dpo`; "distillation" or a `Distillation`.
        reduce: dtype in which zero=3 reduces gradients under a mixed precision: "fp32", or "same"
            as the products'.

    Words of transformers and torch are understood ("sdpa", "adamw_torch_fused", recompute=True) and
    kept as the choice that they mean.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """

    model: Model
    sequence: int = 2048
    micro_batch: int = 1
    accumulation: int = 1
    precision: str = "bf16-mixed"
    gradients: str = "same"
    optimizer: str = "adamw"
    recompute: str = "none"
    attention: str = "flash"
    data: int = 1
    zero: int = 0
    tensor: int = 1
    pipeline: int = 1
    context: int = 1
    lora: Lora | None = None
    offload: tuple[str, ...] = ()
    optimizer_in_backward: bool = False
    objective: str | Dpo | Distillation = "lm"
    reduce: str = "fp32"

    def __post_init__(self):
        def settle(name, value):
            object.__setattr__(self, name, value)

        if not isinstance(self.model, Model):
            settle("model", Model(self.model))
        for name in _CHOSEN:
            value = getattr(self, name)
            if type(value) in (bool, list, set) or value not in CHOICES[name]:
                found = numbered(name, value, self.model)
                settle(name, found or one_of(name, value, CHOICES[name], WORDS.get(name)))
        for name in _COUNTED:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                settle(name, whole_number(name, value))
        if self.lora is not None and not isinstance(self.lora, Lora):
            settle("lora", _lora(self.lora))
        if self.offload != ():
            settle("offload", offload_of(self.offload))
        if not isinstance(self.optimizer_in_backward, bool):
            raise ValueError(
                f"optimizer_in_backward: {self.optimizer_in_backward!r} given; allowed: True, False"
            )
        if self.objective != "lm":
            settle("objective", objective_of(self))
        if (
            self.offload
            or self.optimizer_in_backward
            or self.objective != "lm"
            or self.optimizer[:6] == "galore"
        ):
            check_together(self)
        longest = self.model.max_positions
        if longest is not None and self.sequence > longest:
            raise ValueError(
                f"sequence: {self.sequence} given; allowed: 1 to {longest}, the learned positions "
                f"of {self.model.name}"
            )

    @property
    def recipe(self) -> Recipe:
        """The dtypes that `precision` stands for."""
        return RECIPES[self.precision]

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def sequences(self) -> int:
        """Sequences in one optimizer step, over all ranks: the global batch."""
        return self.micro_batch * self.accumulation * self.data

    @property
    def tokens(self) -> int:
        """Tokens in one optimizer step, over all ranks."""
        return self.sequences * self.sequence


_CHOSEN = tuple(CHOICES)
_COUNTED = tuple(
    field.name
    for field in fields(Run)
    if field.name
    not in ("model", "lora", "offload", "optimizer_in_backward", "objective", *CHOICES)
)


def _lora(value) -> Lora:
    try:
        return Lora(value)
    except ValueError:
        raise ValueError(
            f"lora: {value!r} given; allowed: None (all weights are trained), a rank >= 1, "
            "or a sizing.Lora"
        ) from None


def usual_alone(run: Run, what: str, *names: str) -> None:
    """For quantities that know the usual value of some fields alone.

    Raises:
        ValueError: one of the fields has another.
    """
    for name in names:
        value, usual = getattr(run, name), getattr(Run, name)
        if value != usual:
            raise ValueError(
                f"{name}: {value!r} given; allowed: {usual!r}, because {what} is known for that "
                "alone"
            )


def usual_recompute(run: Run, what: str) -> None:
    """For quantities that know three kinds of recompute and no fp8.

    Raises:
        ValueError: the run has another.
    """
    if run.recompute not in CHOICES["recompute"]:
        raise ValueError(
            f"recompute: {run.recompute!r} given; allowed: "
            f"{', '.join(map(repr, CHOICES['recompute']))}, because {what} is known for these alone"
        )
    if run.precision == "fp8":
        raise ValueError(
            f"precision: 'fp8' given; allowed: any other, because {what} is not known for it"
        )


def all_weights_trained(run: Run, what: str) -> None:
    """For quantities that know full training alone.

    Raises:
        ValueError: the run trains adapters.
    """
    if run.lora is not None:
        raise ValueError(
            f"lora: {run.lora!r} given; allowed: None, because {what} is known for the training "
            "of all weights alone"
        )
