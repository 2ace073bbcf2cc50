"""A training run as an immutable value: model, shape of a step, precision, optimizer, GPUs."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass, fields

from .architecture.model import Model
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
        return BYTES[self.products]


RECIPES = {
    "fp32": Recipe("fp32", "fp32"),
    "bf16-mixed": Recipe("fp32", "bf16", autocast=True),
    "bf16-master": Recipe("bf16", "bf16", master=True),
    "bf16": Recipe("bf16", "bf16"),
    "fp16-mixed": Recipe("fp32", "fp16", autocast=True),
    "fp16": Recipe("fp16", "fp16"),
}

# Who runs the step. None is PyTorch kernel by kernel: memory as transformers allocates it, time as
# nanotron was measured, of which there are most runs; what each does is in data/engines.csv.
ENGINES = (
    None,
    "transformers",
    "fsdp",
    "torchtitan",
    "deepspeed",
    "megatron",
    "megatron-deepspeed",
    "nanotron",
    "xla",
    "llm.c",
)

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
    ),
    "recompute": ("none", "selective", "full"),
    "attention": ("flash", "eager"),
    "zero": (0, 1, 2, 3),
    "engine": ENGINES,
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
        "paged-adamw-8bit": "adamw-8bit",
        "lion-32bit": "lion",
    },
    "recompute": {True: "full", False: "none"},
    "attention": {
        "sdpa": "flash",
        "flash-attention-2": "flash",
        "flash-attention-3": "flash",
        "flash-attention": "flash",
    },
    "engine": {
        "accelerate": "transformers",
        "ddp": "transformers",
        "trainer": "transformers",
        "trl": "transformers",
        "composer": "fsdp",
        "fms": "fsdp",
        "fsdp1": "fsdp",
        "fsdp2": "torchtitan",
        "megatron-bridge": "megatron",
        "megatron-core": "megatron",
        "megatron-lm": "megatron",
        "nemo": "megatron",
        "jax": "xla",
        "maxtext": "xla",
        "paxml": "xla",
    },
}


def one_of(field: str, value, allowed: tuple, words: dict | None = None):
    """The allowed value that is meant: case and "_" for "-" do not matter, `words` translate.

    Raises:
        ValueError: names the field, the value, what is allowed, and the nearest of it.
    """
    plain = value.strip().lower().replace("_", "-") if isinstance(value, str) else value
    if isinstance(plain, str | bool) and plain in (words or {}):
        return words[plain]
    if not isinstance(plain, bool) and plain in allowed:
        return plain
    words_allowed = [word for word in allowed if isinstance(word, str)]
    near = difflib.get_close_matches(plain, words_allowed, 1) if isinstance(plain, str) else []
    raise ValueError(
        f"{field}: {value!r} given; allowed: {', '.join(map(repr, allowed))}"
        + (f"; nearest: {near[0]!r}" if near else "")
    )


def whole_number(field: str, value) -> int:
    """The value as an integer >= 1.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = 0
    if isinstance(value, bool) or number < 1:
        raise ValueError(f"{field}: {value!r} given; allowed: a whole number >= 1")
    return number


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
            and "fp16", the same with fp16, of which a T4 or V100 has nothing else.
        gradients: "same" as the weights' dtype, or "fp32": an fp32 accumulation buffer beside them.
        optimizer: "sgd", "momentum", "adamw" (foreach, torch's default on a GPU), "adamw-fused",
            "adamw-8bit", "adafactor", "muon" or "lion".
        recompute: "none"; "selective" (the attention core, Korthikanti et al., arXiv:2205.05198);
            "full" (every layer from its input).
        attention: "flash" (fused, no s x s matrix in memory) or "eager".
        data, tensor, pipeline, context: parallel degrees; GPUs are their product.
        zero: ZeRO stage 0 to 3, over the ranks that hold the same weights: data x context.
        expert: ranks that a mixture's routed experts are dealt out to, among data x context (then
            each expert is sliced by `tensor` too), or, where it does not divide those, among
            tensor x data x context (then experts stay whole, Megatron's expert-tensor degree 1).
        sequence_parallel: whether tensor-parallel ranks divide by tokens what they do not divide by
            heads or width (Korthikanti et al.); without it norms and residuals are whole on each.
        interleave: stages of the pipeline that each GPU holds, its virtual pipeline degree
            (Narayanan et al., arXiv:2104.04473, section 2.2.2).
        engine: None (PyTorch kernel by kernel), "transformers" (Trainer, accelerate, DDP), "fsdp"
            (FSDP1 as Composer and fms run it), "torchtitan" (FSDP2, compiled), "deepspeed",
            "megatron" (Megatron-Core, NeMo), "megatron-deepspeed" (BLOOM, MT-NLG), "nanotron",
            "xla" (MaxText) or "llm.c"; see data/engines.csv.
        lora: None to train all weights, a rank, or a `Lora`.

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
    expert: int = 1
    sequence_parallel: bool = True
    interleave: int = 1
    engine: str | None = None

    def __post_init__(self):
        def settle(name, value):
            object.__setattr__(self, name, value)

        if not isinstance(self.model, Model):
            settle("model", Model(self.model))
        for name in _CHOSEN:
            value = getattr(self, name)
            if type(value) is bool or value not in CHOICES[name]:
                settle(name, one_of(name, value, CHOICES[name], WORDS.get(name)))
        for name in _COUNTED:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                settle(name, whole_number(name, value))
        if self.lora is not None and not isinstance(self.lora, Lora):
            settle("lora", _lora(self.lora))
        if type(self.sequence_parallel) is not bool:
            raise ValueError(
                f"sequence_parallel: {self.sequence_parallel!r} given; allowed: True, False"
            )
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
    if field.name not in ("model", "lora", "sequence_parallel", *CHOICES)
)


def _lora(value) -> Lora:
    try:
        return Lora(value)
    except ValueError:
        raise ValueError(
            f"lora: {value!r} given; allowed: None (all weights are trained), a rank >= 1, "
            "or a sizing.Lora"
        ) from None


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
