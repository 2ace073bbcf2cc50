"""Architecture of a decoder-only language model from its Hugging Face config, weight by weight.

`Model` lists every weight tensor that transformers builds for the config, under the name that it
has there. Everything else follows from this list: parameter counts are sums over it, matmul FLOPs
a product with the tokens, checkpoint sizes a product with the bytes of a dtype.

Checked against transformers 5.23 on the meta device (tests/test_model.py).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cached_property

from .families import FAMILIES
from .family_rows import TRAITS
from .fields import Fields, aliases
from .heads import Head
from .reading import Text, presets, read
from .traits import Traits
from .weights import Architecture, Block, Weight, linear


@dataclass(frozen=True)
class Parameters:
    """Exact parameter counts; a tied tensor counts once. The seven parts sum to `total`.

    `active` is what one token passes through: `total` less the routed experts it is not sent to
    (embeddings included, as in Mixtral's 12.9 B of 46.7 B, arXiv:2401.04088).
    """

    embedding: int
    attention: int
    mlp: int
    norm: int
    head: int
    router: int
    active: int

    @property
    def total(self) -> int:
        return self.embedding + self.attention + self.mlp + self.norm + self.head + self.router

    @property
    def non_embedding(self) -> int:
        """Total less embeddings and an untied head: N in Kaplan et al. (arXiv:2001.08361)."""
        return self.total - self.embedding - self.head


class Model:
    """A decoder-only transformer, as its Hugging Face config describes it.

    Args:
        source: a preset's name (see `presets()`) or the Hub id of one, the path of a config.json
            or of its folder, the text of one, a config dictionary, or a transformers config object.
            Of a multimodal config the text model is taken; `notes` says so.
        name: what to call it; by default the preset's or file's name, or the family.

    Raises:
        ValueError: unknown preset or family, a missing or impossible field; the message names the
            field, the value and what is allowed.

    Attributes:
        name, family: its name, and transformers' `model_type`.
        config: the config as a dictionary with the family's defaults filled in.
        notes: what was translated, filled in or left out on the way, one sentence each.
        assumed: {field: value} of transformers' defaults that were needed to size it.
        head: "language model"; "scores" or "none" where `architectures` names such a class.
        traits: what sets the family's layers apart (see `architecture.traits`).
        vocab, hidden, layers, heads, kv_heads: sizes, as integers.
        head_dim: width of a query/key head; a latent-attention model's value heads may differ.
        ffn: width of the (dense) MLP.
        tied: whether the head shares the embedding's weights.
        max_positions: rows of a learned position table, or tokens of MPT's bias by distance; None
            where positions are rotary.
        blocks: the kinds of layer, each with the number of layers of that kind.
        weights: every weight tensor outside the blocks and inside, one entry a kind.
    """

    def __init__(self, source, name: str | None = None):
        if isinstance(source, Model):
            text = replace(source._text, name=source.name)
        else:
            text = source if isinstance(source, Text) else read(source)
        fields = Fields(text.config["model_type"], text.config)
        parts = FAMILIES[fields.family](fields)
        if text.head.kind != "language model":
            parts = _without_language_head(parts, text.head)
        self._text = text
        self.name = name or text.name or fields.family
        self.family = fields.family
        self.traits = TRAITS.get(fields.family, Traits())
        self.config = fields.config
        self.notes = text.notes
        self.assumed = dict(fields.assumed)
        self.head = text.head.kind
        self.vocab = parts.vocab
        self.hidden = parts.hidden
        self.heads = parts.heads
        self.kv_heads = parts.kv_heads
        self.head_dim = parts.head_dim
        self.ffn = parts.ffn
        self.tied = parts.tied
        self.max_positions = parts.max_positions
        self.blocks: tuple[Block, ...] = parts.blocks
        self.layers = sum(block.count for block in self.blocks)
        self.outer: tuple[Weight, ...] = parts.outer
        self._key = json.dumps([self.config, repr(text.head)], sort_keys=True, default=str)
        self._hash = hash(self._key)

    def __eq__(self, other):
        return isinstance(other, Model) and self._key == other._key

    def __hash__(self):
        return self._hash

    def __repr__(self):
        part = f", text model of {self._text.wrapper}" if self._text.wrapper else ""
        head = "" if self.head == "language model" else f", head: {self.head}"
        return f"Model({self.name!r}, {self.parameters.total:,} parameters{part}{head})"

    @cached_property
    def weights(self) -> tuple[tuple[Weight, int], ...]:
        """(weight, how many layers have one) for every weight tensor."""
        outer = tuple((weight, 1) for weight in self.outer)
        return outer + tuple((w, block.count) for block in self.blocks for w in block.weights)

    @cached_property
    def by_layer(self) -> tuple[Block, ...]:
        """The kind of each layer, from the first to the last."""
        kinds = {n: b for b in self.blocks for n in b.places or range(self.layers)}
        return tuple(kinds[n] for n in range(self.layers))

    @cached_property
    def parameters(self) -> Parameters:
        parts = dict.fromkeys(("embedding", "attention", "mlp", "norm", "head", "router"), 0)
        idle = 0
        for weight, copies in self.weights:
            parts[weight.part] += weight.elements * copies
            idle += (weight.elements - weight.active) * copies
        return Parameters(**parts, active=sum(parts.values()) - idle)

    def replace(self, **changes) -> Model:
        """The same model with config fields changed: ``m.replace(num_hidden_layers=16)``.

        Raises:
            ValueError: a field that the family does not have, or an impossible value.
        """
        names = aliases(self.family)
        changes = {
            name if name in self.config else names.get(name, name): value
            for name, value in changes.items()
        }
        unknown = sorted(set(changes) - set(self.config))
        if unknown:
            raise ValueError(
                f"{unknown[0]}: not a field of {self.family!r}; "
                f"allowed: {', '.join(sorted(self.config))}"
            )
        return Model(replace(self._text, config={**self.config, **changes}), f"{self.name}*")


def _without_language_head(parts: Architecture, scores: Head) -> Architecture:
    """The model with a head of scores in the place of the vocabulary's, or with none."""
    outer = tuple(weight for weight in parts.outer if not weight.name.startswith("lm_head."))
    if scores.labels:
        width = next(weight.shape[1] for weight in outer if weight.kind == "lookup")
        outer += linear("score", scores.labels, width, "head", scores.biased)
    return replace(parts, outer=outer, tied=False)


__all__ = ["Block", "Model", "Parameters", "Weight", "presets"]
