"""What the search varies: cards, numbers of them, and the fields of `Run` with their values.

Fields and values come from `Run` and `CHOICES`, so that a choice added there is searched too.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache

from ..architecture.model import Model, presets
from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..partition import routed_experts
from ..run import CHOICES, Run
from ..units import positive
from .scaling import TRAIN, optimal

# Fields whose values change what is trained and not only how fast: as the template has them.
KEPT = (
    *("model", "sequence", "precision", "gradients", "optimizer", "attention", "lora"),
    *("offload", "optimizer_in_backward", "objective", "reduce"),
    *("quantization", "kernels", "loss", "outputs", "engine", "scaling", "document"),
    *("dispatch", "overlap_dispatch"),
)
# Fields with a number that the search sets from the count of GPUs and the batch.
COUNTED = ("micro_batch", "accumulation", "data", "tensor", "pipeline", "context")
MICRO_BATCHES = (1, 2, 4, 8, 16, 32)
CONTEXTS = (1, 2, 4, 8)
TOKENS_PER_PARAMETER = 20  # Hoffmann et al. (arXiv:2203.15556), Table 3, rounded


def cards_of(gpus: Mapping[str | GPU, int]) -> dict[GPU, int]:
    if not isinstance(gpus, Mapping) or not gpus:
        allowed = "{card: how many}, as {'h100-sxm': 64}"
        raise ValueError(f"gpus: {gpus!r} given; allowed: {allowed}")
    for card, number in gpus.items():
        if not _whole(number):
            name = card.name if isinstance(card, GPU) else card
            raise ValueError(f"gpus[{name!r}]: {number!r} given; allowed: a whole number >= 1")
    return {c if isinstance(c, GPU) else find_gpu(c): number for c, number in gpus.items()}


def template_of(model, tokens: float | None, fixed: Mapping) -> tuple[Run, float]:
    """The run whose fields the candidates keep, and the tokens to train on."""
    unknown = sorted(set(fixed) - {field.name for field in fields(Run)})
    if unknown:
        allowed = ", ".join(field.name for field in fields(Run))
        raise ValueError(f"{unknown[0]}: not a field of Run; allowed: {allowed}")
    if isinstance(model, (int, float)) and not isinstance(model, bool):
        if not 0 < model < math.inf:
            raise ValueError(f"model: {model!r} FLOPs given; allowed: a finite number above 0")
        size, sized = optimal(model).parameters, _sizes()
        nearest = min(sized, key=lambda name: abs(math.log(sized[name] / size)))
        tokens = model / (TRAIN * sized[nearest]) if tokens is None else tokens
        model = nearest
    if isinstance(model, Run):
        run = replace(model, **fixed)
    else:
        model = model if isinstance(model, Model) else Model(model)
        usual = {
            "precision": "bf16-master",
            "optimizer": "adamw-fused",
            "gradients": "fp32",
            "sequence": min(2048, model.max_positions or 2048),
        }
        run = Run(model, **{**usual, **fixed})
    if tokens is None:
        tokens = TOKENS_PER_PARAMETER * run.model.parameters.total
    return run, tokens


@cache
def _sizes() -> dict[str, int]:
    """Parameters of every dense preset: the laws were fitted to dense models."""
    counts = {name: Model(name).parameters for name in presets()}
    return {name: c.total for name, c in counts.items() if c.active == c.total}


def axes_of(template: Run, fixed: Mapping, vary: Mapping) -> dict[str, tuple]:
    """{field: values} of all fields of `Run` that are neither kept nor counted out."""
    axes: dict[str, tuple] = {}
    for field in fields(Run):
        name = field.name
        if name in vary:
            axes[name] = tuple(vary[name])
        elif name in fixed or name in KEPT:
            axes[name] = (getattr(template, name),)
        elif name in CHOICES:
            axes[name] = CHOICES[name]
        elif name == "micro_batch":
            axes[name] = MICRO_BATCHES
        elif name == "context":
            axes[name] = CONTEXTS if template.sequence >= 32_768 else (1,)
        elif name == "expert":
            axes[name] = expert_degrees(template.model)
        elif name not in COUNTED:
            axes[name] = (getattr(template, name),)
    # With fused attention "selective" is per operation, which the search leaves to `vary`.
    if axes.get("attention") == ("flash",) and "recompute" not in vary:
        axes["recompute"] = tuple(v for v in axes["recompute"] if v != "selective")
    axes["fixed"] = tuple(name for name in COUNTED if name in fixed)
    for name in COUNTED:
        if name in fixed:
            axes[name] = (fixed[name],)
    return axes


def expert_degrees(model: Model) -> tuple[int, ...]:
    """Numbers of ranks that routed experts can be dealt out to: powers of two that divide them."""
    counts = routed_experts(model)
    most = min(counts, default=1)
    powers = [2**power for power in range(most.bit_length())]
    return tuple(degree for degree in powers if all(count % degree == 0 for count in counts))


def check_search(gpus: Mapping[GPU, int], prices, counts, keep, vary) -> None:
    """What says where the search looks.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    names = [card.name for card in gpus]
    for card, price in (prices or {}).items():
        if card not in names:
            raise ValueError(f"prices: {card!r} given; allowed: {', '.join(map(repr, names))}")
        positive(f"prices[{card!r}]", price)
    if counts is not None:
        most = max(gpus.values())
        numbers = list(counts) if isinstance(counts, Iterable) else [counts]
        for number in numbers:
            if not isinstance(counts, Iterable) or not _whole(number) or number > most:
                allowed = f"whole numbers from 1 to {most}, as ({most},)"
                raise ValueError(f"counts: {counts!r} given; allowed: {allowed}")
    if not _whole(keep):
        raise ValueError(f"keep: {keep!r} given; allowed: a whole number >= 1")
    known = [field.name for field in fields(Run)]
    for name, values in (vary or {}).items():
        if name not in known:
            raise ValueError(f"vary: {name!r} given; allowed: {', '.join(known)}")
        if isinstance(values, str) or not isinstance(values, Iterable):
            raise ValueError(
                f"vary[{name!r}]: {values!r} given; allowed: several values, as ({values!r},)"
            )


def _whole(value) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def counts_of(most: int, node: int, counts: Iterable[int] | None) -> list[int]:
    """Numbers of GPUs to try: all, a half, a quarter and so on, whole nodes above one."""
    if counts is not None:
        return sorted({number for number in counts if number <= most}, reverse=True)
    found = []
    number = most
    while number >= 1:
        if number <= node or number % node == 0:
            found.append(number)
        number //= 2
    return found


def _divisors(number: int, most: int) -> list[int]:
    return [d for d in range(1, min(number, most) + 1) if number % d == 0]


def degrees_of(model: Model, number: int, node: int, axes: Mapping) -> Iterator[tuple[int, ...]]:
    """(tensor, pipeline, context, data) with this product. Tensor parallelism stays in a node."""
    tensors = axes.get("tensor") or _divisors(number, node)
    for tensor in tensors:
        if number % tensor or model.heads % tensor or model.kv_heads % tensor or model.ffn % tensor:
            continue
        rest = number // tensor
        for pipeline in axes.get("pipeline") or _divisors(rest, min(model.layers, 64)):
            for context in axes["context"]:
                if rest % (pipeline * context):
                    continue
                data = rest // (pipeline * context)
                if "data" not in axes or data in axes["data"]:
                    yield tensor, pipeline, context, data
