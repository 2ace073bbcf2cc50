"""Low-rank adapters: what they are made of, and which layers of a model take one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from .architecture.model import Model
from .architecture.weights import Block
from .choices import WORDS
from .settings import one_of, whole_number

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
            end of a module's name as in peft's target_modules. "all-linear" means torch's linear
            layers; of a mixture peft (from 0.21 on, with transformers 5) adapts stacked experts
            and routers as well, by weights that it makes whole, which is not sized here.
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


def lora_of(value) -> Lora:
    """Of a rank.

    Raises:
        ValueError: it is none.
    """
    try:
        return Lora(value)
    except ValueError:
        raise ValueError(
            f"lora: {value!r} given; allowed: None (all weights are trained), a rank >= 1, "
            "or a sizing.Lora"
        ) from None


def require_layers(targets: tuple[str, ...], model: Model) -> None:
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
    """{name: (out, in)} of the linear layers inside the blocks, which adapters and quantisation
    know.

    Stacked experts and most routers of mixtures are no linear layers in transformers, but
    parameters of their own; and Gemma 3n multiplies with the weight of one layer past its module.
    """
    turned = -1 if model.traits.input_first else 1
    return {
        w.name.split("*.", 1)[1].removesuffix(".weight"): w.shape[::turned]
        for block in model.blocks
        for w in block.weights
        if w.kind == "matrix" and len(w.shape) == 2 and w.name.endswith(".weight")
        if w.part != "router" or w.name.endswith(_LINEAR_ROUTERS)
        if not w.name.endswith("altup.correction_coefs.weight")
    }


# Qwen 2's gate of its shared expert is a linear layer like any other. Llama 4's router is one that
# returns two tensors: peft wraps it under "all-linear", and the layer then fails.
_LINEAR_ROUTERS = ("shared_expert_gate.weight",)


def adapted_layers(model: Model, lora: Lora, block: Block) -> list[tuple[str, tuple[int, ...]]]:
    """(name, (out, in)) of the layers of a block that have an adapter."""
    known = linear_layers(model)
    names = [w.name.split("*.", 1)[1].removesuffix(".weight") for w in block.weights]
    return [(n, known[n]) for n in names if n in known and lora.adapts(n)]
