"""Traces kept in a file: the same as those taken, and taken again when anything changed."""

import json
from dataclasses import fields, replace

import pytest

import sizing
from sizing import Model, Run
from sizing.trace import store

TINY = Model("gpt2").replace(n_layer=2, n_embd=64, n_head=4, vocab_size=128)
RUN = Run(TINY, sequence=32, micro_batch=2)


@pytest.fixture
def file(monkeypatch, tmp_path):
    path = tmp_path / "traces.jsonl"
    monkeypatch.setenv("SIZING_TRACES", str(path))
    monkeypatch.setenv("SIZING_TRACES_ADD", "1")
    yield path
    store._read.cache_clear()


def test_a_kept_trace_is_the_one_that_was_taken(file):
    taken, count = sizing.trace.memory(RUN, device="cpu"), sizing.trace.flops(RUN)
    assert len(file.read_text().splitlines()) == 2
    store._read.cache_clear()
    kept = sizing.trace.memory(RUN, device="cpu")
    assert isinstance(kept, store.Kept) and not isinstance(taken, store.Kept)
    assert (kept.phases, kept.total, kept.parts) == (taken.phases, taken.total, taken.parts)
    assert kept.peak_phase == taken.peak_phase and kept.timeline == taken.timeline
    assert sizing.trace.flops(RUN) == count == sizing.flops(RUN)
    assert len(file.read_text().splitlines()) == 2


def test_nothing_is_kept_without_a_file(monkeypatch):
    monkeypatch.delenv("SIZING_TRACES", raising=False)
    monkeypatch.setattr(store, "key_of", pytest.fail)
    assert sizing.trace.flops(RUN) == sizing.flops(RUN)


@pytest.mark.parametrize(
    "changes",
    [
        {"micro_batch": 3},
        {"sequence": 16},
        {"precision": "fp32"},
        {"optimizer": "sgd"},
        {"recompute": "full"},
        {"attention": "eager"},
        {"gradients": "fp32"},
        {"accumulation": 2},
        {"lora": sizing.Lora(rank=4)},
        {"model": TINY.replace(n_layer=3)},
    ],
)
def test_every_change_of_a_run_is_another_trace(changes):
    key = store.key_of("memory", RUN, {})
    assert key == store.key_of("memory", replace(RUN), {})
    assert key != store.key_of("memory", replace(RUN, **changes), {})
    assert key != store.key_of("memory", RUN, {"device": "cpu"}) != store.key_of("flops", RUN, {})


def test_a_key_holds_all_that_a_trace_reads(monkeypatch):
    """Every attribute of the model that taking a trace looks at is part of its key."""
    monkeypatch.delenv("SIZING_TRACES", raising=False)
    read = set()

    class Watched(Model):
        def __getattribute__(self, name):
            read.add(name)
            return super().__getattribute__(name)

    run = Run(Watched(TINY.config), sequence=32)
    assert {field.name for field in fields(run)} >= {"model", "sequence", "recompute"}
    for settings in ({}, {"recompute": "selective", "attention": "eager"}, {"recompute": "full"}):
        run = replace(run, **settings)
        read.clear()
        sizing.trace.memory(run)
        sizing.trace.flops(run)
        plain = {name for name in read if not name.startswith("__")}
        assert plain - {"name", "traits", "traced"} <= set(store.READS)
    assert "config" in plain  # it does watch


def test_other_code_is_another_digest_and_is_dropped(file, monkeypatch):
    sizing.trace.flops(RUN)
    before = store.made_of()
    monkeypatch.setattr(store, "made_of", lambda: "another0")
    store._read.cache_clear()
    sizing.trace.flops(RUN)
    assert len(file.read_text().splitlines()) == 2
    assert store.tidy(file) == (1, 1)
    (line,) = file.read_text().splitlines()
    assert json.loads(line)[0].startswith("another0-") and before != "another0"


def test_versions_and_sources_are_in_the_digest(monkeypatch, tmp_path):
    digests = set()
    changed = tmp_path / "step.py"
    changed.write_text("changed")
    named = {path.name for path in store.SOURCES if path.parent == store.ROOM}
    for sources, versions in (
        (store.SOURCES, store.version),
        ((*store.SOURCES[:-1], changed), store.version),
        (store.SOURCES, lambda name: "0"),
    ):
        monkeypatch.setattr(store, "SOURCES", sources)
        monkeypatch.setattr(store, "version", versions)
        digests.add(store.made_of.__wrapped__())
    assert len(digests) == 3
    assert {"__init__.py", "step.py", "tracker.py", "build.py"} <= named
    assert not named & set(store.APART)
