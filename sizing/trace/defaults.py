"""What transformers fills in where a config leaves a field out, written to data/.

`python -m sizing.trace.defaults` writes data/config_defaults.json from the transformers that is
installed, so that `sizing.Model` knows the defaults without importing transformers.
"""

from __future__ import annotations

import dataclasses
import json
import warnings

from transformers import CONFIG_MAPPING, PreTrainedConfig, __version__
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES,
)

from ..architecture.families import FAMILIES
from ..architecture.fields import DEFAULTS_FILE
from ..architecture.wrappers import SAME_WEIGHTS

# Fields of every config that neither size a model nor change what it computes.
_OTHER = {"bos_token_id", "eos_token_id", "pad_token_id", "initializer_range", "use_cache"}
_TEXT = ("_text", "_text_model")  # parts of multimodal models, which their wrapper reads
_TEXT_KEYS = ("text_config", "llm_config", "thinker_config")


def defaults() -> dict:
    """{"families": {type: {"fields", "aliases"}}, "wrappers": {type: ...}, "causal": [types],
    and what else transformers knows: "encoders", "encoder_decoders", "others"}."""
    types = sorted({*FAMILIES, *SAME_WEIGHTS} & set(CONFIG_MAPPING))
    wrappers, causal = _wrappers(), set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    both = {*MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES}
    both |= {*MODEL_FOR_SPEECH_SEQ_2_SEQ_MAPPING_NAMES}
    encoders = {*MODEL_FOR_MASKED_LM_MAPPING_NAMES} - both
    rest = set(CONFIG_MAPPING) - causal - both - encoders - set(wrappers) - set(types)
    return {
        "transformers": __version__,
        "families": {name: _family(CONFIG_MAPPING[name]) for name in types},
        "wrappers": wrappers,
        "causal": sorted(causal),
        "encoders": sorted(encoders - set(wrappers)),
        "encoder_decoders": sorted(both - set(wrappers)),
        "others": sorted(name for name in rest if not name.endswith(_TEXT)),
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
