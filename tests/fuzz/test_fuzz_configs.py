"""Every config of data/models with a field removed or spoilt: the exact count, or a clear error.

The truth is transformers' own model of the same config. `make fuzz` takes every field of every
config; `make test` a share of them, always the same.
"""

import json
import os
import random
import re

import pytest
from reference import build

from sizing import Model
from sizing.units import DATA

PATHS = sorted((DATA / "models").glob("*.json"))
ALL = int(os.environ.get("SIZING_FUZZ", 0)) >= 10_000
SPOILT = (None, -1, 0, 1.5, "many", "", [], {}, True, 10**12, float("nan"))
REMOVED = "removed"


def config(path) -> dict:
    return {k: v for k, v in json.loads(path.read_text()).items() if not k.startswith("_")}


def changes(path) -> list[tuple[str, object]]:
    """Each field removed, and each with one wrong value, or a few of them, drawn by its name."""
    fields = [name for name in config(path) if name not in ("model_type", "architectures")]
    found = []
    for name in fields:
        rng = random.Random(f"{path.stem} {name}")
        found += [(name, REMOVED), (name, rng.choice(SPOILT))]
    return found if ALL else random.Random(path.stem).sample(found, 2)


def changed(whole: dict, name: str, value) -> dict:
    rest = {key: old for key, old in whole.items() if key != name}
    return rest if value is REMOVED else rest | {name: value}


def truth(spoilt: dict) -> int | None:
    """transformers' count; None where it refuses the config, or builds nothing from it."""
    try:
        return sum(p.numel() for p in build(spoilt).parameters())
    except Exception:  # each config class and each model has its own
        return None


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_a_changed_config_is_counted_exactly_or_refused_in_words(path):
    whole = config(path)
    whole_count, wrong = Model(path).parameters.total, []
    for name, value in changes(path):
        spoilt = changed(whole, name, value)
        try:
            ours = Model(spoilt).parameters.total
        except ValueError as error:
            words = str(error)
            if type(error) is not ValueError or not re.match(r"[\w.\[\]/ -]+: ", words):
                wrong.append(f"{name} = {value!r}: {type(error).__name__}: {words[:200]}")
            continue
        except Exception as error:  # what the test is there to find
            wrong.append(f"{name} = {value!r}: {type(error).__name__}: {error}")
            continue
        theirs = truth(spoilt)
        if theirs is not None and ours != theirs:
            wrong.append(f"{name} = {value!r}: {ours:,} counted, {theirs:,} in transformers")
        if theirs is None and value is None:  # releases before 5 took null for this
            meant = {"tie_word_embeddings": False}
            meant["num_key_value_heads"] = whole.get("num_attention_heads")
            theirs = truth(spoilt | {name: meant[name]}) if name in meant else whole_count
            if ours != theirs:
                wrong.append(f"{name} = null: {ours:,} counted, {theirs:,} in old releases")
        elif theirs is None and ours != whole_count:
            wrong.append(f"{name} = {value!r}: {ours:,} counted, transformers refuses it")
    assert not wrong, "\n".join(wrong)
