"""A training run as an immutable value: model, shape of a step, precision, optimizer, GPUs."""

from __future__ import annotations

from dataclasses import dataclass, fields

from .architecture.model import Model
from .choices import CHOICES, FORMS, NARROW, RECIPES, WORDS, Recipe
from .lora import Lora, adapted_layers, lora_of, require_layers
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
        engine: None (PyTorch's DDP and FSDP, kernel by kernel), "transformers" (Trainer,
            accelerate, DDP), "fsdp" (FSDP1 as Composer and fms run it), "torchtitan" (FSDP2,
            compiled), "deepspeed", "megatron" (Megatron-Core, NeMo), "megatron-deepspeed" (BLOOM,
            MT-NLG), "nanotron", "xla" (MaxText) or "llm.c"; see data/engines.csv.
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
        dispatch: how tokens reach their experts under `expert`, which matters to `step_time` alone:
            "all-to-all" (NCCL's: every copy of a token crosses the network by itself) or "deepep"
            (and HybridEP: one to a rank, and one to a node, which hands it on; DeepSeek-V3,
            arXiv:2412.19437, section 3.2.2); None: the engine's.
        overlap_dispatch: whether they travel beside another micro-batch's computation
            (Megatron-Core's overlap_moe_expert_parallel_comm, DeepSeek-V3's DualPipe).

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
    dispatch: str | None = None
    overlap_dispatch: bool = False
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
                words, more = WORDS.get(name), FORMS.get(name, "")
                settle(name, found or one_of(name, value, CHOICES[name], words, more))
        for name in _COUNTED:
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                settle(name, whole_number(name, value))
        if self.lora is not None and not isinstance(self.lora, Lora):
            settle("lora", lora_of(self.lora))
        if self.lora is not None and self.lora.targets != "all-linear":
            require_layers(self.lora.targets, self.model)
        if self.quantization is not None and self.lora is None:
            raise ValueError(
                f"quantization: {self.quantization!r} given; allowed: None without lora (integers "
                "get no gradient: a quantised model is trained through adapters)"
            )
        for name in ("sequence_parallel", "overlap_dispatch"):
            if type(getattr(self, name)) is not bool:
                raise ValueError(f"{name}: {getattr(self, name)!r} given; allowed: True, False")
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
            or self.quantization is not None
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
        return NARROW[self.precision] if self.lora.base == "bf16" else recipe

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
