"""A training run as an immutable value: model, shape of a step, precision, optimizer, GPUs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from functools import lru_cache

from .architecture.model import Model
from .architecture.weights import Block
from .settings import (
    Distillation,
    Dpo,
    check_together,
    document_of,
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
# Frozen weights under autocast keep the dtype that they were loaded in.
_NARROW = {
    name: replace(recipe, weights=recipe.products)
    for name, recipe in RECIPES.items()
    if recipe.autocast
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
    "quantization": (None, "int8", "nf4", "nf4-double"),
    "kernels": ("eager", "compiled", "liger"),
    "loss": (None, "eager", "compiled", "chunked", "fused"),
    "outputs": ("released", "kept", "fp32"),
    "engine": ENGINES,
    "reduce": ("fp32", "same"),
    "scaling": (None, "delayed", "tensorwise", "rowwise", "blockwise"),
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
    "quantization": {"none": None, "8bit": "int8", "qlora": "nf4-double"},
    "kernels": {"none": "eager", "compile": "compiled", "torch.compile": "compiled"},
    "loss": {"cce": "fused", "cut-cross-entropy": "fused", "compile": "compiled"},
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


LORA_CHOICES = {
    "dtype": ("fp32", "bf16"),
    "base": ("bf16", "fp32"),
}
TABLES = ("embed_tokens", "lm_head")  # what `Lora.embeddings` names, whatever a family calls them


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters on linear layers inside the blocks; all other weights are frozen.

    As peft adds them to a model (Hu et al., arXiv:2106.09685). `Run.precision` means then:

    ============ ======================================== ========
    precision    frozen weights                           autocast
    ============ ======================================== ========
    "fp32"       fp32                                     no
    "bf16"       bf16                                     no
    "bf16-mixed" bf16, as loaded (fp32 with base="fp32")  yes
    ============ ======================================== ========

    Args:
        rank: of the update: (rank, in) and (out, rank) beside a layer of shape (out, in).
        targets: "all-linear", or the names of the adapted layers ("q_proj", "v_proj"), each the
            end of a module's name as in peft's target_modules.
        dtype: of the adapters: "fp32" as peft makes them, or "bf16" (autocast_adapter_dtype=False;
            trl's 4-bit set-up), which is fp16 under a recipe of fp16.
        dropout: of the adapters' inputs: one mask of its own for each adapted layer.
        embeddings: "embed_tokens", "lm_head" or both, trained whole on a copy beside the frozen
            one (peft's modules_to_save).
        base: "bf16" or "fp32": of the frozen weights under autocast. It changes nothing in other
            recipes, whose weights have one dtype, and under quantisation.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """

    rank: int
    targets: str | tuple[str, ...] = "all-linear"
    dtype: str = "fp32"
    dropout: float = 0.0
    embeddings: tuple[str, ...] = ()
    base: str = "bf16"

    def __post_init__(self):
        def settle(name, value):
            object.__setattr__(self, name, value)

        settle("rank", whole_number("rank", self.rank))
        settle("targets", _targets(self.targets))
        for name, allowed in LORA_CHOICES.items():
            settle(name, one_of(name, getattr(self, name), allowed, WORDS["precision"]))
        settle("dropout", _share("dropout", self.dropout))
        settle("embeddings", _tables(self.embeddings))

    def adapts(self, name: str) -> bool:
        """Whether a linear layer of that name gets an adapter."""
        return self.targets == "all-linear" or any(
            name == target or name.endswith(f".{target}") for target in self.targets
        )


def _targets(value) -> str | tuple[str, ...]:
    """The layers' names, sorted: their order says nothing."""
    if isinstance(value, str) and value.strip().lower().replace("_", "-") == "all-linear":
        return "all-linear"
    names = (value,) if isinstance(value, str) else value
    if (
        not isinstance(names, tuple | list | set | frozenset)
        or not names
        or not all(isinstance(name, str) and name for name in names)
    ):
        raise ValueError(
            f"targets: {value!r} given; allowed: 'all-linear', or names of linear layers such as "
            "('q_proj', 'v_proj')"
        )
    return tuple(sorted(set(names)))


def _share(field: str, value) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{field}: {value!r} given; allowed: a number from 0, below 1")
    return float(value)


def _tables(value) -> tuple[str, ...]:
    names = (value,) if isinstance(value, str) else tuple(value)
    for name in names:
        if name not in TABLES:
            raise ValueError(
                f"embeddings: {name!r} given; allowed: {', '.join(map(repr, TABLES))}, or none"
            )
    return tuple(name for name in TABLES if name in names)


@dataclass(frozen=True)
class Run:
    """One training run. `dataclasses.replace(run, ...)` makes the next one.

    Args:
        model: a `Model`, or anything that `Model` takes.
        sequence: sequence length in tokens.
        document: None, or tokens of each document where several are packed into a sequence:
            attention stays within a document (flash attention with variable lengths). Of documents
            of several lengths, the mean of their squares over the mean.
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
        attention: "flash" (fused, no s x s matrix in memory) or "eager". The engine has its own
            fused kernel; "flash-1" (FlashAttention-1 and its Triton kernel), "flash-2" and
            "flash-3" (or cuDNN's) name one, which matters to `step_time` alone.
        data, tensor, pipeline, context: parallel degrees; GPUs are their product.
        zero: ZeRO stage 0 to 3, over the ranks that hold the same weights: data x context.
        replicate: groups of those ranks, each of which divides the model by itself; gradients are
            averaged across them (hybrid sharding: torchtitan's data_parallel_replicate_degree,
            Megatron's num_distributed_optimizer_instances; Zhao et al., arXiv:2304.11277, 3.2.2).
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
        quantization: None, "int8", "nf4" or "nf4-double": the linear layers inside the blocks as
            bitsandbytes keeps them, frozen under adapters (Dettmers et al., arXiv:2208.07339 and
            arXiv:2305.14314; "double": the scales are quantised too). All other weights keep the
            recipe's dtype; in fp32 recipes they are fp32, as peft's k-bit preparation makes them.
        kernels: "eager" (transformers' own operations), "compiled" (torch.compile of the layers)
            or "liger" (its norm, rotary, gate and loss kernels, arXiv:2410.10989).
        loss: "eager" (every logit kept and copied), "compiled" (cast, softmax and loss in one),
            "chunked" (head and loss by chunks of tokens, as Liger's) or "fused" (no logits at all:
            cut cross-entropy, arXiv:2411.09009); None, what comes with the kernels: "eager",
            "compiled", "chunked". With objective="dpo" "eager" is TRL up to 1.13, "chunked" TRL
            from 1.15 on; None is "eager".
        outputs: what the trainer does with the model's outputs until its backward pass is over:
            "released"; "kept" (the logits stay alive); "fp32" (and are cast to fp32, as
            accelerate does to outputs under autocast).
        offload: what lies in the host's memory: some of "optimizer" (its state, and gradients as
            they come), "parameters" (fetched layer by layer, zero=3) and "activations".
        optimizer_in_backward: whether each weight is updated as soon as its gradient is there.
        objective: "lm"; "dpo" or a `Dpo`; "distillation" or a `Distillation`.
        reduce: dtype in which zero=3 reduces gradients under a mixed precision: "fp32", or "same"
            as the products'.
        scaling: of fp8, which matters to `step_time` alone: "delayed" (a tensor's scale from the
            steps before), "tensorwise" (from itself), "rowwise" (a scale a row), "blockwise" (a
            scale for 128 or 32 elements: DeepSeek-V3's and MXFP8); None: the engine's.

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
    quantization: str | None = None
    kernels: str = "eager"
    loss: str | None = None
    outputs: str = "released"
    expert: int = 1
    sequence_parallel: bool = True
    interleave: int = 1
    replicate: int = 1
    document: int | None = None
    scaling: str | None = None
    engine: str | None = None
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
        if self.lora is not None and self.lora.targets != "all-linear":
            _require_layers(self.lora.targets, self.model)
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                f"quantization: {self.quantization!r} given; allowed: None without lora (integers "
                "get no gradient: a quantised model is trained through adapters)"
            )
        if type(self.sequence_parallel) is not bool:
            raise ValueError(
                f"sequence_parallel: {self.sequence_parallel!r} given; allowed: True, False"
            )
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
        if self.document is not None:
            settle("document", document_of(self))
        longest = self.model.max_positions
        if longest is not None and self.sequence > longest:
            raise ValueError(
                f"sequence: {self.sequence} given; allowed: 1 to {longest}, the positions that "
                f"{self.model.name} knows"
            )

    @property
    def recipe(self) -> Recipe:
        """The dtypes that `precision` stands for; of frozen weights, see `Lora`."""
        recipe = RECIPES[self.precision]
        if self.lora is None or not recipe.autocast or self.quantization is not None:
            return recipe
        return _NARROW[self.precision] if self.lora.base == "bf16" else recipe

    @property
    def loss_kernel(self) -> str:
        """How the loss is computed: `loss`, or what comes with the kernels; of other objectives
        than "lm" their trainers' own."""
        return self.loss or ("eager" if self.objective != "lm" else _LOSSES[self.kernels])

    @property
    def gathers_products(self) -> bool:
        """Whether FSDP2's mixed precision policy stands in for autocast: under zero=3 shards stay
        fp32, and a layer is gathered, and its gradient made, in the dtype of the products."""
        recipe = self.recipe
        narrow = recipe.weights == recipe.products  # as frozen weights under adapters are
        return self.zero == 3 and recipe.autocast and not narrow and self.shards > 1

    @property
    def gathered_bytes(self) -> int:
        """Bytes of a weight as a layer works with it, gathered where it is divided."""
        recipe = self.recipe
        return recipe.activation_bytes if self.gathers_products else recipe.weight_bytes

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline * self.context

    @property
    def shards(self) -> int:
        """Ranks that ZeRO divides by: of those that hold the same weights one `replicate` group."""
        return self.data * self.context // self.replicate

    @property
    def sequences(self) -> int:
        """Sequences in one optimizer step, over all ranks: the global batch."""
        return self.micro_batch * self.accumulation * self.data

    @property
    def tokens(self) -> int:
        """Tokens in one optimizer step, over all ranks."""
        return self.sequences * self.sequence


_LOSSES = {"eager": "eager", "compiled": "compiled", "liger": "chunked"}
_CHOSEN = tuple(CHOICES)
_COUNTED = tuple(
    field.name for field in fields(Run) if field.type == "int" and field.name not in CHOICES
)


def _lora(value) -> Lora:
    try:
        return Lora(value)
    except ValueError:
        raise ValueError(
            f"lora: {value!r} given; allowed: None (all weights are trained), a rank >= 1, "
            "or a sizing.Lora"
        ) from None


def _require_layers(targets: tuple[str, ...], model: Model) -> None:
    """Each target must be a linear layer of the model."""
    if getattr(model, "traced", False):
        return
    names = linear_layers(model)
    for target in targets:
        if not any(n == target or n.endswith(f".{target}") for n in names):
            ends = sorted({n.rpartition(".")[2] for n in names})
            raise ValueError(
                f"targets: {target!r} given; allowed: 'all-linear', or linear layers of "
                f"{model.name}: {', '.join(map(repr, ends))}"
            )


@lru_cache(maxsize=256)
def linear_layers(model: Model) -> dict[str, tuple[int, ...]]:
    """{name: shape} of the linear layers inside the blocks, which adapters and quantisation know.

    Stacked experts and most routers of mixtures are no linear layers in transformers, but
    parameters of their own; and Gemma 3n multiplies with the weight of one layer past its module.
    """
    return {
        w.name.split("*.", 1)[1].removesuffix(".weight"): w.shape
        for block in model.blocks
        for w in block.weights
        if w.kind == "matrix" and len(w.shape) == 2 and w.name.endswith(".weight")
        if w.part != "router" or w.name.endswith(_LINEAR_ROUTERS)
        if not w.name.endswith("altup.correction_coefs.weight")
    }


# Qwen 2's gate of its shared expert is a linear layer like any other. Llama 4's router is one that
# returns two tensors: peft wraps it under "all-linear", and the layer then fails.
_LINEAR_ROUTERS = ("shared_expert_gate.weight",)


def adapter_parameters(run: Run) -> int:
    """Elements that are trained beside the frozen weights: (rank, in) and (out, rank) for each
    adapted layer, and the tables that are trained whole."""
    lora, total = run.lora, 0
    for block in run.model.blocks:
        total += block.count * sum(
            lora.rank * sum(shape) for _, shape in adapted_layers(run.model, run.lora, block)
        )
    lookup = next(w for w in run.model.outer if w.kind == "lookup")
    heads = [w for w in run.model.outer if w.name == "lm_head.weight"]
    tables = {"embed_tokens": [lookup], "lm_head": heads or [lookup]}
    return total + sum(w.elements for name in lora.embeddings for w in tables[name])


def adapted_layers(model: Model, lora: Lora, block: Block) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of the layers of a block that have an adapter."""
    known = linear_layers(model)
    names = [(w.name.split("*.", 1)[1].removesuffix(".weight"), w.shape) for w in block.weights]
    return [(n, shape) for n, shape in names if n in known and lora.adapts(n)]


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
