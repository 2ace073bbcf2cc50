"""From whatever a learner brings to one text model's config: files, presets, names, wrappers.

`read` returns a flat config of a known family, a name, and notes of all that was done to it. What
cannot be sized is refused in words that say what it is and what would do instead.
"""

from __future__ import annotations

import difflib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from ..units import DATA
from . import strangers, translations
from .families import FAMILIES
from .fields import ESSENTIAL, RUNTIME, known
from .heads import LANGUAGE_MODEL, Head, head_of
from .wrappers import FIXED, SAME_WEIGHTS

PRESETS = DATA / "models"
_FOUND_BY = ("a preset's name", "the path of a config.json", "its text", "a Hub id of a preset")
# Characters of a config: published ones have some thousands, with a table of labels a million.
LONGEST = 10**7
# Private keys of published configs that size the model all the same.
_KEPT = {"_remove_final_layer_norm"}


@dataclass(frozen=True)
class Text:
    """A text model's config as it was found.

    Attributes:
        config: its fields, `model_type` a family with a closed form (or what it said).
        name: a name for it, from the preset or the file.
        notes: what was assumed, renamed or left out, one sentence each.
        head: which head its class has; a classifier's or reward model's has scores.
        wrapper: the type of the multimodal config that it was taken from.
    """

    config: dict
    name: str | None = None
    notes: tuple[str, ...] = ()
    head: Head = LANGUAGE_MODEL
    wrapper: str | None = None


@dataclass
class _Reading:
    config: dict
    notes: list[str] = field(default_factory=list)


def presets() -> tuple[str, ...]:
    """Names of the configs that come with the course, from data/models/."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.json")))


@cache
def hub_ids() -> dict[str, str]:
    """{id on the Hugging Face Hub, in small letters: the preset with exactly its sizes}."""
    found = {}
    for name in presets():
        for identifier in _preset_config(name).get("_hub", ()):
            found[identifier.lower()] = name
    return found


def read(source, any_family: bool = False) -> Text:
    """The text model in a preset's name, a Hub id, a path, JSON text, a dictionary or a config.

    `any_family` takes types without a formula as well, for `sizing.trace.model`.

    Raises:
        ValueError: nothing of that name, no JSON, or no model's config; says what it is.
    """
    name = None
    if isinstance(source, str | Path):
        source, name = _open(source)
    elif hasattr(source, "to_dict"):
        source = source.to_dict()
    if not isinstance(source, Mapping):
        raise ValueError(
            f"source: {type(source).__name__} given; allowed: a preset's name, the path of a "
            "config.json, a config dictionary, or a transformers config"
        )
    for key in source:
        if not isinstance(key, str):
            raise ValueError(f"source: {key!r} given as a field's name; allowed: text")
    return _text(dict(source), name, any_family)


def without_formula(source) -> str | None:
    """The model type if only a trace can size it: transformers knows it, there is no formula."""
    try:
        family = read(source, any_family=True).config["model_type"]
    except ValueError:
        return None
    others = {*FAMILIES, *known()["encoders"], *known()["encoder_decoders"]}
    return family if family in known()["causal"] and family not in others else None


# -- finding and decoding


def _open(source: str | Path) -> tuple[dict, str | None]:
    text = str(source).strip()
    if text.startswith(("{", "[")) or "\n" in text or len(text) > 1000:
        return parse(text), None
    preset = _preset(text)
    if preset is not None:
        return parse((PRESETS / f"{preset}.json").read_text(encoding="utf-8"), preset), preset
    # os.path answers False for names that no file can have, where Path raises
    path = Path(os.path.expanduser(text))
    if os.path.isdir(path):
        if not (path / "config.json").is_file():
            raise ValueError(f"source: {text!r} is a folder without a config.json")
        path = path / "config.json"
    if not os.path.isfile(path):
        raise ValueError(_not_found(text))
    strangers.refuse_file(path)
    name = path.resolve().parent.name if path.name == "config.json" else path.stem
    return parse(_decoded(path), path.name), name


def _preset(text: str) -> str | None:
    """The preset of that name or Hub id, capitals and blanks aside."""
    plain = text.lower().removesuffix(".json")
    for candidate in (text, plain, plain.replace(" ", "-"), plain.replace("_", "-")):
        if "/" not in candidate and os.path.isfile(PRESETS / f"{candidate}.json"):
            return candidate
    address = plain.removeprefix("https://huggingface.co/").removeprefix("hf.co/").rstrip("/")
    address = re.sub(r"/(?:blob|resolve|tree|raw)/.*$", "", address)
    return hub_ids().get(address)


def _not_found(text: str) -> str:
    names = {name.lower(): name for name in presets()}
    last = text.lower().removesuffix(".json").rsplit("/", 1)[-1]
    near = difflib.get_close_matches(last, names, n=4, cutoff=0.6)
    by_prefix = [name for name in names if last and name.startswith(last.split("-")[0])]
    near = list(dict.fromkeys([*near, *by_prefix]))[:4]
    help_ = f"presets near it: {', '.join(near)}" if near else "`sizing.presets()` lists them all"
    if re.fullmatch(r"[\w.-]+/[\w.-]+", text) and not text.endswith(".json"):
        return (
            f"source: {text!r} looks like a Hub id that is no preset's; nothing is looked up on "
            f"the Hub: paste the text of its config.json, or give its path; {help_}"
        )
    if text.startswith(("http:", "https:")):
        return f"source: {text!r} is an address; nothing is fetched: paste the config.json's text"
    return (
        f"source: no preset and no file is called {text[:80]!r}; "
        f"allowed: {', '.join(_FOUND_BY)}; {help_}"
    )


def _decoded(path: Path) -> str:
    try:
        _refuse_length(path.stat().st_size, path.name)
        raw = path.read_bytes()
    except OSError as error:
        raise ValueError(f"source: {path.name} cannot be read: {error.strerror}") from error
    utf16 = raw[:2] in (b"\xff\xfe", b"\xfe\xff")
    try:
        return raw.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"source: {path.name} is not text in UTF-8: byte {error.start} is "
            f"{raw[error.start]:#04x}; allowed: a config.json"
        ) from error


def parse(text: str, name: str = "the text") -> dict:
    """The object in a JSON text, or a ValueError in words."""
    text = text.lstrip("\ufeff")
    _refuse_length(len(text), name)
    strangers.refuse_text(text, name)
    twice: list[str] = []

    def fields(pairs: list[tuple]) -> dict:
        found = dict(pairs)
        if len(found) < len(pairs):  # JSON's readers keep the last one and say nothing
            times = Counter(key for key, _ in pairs)
            twice.extend(key for key in found if times[key] > 1)
        return found

    try:
        config = json.loads(text, object_pairs_hook=fields)
    except json.JSONDecodeError as error:
        known_as = strangers.named_in(text)
        reason = f"{error}; {known_as}" if known_as else error
        raise ValueError(f"source: {name} is not JSON: {reason}") from error
    except RecursionError:
        raise ValueError(f"source: {name} nests too deeply to be a config") from None
    except ValueError as error:  # a number of thousands of digits
        raise ValueError(f"source: {name} holds a number with too many digits: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"source: {name} holds a {type(config).__name__}; an object is needed")
    if twice:
        raise ValueError(f"{twice[0][:60]}: given twice in {name}; allowed: each field once")
    return config


def _refuse_length(length: int, name: str) -> None:
    if length > LONGEST:
        raise ValueError(
            f"source: {name} has a length of {length:,}; allowed: up to {LONGEST:,}, and a "
            "config.json has some thousands"
        )


# -- from any config to the text model's


def _text(config: dict, name: str | None, any_family: bool) -> Text:
    r = _Reading(translations.translated(config))
    r.notes += translations.notes_on(config)
    r.notes += _tied_as_published(r.config, config)
    outer = r.config
    family = _family_of(outer)
    architectures = outer.get("architectures")
    wrapper = _unwrap(r, family)
    r.config = {
        key: value
        for key, value in r.config.items()
        if (not key.startswith("_") or key in _KEPT) and key not in RUNTIME
    }
    family = _family_of(r.config)
    if family is not None and not isinstance(family, str):
        raise ValueError(strangers.unknown(family, r.config, outer))
    if family in SAME_WEIGHTS:
        own = known()["families"].get(family, {}).get("fields", {})
        fixed = FIXED.get(family, {})
        if own and "head_dim" not in own:  # then a head is its share of the hidden size
            own = {**own, "head_dim": None}
        own = {k: v for k, v in own.items() if v is not None or k == "head_dim"}
        r.config = {**own, **r.config, **fixed}
        r.config["model_type"] = SAME_WEIGHTS[family]
        r.notes.append(f"{family} has the weights of {SAME_WEIGHTS[family]}.")
    elif family not in FAMILIES and not (any_family and family in known()["causal"]):
        raise ValueError(strangers.unknown(family, r.config, outer))
    else:
        r.config["model_type"] = family
    head = head_of(architectures, outer, wrapper is not None)
    if any_family and head.kind == "scores":
        raise ValueError(
            f"architectures: {architectures[0]!r} given, which scores; allowed here: a language "
            "model, which is what sizing.trace.model builds"
        )
    r.notes += [head.note] if head.note else []
    r.notes += _left_out(r.config)
    return Text(r.config, name, tuple(r.notes), head, wrapper)


# Fields that count layers which predict tokens further ahead: no part of transformers' models.
_FURTHER = ("num_nextn_predict_layers", "num_mtp_modules", "mtp_num_hidden_layers")


def _left_out(config: dict) -> list[str]:
    """What the file tells of and transformers does not build."""
    found = [(name, config[name]) for name in _FURTHER if isinstance(config.get(name), int)]
    return [
        f"{name} {count}: layers that predict further tokens, not counted (transformers does not "
        "build them)."
        for name, count in found
        if count > 0
    ]


_SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers")


def _tied_as_published(translated: dict, config: dict) -> list[str]:
    """Meta's params.json does not say whether the head is tied; a preset of its sizes does."""
    if translated.get("model_type") != "llama" or "dim" not in config:
        return []
    for name in presets():
        preset = _preset_config(name)
        if preset.get("model_type") == "llama" and all(
            preset.get(size) == translated[size] for size in _SIZES
        ):
            translated["tie_word_embeddings"] = preset.get("tie_word_embeddings", False)
            tied = "tied" if translated["tie_word_embeddings"] else "not tied"
            return [f"The head is {tied}, as in {name}, which has these sizes."]
    return ["Whether the head is tied is not written there: taken as untied."]


@cache
def _preset_config(name: str) -> dict:
    return json.loads((PRESETS / f"{name}.json").read_text(encoding="utf-8"))


def _family_of(config: Mapping) -> str | None:
    family = config.get("model_type")
    if not isinstance(family, str):
        return family
    exact = family.strip()
    return exact if exact in known()["wrappers"] or exact in FAMILIES else exact.lower()


def _unwrap(r: _Reading, family: str | None) -> str | None:
    """Put the text model's config in the place of a multimodal one; the wrapper's type."""
    outer = r.config
    rule = known()["wrappers"].get(family) if isinstance(family, str) else None
    key = next((k for k in _keys(rule) if isinstance(outer.get(k), Mapping)), None)
    if key is None and rule is None:
        return None
    inner = dict(outer[key]) if key else _flat(outer, rule)
    if key is None and family in FAMILIES:
        return None
    if rule is not None and isinstance(inner.get(rule["key"]), Mapping):  # thinker > text
        inner = dict(inner[rule["key"]])
    if isinstance(inner.get("text_config"), Mapping):
        inner = dict(inner["text_config"])
    if rule is not None and not inner.get("model_type"):
        inner["model_type"] = rule["text"]
    text_type = _family_of(inner)
    _fill_sizes(r, inner, text_type)
    _tie(outer, inner, rule, text_type)
    r.config = inner
    r.notes.append(f"The text model of a {family!r} config: its other parts are not counted.")
    return family if isinstance(family, str) else "multimodal"


def _keys(rule: dict | None) -> tuple[str, ...]:
    return (*((rule["key"],) if rule else ()), "text_config", "llm_config", "language_config")


def _flat(outer: dict, rule: dict) -> dict:
    """A multimodal config whose text fields stand beside the others, as Qwen2-VL's do."""
    inner = {k: v for k, v in outer.items() if not isinstance(v, Mapping) or k.startswith("rope")}
    return {**inner, "model_type": rule["text"]}


def _fill_sizes(r: _Reading, inner: dict, text_type) -> None:
    """Inside a wrapper even the sizes may be left to transformers' class."""
    entry = known()["families"].get(text_type, {})
    stated = {entry.get("aliases", {}).get(key, key) for key in inner}
    filled = {
        name: value
        for name, value in entry.get("fields", {}).items()
        if name in ESSENTIAL | {"num_key_value_heads", "head_dim"}
        and name not in stated
        and value is not None
    }
    if filled:
        inner.update(filled)
        listed = ", ".join(f"{name} {value}" for name, value in filled.items())
        r.notes.append(f"Left out, filled as transformers fills {text_type!r}: {listed}.")


def _tie(outer: dict, inner: dict, rule: dict | None, text_type) -> None:
    """The whole model's flag decides; where the file leaves it out, the wrapper's default."""
    if "tie_word_embeddings" in outer:
        inner["tie_word_embeddings"] = outer["tie_word_embeddings"]
    elif rule and rule["tied"] is not None and (not rule["fixed"] or text_type == rule["text"]):
        inner["tie_word_embeddings"] = rule["tied"]
