"""Architecture of a decoder-only language model from its Hugging Face config, weight by weight.

`Model` lists every weight tensor that transformers builds for the config, under the name that it
has there. Everything else follows from this list: parameter counts are sums over it, matmul FLOPs
a product with the tokens, checkpoint sizes a product with the bytes of a dtype.

Checked against transformers 5.23 on the meta device (tests/test_model.py).
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..units import DATA
from .families import FAMILIES
from .fields import Fields
from .weights import Block, Weight

PRESETS = DATA / "models"


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
        source: a preset's name (see `presets()`), the path of a config.json, a config dictionary,
            or a transformers config object. Of a multimodal config the text model is taken.
        name: what to call it; by default the preset's or file's name, or the family.

    Raises:
        ValueError: unknown preset or family, a missing or impossible field; the message names the
            field, the value and what is allowed.

    Attributes:
        name, family: its name, and transformers' `model_type`.
        config: the config as a dictionary with the family's defaults filled in.
        vocab, hidden, layers, heads, kv_heads: sizes, as integers.
        head_dim: width of a query/key head; a latent-attention model's value heads may differ.
        ffn: width of the (dense) MLP.
        tied: whether the head shares the embedding's weights.
        max_positions: rows of a learned position table, None where positions are rotary.
        blocks: the kinds of layer, each with the number of layers of that kind.
        weights: every weight tensor outside the blocks and inside, one entry a kind.
    """

    def __init__(self, source, name: str | None = None):
        config, default_name = _read(source)
        family = config.get("model_type")
        if not isinstance(family, str) or family not in FAMILIES:
            raise ValueError(
                f"model_type: unknown architecture {family!r}; "
                f"allowed: {', '.join(sorted(FAMILIES))}"
            )
        fields = Fields(family, config)
        parts = FAMILIES[family](fields)
        self.name = name or default_name or family
        self.family = family
        self.config = fields.config
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
        self._key = json.dumps(self.config, sort_keys=True, default=str)
        self._hash = hash(self._key)

    def __eq__(self, other):
        return isinstance(other, Model) and self._key == other._key

    def __hash__(self):
        return self._hash

    def __repr__(self):
        return f"Model({self.name!r}, {self.parameters.total:,} parameters)"

    @cached_property
    def weights(self) -> tuple[tuple[Weight, int], ...]:
        """(weight, how many layers have one) for every weight tensor."""
        outer = tuple((weight, 1) for weight in self.outer)
        return outer + tuple((w, block.count) for block in self.blocks for w in block.weights)

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
        unknown = sorted(set(changes) - set(self.config))
        if unknown:
            raise ValueError(
                f"{unknown[0]}: not a field of {self.family!r}; "
                f"allowed: {', '.join(sorted(self.config))}"
            )
        return Model({**self.config, **changes}, name=f"{self.name}*")


def presets() -> tuple[str, ...]:
    """Names of the configs that come with the course, from data/models/."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.json")))


def _read(source) -> tuple[dict, str | None]:
    """The text model's config as a dictionary, and a name for it."""
    name = None
    if isinstance(source, Model):
        return dict(source.config), source.name
    if isinstance(source, str | Path):
        source, name = _read_file(source)
    elif hasattr(source, "to_dict"):
        source = source.to_dict()
    if not isinstance(source, Mapping):
        raise ValueError(
            f"source: {type(source).__name__} given; allowed: a preset's name, the path of a "
            "config.json, a config dictionary, or a transformers config"
        )
    config = dict(source)
    if isinstance(config.get("text_config"), Mapping):
        config = dict(config["text_config"])
    return {key: value for key, value in config.items() if not key.startswith("_")}, name


def _read_file(source: str | Path) -> tuple[dict, str]:
    preset = PRESETS / f"{source}.json"
    path = preset if preset.is_file() else Path(source)
    if not path.is_file():
        near = difflib.get_close_matches(str(source), presets(), n=4, cutoff=0.4) or presets()
        raise ValueError(
            f"source: no preset and no file is called {str(source)!r}; "
            f"presets near it: {', '.join(near)}"
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"source: {path.name} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(
            f"source: {path.name} holds a {type(config).__name__}; an object is needed"
        )
    return config, path.parent.name if path.name == "config.json" else path.stem


__all__ = ["Block", "Model", "Parameters", "Weight", "presets"]
