"""Config fields of a family: other names they answer to, defaults, and checks as they are taken."""

from __future__ import annotations

import json
from functools import cache

from ..units import DATA

# transformers' own defaults and names, written by `python -m sizing.trace.defaults`.
DEFAULTS_FILE = DATA / "config_defaults.json"

# The sizes that make a model what it is have no default in a config that stands alone: it must
# state them. Inside a multimodal config, published files leave even these to the class.
ESSENTIAL = {
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "n_embd",
    "n_layer",
    "n_head",
    "ffn_dim",
    "d_model",
    "n_layers",
    "n_heads",
    "num_layers",
    "num_heads",
}

# Names of one size in other families and in other programs.
_SAME_SIZE = (
    ("hidden_size", "n_embd", "d_model", "dim", "hidden_dim", "n_embed", "model_dim", "embed_dim"),
    ("num_hidden_layers", "n_layer", "n_layers", "num_layers", "layers"),
    ("num_attention_heads", "n_head", "n_heads", "num_heads"),
    ("intermediate_size", "ffn_dim", "n_inner", "ffn_hidden_size", "ffn_embed_dim"),
    ("vocab_size", "padded_vocab_size", "n_vocab"),
)

# A name that transformers takes beside those of its `attribute_map`, and names of older files that
# it does not take: used where no other is stated.
_MORE_ALIASES = {"bloom": {"n_embed": "hidden_size"}, "falcon": {"n_embed": "hidden_size"}}
_OLD_ALIASES = {"falcon": {"n_layer": "num_hidden_layers", "n_head": "num_attention_heads"}}

# Switches of old configs that change how transformers runs, not what the model is: `Run` says it.
RUNTIME = {
    "gradient_checkpointing",
    "return_dict",
    "use_return_dict",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "quantization_config",
    "auto_map",
    "attn_implementation",
    "transformers_version",
    "torch_dtype",
    "dtype",
}


@cache
def known() -> dict:
    """The file of transformers' defaults: its families, wrappers and causal language models."""
    return json.loads(DEFAULTS_FILE.read_text(encoding="utf-8"))


@cache
def aliases(family: str) -> dict[str, str]:
    """{other name: the field's own name} of a family."""
    own = known()["families"].get(family, {}).get("aliases", {})
    return own | _MORE_ALIASES.get(family, {}) | _OLD_ALIASES.get(family, {})


@cache
def defaults(family: str) -> dict:
    """transformers' defaults of a family's fields, the essential sizes left out."""
    names = aliases(family)
    return {
        names.get(name, name): value
        for name, value in _class_fields(family).items()
        if name not in ESSENTIAL
    }


def _class_fields(family: str) -> dict:
    return known()["families"].get(family, {}).get("fields", {})


def _renamed(family: str, config: dict) -> dict:
    """The config with each field under its own name. Of two names in one config the last to be set
    wins: transformers sets the fields of the class first, then whatever else the file states."""
    names, own, old = aliases(family), _class_fields(family), _OLD_ALIASES.get(family, {})
    order = sorted(config, key=lambda name: (name not in old, name not in own))
    return {names.get(name, name): config[name] for name in order}


class Fields:
    """Config fields, checked as they are taken.

    Attributes:
        family: the model type.
        config: the config with the family's defaults filled in, each field under its own name.
        assumed: {field: default} of those that were taken though the config does not state them.
    """

    def __init__(self, family: str, config: dict):
        self.family = family
        self.given = _renamed(family, config)
        self.config = {**defaults(family), **self.given, "model_type": family}
        self.assumed: dict = {}

    def get(self, name: str, default=None):
        """The field as it stands, noted where it is the family's default."""
        value = self.config.get(name)
        if name not in self.given and value is not None:
            self.assumed[name] = value
        return default if value is None else value

    def size(self, name: str, default: int | None = None, least: int = 1, most: int = 10**9) -> int:
        """A whole number; a missing or null field takes the default, or is an error without one."""
        value = self.get(name, default)
        if value is None:
            raise ValueError(
                f"{name}: missing from the {self.family!r} config; needed: a whole number "
                f">= {least}{self._hint(name)}"
            )
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise ValueError(
                f"{name}: {shown(value)} given; allowed: a whole number >= {least} and <= {most:,}"
            )
        return value

    def _hint(self, name: str) -> str:
        """Under which name the config states a size, or what transformers would fill in."""
        same = next((names for names in _SAME_SIZE if name in names), ())
        for other in same:
            if isinstance(self.given.get(other), int):
                return f"; the config says {other} {self.given[other]}: is it that?"
        filled = _class_fields(self.family).get(name)
        return "" if filled is None else f" (transformers would fill in {filled})"

    def layers(self, name: str = "num_hidden_layers") -> int:
        """The number of layers; as each may be of its own kind, there is a limit."""
        return self.size(name, most=100_000)

    def items(self, name: str) -> list:
        """A list; a missing or null one is empty."""
        value = self.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise ValueError(f"{name}: {shown(value)} given; allowed: a list")
        return list(value or [])

    def flag(self, name: str) -> bool:
        value = self.get(name)
        if value is None:
            value = defaults(self.family).get(name)
        if not isinstance(value, bool):
            raise ValueError(f"{name}: {shown(value)} given; allowed: true or false")
        return value

    def rate(self, name: str) -> float:
        value = self.get(name, 0.0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
            raise ValueError(f"{name}: {shown(value)} given; allowed: a number from 0 to 1")
        return value

    def divides(self, part: str, whole: str, part_value: int, whole_value: int) -> int:
        """whole / part, an error if it leaves a remainder."""
        if whole_value % part_value:
            raise ValueError(
                f"{part}: {part_value} {self.origin(part)}; "
                f"allowed: a divisor of {whole} = {whole_value}"
            )
        return whole_value // part_value

    def origin(self, name: str) -> str:
        """ "given", or who filled the field in."""
        if self.given.get(name) is not None:
            return "given"
        return f"assumed (transformers' default of {self.family!r}; the config leaves it out)"


def shown(value) -> str:
    """A value in an error's words, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
