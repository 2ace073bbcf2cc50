"""Runs drawn at random: three of the 150 that `python -m sizing.evidence.random_runs` takes."""

import random

import pytest

from sizing.evidence import random_runs
from sizing.evidence.random_runs import Outcome, draw, outcome, outcomes


def test_some_runs_are_held_by_real_steps():
    pytest.importorskip("torch")
    held = 0
    for settings, _, found in outcomes(seed=8, runs=3):
        assert found.kind != "missed", (settings, found)
        held += found.kind == "held"
    assert held


def test_a_wrong_formula_is_missed(monkeypatch):
    pytest.importorskip("torch")
    settings = {"model": "gpt2", "sequence": 32}
    monkeypatch.setattr(random_runs, "_real", lambda run, device: 1)
    assert outcome(settings).kind == "missed"
    assert outcome({**settings, "optimizer": "adam7"}) == Outcome(
        "refused", outcome({**settings, "optimizer": "adam7"}).words
    )


def test_what_no_engine_runs_is_refused_in_words(monkeypatch):
    def none(run, device):
        raise ValueError("no step here")

    monkeypatch.setattr(random_runs, "_real", none)
    kinds = set()
    for number in range(60):
        settings = draw(random.Random(number))
        found = outcome(settings)
        assert found.kind != "missed", (settings, found.words)
        kinds.add(found.kind)
    assert kinds == {"refused", "no step here"}
