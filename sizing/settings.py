"""How fields of a `Run` are read: words, numbers, the small values that they hold, and which of
them an engine runs together."""

from __future__ import annotations

import difflib
import operator
from dataclasses import dataclass

from .architecture.model import Model

OFFLOADS = ("optimizer", "parameters", "activations")
OBJECTIVES = ("lm", "dpo", "distillation")
GALORE_RANK = 128  # of transformers' Trainer and of GaLore's README
REFERENCES = ("model", "adapters off", "precomputed")


def one_of(field: str, value, allowed: tuple, words: dict | None = None, more: str = ""):
    """The allowed value that is meant: case and "_" for "-" do not matter, `words` translate; what
    else is allowed, and read elsewhere, `more` says.

    Raises:
        ValueError: names the field, the value, what is allowed, and the nearest of it.
    """
    plain = value.strip().lower().replace("_", "-") if isinstance(value, str) else value
    if isinstance(plain, str | bool) and plain in (words or {}):
        return words[plain]
    if not isinstance(plain, bool) and plain in allowed:
        return plain
    words = [choice for choice in allowed if isinstance(choice, str)]
    near = difflib.get_close_matches(plain, words, 1) if isinstance(plain, str) else []
    raise ValueError(
        f"{field}: {value!r} given; allowed: {', '.join(map(repr, allowed))}{more}"
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


def family_of(optimizer: str) -> tuple[str, int]:
    """ "galore-64" is ("galore", 64); the rank of all others is 0."""
    family, _, number = optimizer.rpartition("-")
    if family == "galore":
        return family, int(number)
    return optimizer, GALORE_RANK if optimizer == "galore" else 0


def document_of(run) -> int:
    """Tokens of a packed document.

    Raises:
        ValueError: no whole number from 1 to the sequence; eager attention, which masks between
            documents but computes there.
    """
    tokens = whole_number("document", run.document)
    if tokens > run.sequence:
        raise ValueError(
            f"document: {tokens} given; allowed: 1 to {run.sequence}, the sequence that holds it"
        )
    if run.attention == "eager":
        raise ValueError(
            f"document: {tokens} given; allowed: None with attention='eager', which computes every "
            "pair of a sequence and masks those between documents"
        )
    return tokens


@dataclass(frozen=True)
class Dpo:
    """Direct preference optimisation (Rafailov et al., arXiv:2305.18290), as TRL runs it.

    A micro-batch of n pairs goes through the policy as 2n sequences, chosen and rejected in one
    forward pass, and through the reference for its log-probabilities. `Run.loss` says how: "eager"
    from all logits, as TRL did up to 1.13, or "chunked" with a head that keeps none, as from 1.15.

    Args:
        reference: "model", a second, frozen copy of the weights; "adapters off", the policy without
            its adapters, which needs `lora`; "precomputed", log-probabilities from before the
            training; None for "adapters off" with `lora` and "model" without.

    Raises:
        ValueError: another reference.
    """

    reference: str | None = None

    def __post_init__(self):
        if self.reference is not None:
            object.__setattr__(self, "reference", one_of("reference", self.reference, REFERENCES))


@dataclass(frozen=True)
class Distillation:
    """The policy learns the output distribution of a frozen teacher (Hinton et al.,
    arXiv:1503.02531): Kullback-Leibler divergence over the whole vocabulary.

    Args:
        teacher: a `Model` or anything that `Model` takes, with the student's vocabulary; None for
            one like the student.
    """

    teacher: Model | None = None

    def __post_init__(self):
        if self.teacher is not None and not isinstance(self.teacher, Model):
            object.__setattr__(self, "teacher", Model(self.teacher))


def layer_modules(model: Model) -> tuple[str, ...]:
    """Names of the modules of a model's layers that can be recomputed apart, in order."""
    found: dict[str, None] = {}
    for block in model.blocks:
        for weight in block.weights:
            inside = weight.name.split("*.", 1)[1].split(".")
            found[inside[0]] = None
    return tuple(found)


_DASHES = str.maketrans("_ ", "--")


def numbered(field: str, value, model: Model) -> str | tuple[str, ...] | None:
    """The choices with a number or with names in them: "every-2", "galore-1024", "flash-3",
    modules."""
    if field == "recompute" and isinstance(value, tuple | list | set | frozenset):
        names = tuple(value) if isinstance(value, tuple | list) else tuple(sorted(value))
        known = layer_modules(model)
        wrong = [name for name in names if name not in known]
        if wrong or not names or len(set(names)) != len(names):
            raise ValueError(
                f"recompute: {value!r} given; allowed: different ones of {model.name}'s modules "
                f"{', '.join(map(repr, known))}"
            )
        return names
    prefix = {"recompute": "every", "optimizer": "galore", "attention": "flash"}.get(field)
    if prefix is None or not isinstance(value, str):
        return None
    word, _, number = value.strip().lower().translate(_DASHES).rpartition("-")
    if word != prefix or not number.isdecimal() or int(number) < 1:
        return None
    if field == "recompute" and int(number) == 1:
        return "full"
    if field == "attention" and int(number) > 3:
        return None
    return f"{prefix}-{int(number)}"


def offload_of(value) -> tuple[str, ...]:
    given = (value,) if isinstance(value, str) else () if value is None else value
    try:
        chosen = {one_of("offload", one, OFFLOADS) for one in given}
    except (TypeError, ValueError):
        raise ValueError(
            f"offload: {value!r} given; allowed: some of {', '.join(map(repr, OFFLOADS))}"
        ) from None
    return tuple(name for name in OFFLOADS if name in chosen)


def objective_of(run) -> str | Dpo | Distillation:
    value = run.objective
    if not isinstance(value, Dpo | Distillation):
        word = one_of("objective", value, OBJECTIVES)
        if word == "lm":
            return word
        value = Dpo() if word == "dpo" else Distillation()
    if isinstance(value, Dpo):
        usual = "adapters off" if run.lora is not None else "model"
        reference = value.reference or usual
        if reference == "adapters off" and run.lora is None:
            raise ValueError(
                "reference: 'adapters off' given; allowed without lora: 'model', 'precomputed', "
                "for there are no adapters to switch off"
            )
        return Dpo(reference)
    teacher = value.teacher or run.model
    if teacher.vocab != run.model.vocab:
        raise ValueError(
            f"teacher: {teacher.name!r} with a vocabulary of {teacher.vocab} given; allowed: one "
            f"with the student's of {run.model.vocab}, over which the two are compared"
        )
    return Distillation(teacher)


def sequences_of(objective) -> int:
    """Sequences that go through the policy for each one of the micro-batch: DPO's pairs are two."""
    return 2 if isinstance(objective, Dpo) else 1


def frozen_model(run) -> Model | None:
    """The model whose weights lie beside the trained one, or None."""
    if isinstance(run.objective, Distillation):
        return run.objective.teacher
    if isinstance(run.objective, Dpo) and run.objective.reference == "model":
        return run.model
    return None


def asked_model(run) -> Model | None:
    """The model that goes through a forward pass without gradients in every micro-batch, or None:
    the frozen one, or the trained one without its adapters."""
    if isinstance(run.objective, Dpo) and run.objective.reference == "adapters off":
        return run.model
    return frozen_model(run)


def check_together(run) -> None:
    """Whether an engine runs these together.

    Raises:
        ValueError: none does; says which would.
    """

    def refuse(field, why):
        raise ValueError(f"{field}: {getattr(run, field)!r} given; {why}")

    if run.optimizer_in_backward:
        if run.accumulation > 1:
            refuse("accumulation", "allowed: 1 with optimizer_in_backward, which keeps no gradient")
        if run.gradients == "fp32" or run.recipe.master:
            refuse(
                "optimizer_in_backward",
                "allowed: False with fp32 gradients or master weights; torchtune runs it with "
                "precision='bf16' or 'fp32' and gradients='same'",
            )
        if run.zero in (1, 2) or (run.zero == 0 and run.data * run.context > 1):
            refuse(
                "optimizer_in_backward",
                "allowed: False with DDP, ZeRO-1 and ZeRO-2, whose gradients are reduced first; "
                "FSDP2 (zero=3) runs it",
            )
        if run.optimizer == "muon" or "optimizer" in run.offload:
            refuse(
                "optimizer_in_backward",
                "allowed: False with muon or an offloaded optimizer; torchtune runs it with AdamW "
                "and the like on the GPU",
            )
    if run.quantization is not None and run.tensor > 1:
        refuse(
            "quantization",
            "allowed: None with tensor > 1, as bitsandbytes' layers are not divided; DDP and "
            "pipelines (device_map) train over them, and FSDP with bnb_4bit_quant_storage",
        )
    if "parameters" in run.offload and run.zero != 3:
        refuse(
            "offload",
            "allowed: 'parameters' with zero=3 alone, where layers are gathered one by one: "
            "DeepSpeed ZeRO-3 or FSDP2's CPUOffloadPolicy, on one GPU as well",
        )
    if "optimizer" in run.offload and run.optimizer not in _OFFLOADED:
        refuse(
            "offload",
            f"allowed: 'optimizer' with {', '.join(map(repr, _OFFLOADED))}, which run on a CPU",
        )
    if run.optimizer.startswith("galore") and (run.zero or run.tensor > 1):
        refuse(
            "optimizer",
            "allowed with zero >= 1 or tensor > 1: one that needs no whole matrix ('adamw-8bit', "
            "'adamw-4bit', ...); GaLore projects whole ones, on one GPU or under DDP",
        )
    if isinstance(run.objective, Dpo) and run.loss not in (None, "eager", "chunked"):
        refuse(
            "loss",
            "allowed with dpo: None or 'eager' (all logits, TRL up to 1.13), 'chunked' (TRL from "
            "1.15 on)",
        )
    if isinstance(run.objective, Distillation) and run.loss not in (None, "eager"):
        refuse("loss", "allowed with distillation: None or 'eager', which compares all logits")
    if run.objective != "lm" and (run.tensor > 1 or run.pipeline > 1 or run.context > 1):
        refuse("objective", "allowed with tensor, pipeline or context > 1: 'lm'; TRL divides data")


_OFFLOADED = ("sgd", "momentum", "adamw", "adamw-fused", "adafactor", "lion")
