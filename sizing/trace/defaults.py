"""What transformers fills in where a config leaves a field out, written to data/.

`python -m sizing.trace.defaults` writes data/config_defaults.json from the transformers that is
installed, so that `sizing.Model` knows the defaults without importing transformers.
"""

from __future__ import annotations

import dataclasses
import json
import warnings

from transformers import CONFIG_MAPPING, PreTrainedConfig, __version__
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from ..architecture.families import FAMILIES
from ..architecture.fields import DEFAULTS_FILE
from ..architecture.wrappers import SAME_WEIGHTS

# Fields of every config that neither size a model nor change what it computes.
_OTHER = {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache"}
_TEXT_KEYS = ("text_config", "llm_config", "thinker_config")


def defaults() -> dict:
    """{"families": {type: {"fields", "aliases"}}, "wrappers": {type: ...}, "traced": [types]}."""
    types = sorted({*FAMILIES, *SAME_WEIGHTS} & set(CONFIG_MAPPING))
    return {
        "transformers": __version__,
        "families": {name: _family(CONFIG_MAPPING[name]) for name in types},
        "wrappers": _wrappers(),
        "causal": sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES),
    }


def _family(config_class) -> dict:
    general = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    fields = {}
    for field in dataclasses.fields(config_class):
        if field.name in general or field.name in _OTHER or field.default is dataclasses.MISSING:
            continue
        fields[field.name] = field.default
    return {"fields": fields, "aliases": dict(config_class.attribute_map)}


def _wrappers() -> dict:
    """Configs that hold a text model's config one level down: where, of which type by default,
    whether always of that type, and whether the whole model ties the head (None: as the text)."""
    found = {}
    for name in CONFIG_MAPPING:
        nested = getattr(CONFIG_MAPPING[name], "sub_configs", None) or {}
        key = next((key for key in _TEXT_KEYS if key in nested), None)
        if key is None:
            continue
        try:
            config = CONFIG_MAPPING[name]()
        except Exception as error:
            warnings.warn(f"{name}: {error}", stacklevel=1)
            continue
        text = getattr(config, key, None)
        if not hasattr(text, "num_hidden_layers") and key != "thinker_config":
            continue
        found[name] = {
            "key": key,
            "text": text.model_type,
            "fixed": nested[key].__name__ != "AutoConfig",
            "tied": getattr(config, "tie_word_embeddings", None),
        }
    return found


if __name__ == "__main__":
    DEFAULTS_FILE.write_text(json.dumps(defaults(), indent=1, sort_keys=True) + "\n")
    print(f"{DEFAULTS_FILE}: {len(defaults()['families'])} families")
