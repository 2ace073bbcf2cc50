"""Traces kept in a file, so that tests need not take again what cannot have changed.

Nothing is kept unless ``SIZING_TRACES`` names a file, as `make test` does; a learner's traces are
always taken. A trace is kept under a digest of everything that it depends on: the sources of this
room and of the kernels' workspaces, the versions of torch and transformers, the run, and of its
model what a trace reads. Change one of them, and the trace is taken again.

    python -m sizing.trace.store tests/traces.jsonl      drop what is out of date, sort the rest

With ``SIZING_TRACES_ADD=1`` a trace that was taken is added to the file (`make traces`).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields
from functools import cache, wraps
from importlib.metadata import version
from pathlib import Path

from ..architecture.model import Model
from ..compute import Flops
from ..run import Run
from .tracker import Trace

ROOM = Path(__file__).parent
# files of this room that take no trace
APART = (
    *("store.py", "coverage.py", "defaults.py", "allocations.py", "trainers.py"),
    *("fsdp.py", "offloaded.py"),
)
SOURCES = (
    *sorted(path for path in ROOM.glob("*.py") if path.name not in APART),
    ROOM.parent / "footprint" / "kernels.py",
)
PACKAGES = ("torch", "transformers")
# What a trace reads of a run's model; a test watches one being taken.
READS = ("config", "head", "vocab", "layers", "family", "max_positions")


class Kept(Trace):
    """A trace from the file. Its timeline, which is long, is traced when it is asked for."""

    def __init__(self, phases: dict[str, dict[str, int]], again: Callable[[], Trace]):
        object.__setattr__(self, "phases", phases)
        object.__setattr__(self, "_again", again)

    @property
    def timeline(self) -> tuple[tuple[str, int], ...]:
        return self._again().timeline


def stored(kind: str):
    """Decorates `memory` and `flops` of a run so that they look into the file first."""

    def decorate(trace):
        @wraps(trace)
        def looked_up(run: Run, **settings):
            file = os.environ.get("SIZING_TRACES")
            if not file or type(run.model) is not Model:
                return trace(run, **settings)
            key = key_of(kind, run, settings)
            if (found := _read(file).get(key)) is not None:
                return _restored(kind, found, lambda: trace(run, **settings))
            taken = trace(run, **settings)
            if os.environ.get("SIZING_TRACES_ADD"):
                _add(file, key, _plain(kind, taken))
            return taken

        return looked_up

    return decorate


def key_of(kind: str, run: Run, settings: dict) -> str:
    """Digest of all that a trace of this run depends on."""
    model = {name: getattr(run.model, name) for name in READS}
    others = {f.name: repr(getattr(run, f.name)) for f in fields(run) if f.name != "model"}
    parts = [kind, settings, model, run.model.traits.fused_attention, repr(run.recipe), others]
    text = made_of() + json.dumps(parts, sort_keys=True, default=repr)
    return f"{made_of()}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


@cache
def made_of() -> str:
    """Digest of the code that takes a trace: this room's, torch's and transformers'."""
    digest = hashlib.sha256()
    for path in SOURCES:
        digest.update(path.read_bytes().replace(b"\r\n", b"\n"))
    for name in PACKAGES:
        digest.update(f"{name} {version(name).split('+')[0]}".encode())
    return digest.hexdigest()[:8]


def _plain(kind: str, taken: Trace | Flops):
    if kind == "memory":
        return taken.phases
    return [taken.forward, taken.backward, taken.recompute]


def _restored(kind: str, found, again: Callable[[], Trace]) -> Trace | Flops:
    return Kept(found, again) if kind == "memory" else Flops(*found)


@cache
def _read(file: str) -> dict:
    path = Path(file)
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(json.loads(line) for line in lines)


def _add(file: str, key: str, value) -> None:
    """Append a line in one write: several processes add to a file."""
    with open(file, "a", encoding="utf-8") as out:
        out.write(json.dumps([key, value], separators=(",", ":")) + "\n")
    _read(file)[key] = value


def tidy(file: Path) -> tuple[int, int]:
    """Sort a file of traces and drop those of other code; returns how many stay and how many go."""
    found = _read(str(file))
    now = {key: value for key, value in sorted(found.items()) if key.startswith(made_of())}
    lines = [json.dumps([key, value], separators=(",", ":")) + "\n" for key, value in now.items()]
    file.write_text("".join(lines), encoding="utf-8")
    return len(now), len(found) - len(now)


if __name__ == "__main__":
    stay, go = tidy(Path(sys.argv[1]))
    print(f"{sys.argv[1]}: {stay} traces; {go} of other code or versions dropped")
