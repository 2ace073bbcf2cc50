"""The words that a `Run` knows: precision recipes, what a field may be, what people type for it."""

from __future__ import annotations

from dataclasses import dataclass, replace

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

# Who runs the step. None is PyTorch kernel by kernel, DDP or FSDP: memory as transformers allocates
# it, time without what one engine's runs alone have shown; what each does is in data/engines.csv.
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
NARROW = {
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
    "dispatch": (None, "all-to-all", "deepep"),
}

# What else a field may be, with a number or with names in it: see `settings.numbered`.
FORMS = {
    "recompute": ", 'every-2' and so on, or a tuple of a layer's modules",
    "optimizer": ", 'galore-64' and so on",
    "attention": ", 'flash-1', 'flash-2', 'flash-3'",
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
    "dispatch": {"alltoall": "all-to-all", "hybridep": "deepep"},
    "loss": {"cce": "fused", "cut-cross-entropy": "fused", "compile": "compiled"},
    "engine": {
        "pytorch": None,
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
