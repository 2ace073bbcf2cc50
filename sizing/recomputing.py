"""What of a layer's forward pass is run again for the backward pass."""

from __future__ import annotations

from dataclasses import dataclass, fields
from fractions import Fraction
from functools import lru_cache

from .architecture.model import Model
from .architecture.weights import Block, Weight


@dataclass(frozen=True)
class Again:
    """Shares of the layers' forward pass that are run again for the backward pass.

    Attributes:
        matmul: of the FLOPs of the matrices in the layers.
        scores: of attention's two products.
        attention, mlp, norms: whether what else attention, MLP and norms do is done again, as a
            share of the layers.
    """

    matmul: Fraction | float = 0
    scores: Fraction | float = 0
    attention: float = 0.0
    mlp: float = 0.0
    norms: float = 0.0


@lru_cache(maxsize=1024)
def recomputed(model: Model, recompute, attention: str, textbook: bool = True) -> Again:
    """`recomputed_exactly`, in numbers that are quick."""
    again = recomputed_exactly(model, recompute, attention, textbook)
    return Again(*(float(getattr(again, field.name)) for field in fields(Again)))


def recomputed_exactly(model: Model, recompute, attention: str, textbook: bool = False) -> Again:
    """What a run's `recompute` and `attention` mean for the work of its layers.

    torch.utils.checkpoint ends with the last tensor that the backward pass needs: the last product
    of what it runs again is not made. Per operation ("selective" with flash attention) every second
    product is kept, in the order of the modules.
    """
    check(model, recompute, attention)
    share = Fraction(sum(layers_again(model, b, recompute) for b in model.blocks), model.layers)
    if recompute == "none":
        return Again()
    if recompute == "selective" and attention == "eager":
        return Again(scores=Fraction(1 if textbook else "1/2"))
    fused = recompute == "selective"
    done = whole = pairs = all_pairs = 0
    for block in model.blocks:
        matrices = [w for w in block.weights if w.kind == "matrix"]
        mixed = model.hidden * block.streams**2 if block.streams > 1 else 0
        whole += (sum(w.multiplied for w in matrices) + mixed) * block.count
        skipped = set() if textbook else {block.last_matmul}
        if not isinstance(recompute, str):
            chosen = [w for w in matrices if module_of(w.name) in recompute]
            skipped = set() if textbook else _last_of_modules(chosen)
            matrices = chosen
        if fused:
            plain = [w for w in matrices if not w.chosen]  # experts' products are grouped
            skipped |= {w.name for w in plain[::2]}
        again = layers_again(model, block, recompute)
        made = sum(w.multiplied for w in matrices if w.name not in skipped) + mixed
        done += made * again
        width = block.heads * (block.query_dim + block.value_dim)
        pairs, all_pairs = pairs + width * again, all_pairs + width * block.count
    matmul = Fraction(done, whole)
    if fused:
        return Again(matmul, 0, 1, 1, 1)
    if isinstance(recompute, str):
        return Again(matmul, Fraction(pairs, all_pairs), share, share, share)
    attends = Fraction("self_attn" in recompute)
    norms = [module_of(w.name) for b in model.blocks for w in b.weights if w.part == "norm"]
    outside = [name for name in norms if name not in ("self_attn",)]
    again = sum(name in recompute for name in outside) / len(outside) if outside else 0.0
    mlp = float(any(name != "self_attn" and name not in norms for name in recompute))
    return Again(matmul, attends, attends, mlp, again)


def check(model: Model, recompute, attention: str) -> None:
    """A ValueError for selective recompute of layers of which it is not known what it keeps."""
    by_blocks = any(block.linear for block in model.blocks)
    streams = any(block.streams > 1 for block in model.blocks) and attention != "eager"
    if recompute == "selective" and (by_blocks or streams):
        where = "" if by_blocks else "; with attention 'eager' 'selective' too"
        raise ValueError(
            f"recompute: 'selective' given; allowed with {model.family!r}: 'none', 'full', "
            f"'every-2', ...{where}"
        )


def _last_of_modules(matrices: list[Weight]) -> set[str]:
    """The last product of each module, but not experts', whose output is kept to be weighted."""
    last = {module_of(w.name): w for w in matrices}
    return {w.name for w in last.values() if not w.chosen}


def is_checkpointed(recompute, attention: str) -> bool:
    """Whether layers are run again by transformers' gradient checkpointing, which asks for the
    gradient of the embeddings, trained or not; of eager attention's core alone they are not."""
    return recompute != "none" and not (recompute == "selective" and attention == "eager")


def every_layer(recompute) -> int:
    """n where every n-th layer is run again as a whole: 1 for all of them, 0 for none."""
    if recompute == "full":
        return 1
    return int(recompute.removeprefix("every-")) if str(recompute).startswith("every-") else 0


def layers_again(model: Model, block: Block, recompute) -> int:
    """How many layers of a kind are run again, as a whole or in part."""
    every = every_layer(recompute)
    if not every:
        return 0 if recompute == "none" else block.count
    places = block.places or range(model.layers)
    return sum((place + 1) % every == 0 for place in places)


def module_of(name: str) -> str:
    """Of "model.layers.*.mlp.up_proj.weight" the "mlp"."""
    return name.split("*.", 1)[1].split(".")[0]
