"""Which head the class in a config's `architectures` has: a language model's, scores, or none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Head:
    """`kind` is "language model", "scores" (of `labels`, perhaps `biased`) or "none"."""

    kind: str = "language model"
    labels: int = 0
    biased: bool = False
    note: str | None = None


LANGUAGE_MODEL = Head()
# transformers' own classes, and the endings of those that come with a model's code.
_SCORED = "ForSequenceClassification"
_SCORED_TOKENS = "ForTokenClassification"
_ANSWERS = "ForQuestionAnswering"
_FOREIGN_SCORES = ("RewardModel", "ForReward")


def head_of(architectures, config: Mapping, wrapped: bool) -> Head:
    """The head of the class that a config names first; of a multimodal one, only if it scores.

    Raises:
        ValueError: a draft head for speculative decoding.
    """
    named = architectures[0] if isinstance(architectures, list | tuple) and architectures else None
    if not isinstance(named, str):
        return LANGUAGE_MODEL
    if named.endswith(_SCORED):
        return _scores(named, _labels(config))
    if named.endswith(_SCORED_TOKENS):
        return _scores(named, _labels(config), biased=True)
    if named.endswith(_ANSWERS):
        return _scores(named, 2, biased=True)
    if named.endswith(_FOREIGN_SCORES):
        foreign = " The class comes with the model's code: its head may have more layers."
        return _scores(named, _labels(config), more=foreign)
    if wrapped:
        return LANGUAGE_MODEL
    if "Eagle" in named or "Medusa" in named or named.endswith(("MTP", "MTPModel")):
        raise ValueError(
            f"architectures: {named!r} is a draft head for speculative decoding, not the model; "
            "allowed: the config.json of the model that it drafts for"
        )
    if named.endswith("Model") and not named.endswith(("LMHeadModel", "DoubleHeadsModel")):
        return Head("none", note=f"{named}: no head.")
    return LANGUAGE_MODEL


def _scores(named: str, labels: int, biased: bool = False, more: str = "") -> Head:
    note = f"{named}: a head of {labels} scores, no language model.{more}"
    return Head("scores", labels, biased, note)


def _labels(config: Mapping) -> int:
    labels = config.get("num_labels")
    if labels is None and isinstance(config.get("id2label"), Mapping):
        labels = len(config["id2label"])
    labels = 2 if labels is None else labels  # transformers' default
    if isinstance(labels, bool) or not isinstance(labels, int) or labels < 1:
        raise ValueError(f"num_labels: {labels!r} given; allowed: a whole number >= 1")
    return labels
