"""How the notebooks are tested: strict nbval in recorded mode, whatever the machine.

`pytest` collects notebooks/, labs/ and solutions/ beside tests/ (see pyproject.toml). Everything
here holds for the kernels as well, which inherit this process's environment.
"""

import json
import os
import tempfile
from collections import Counter
from pathlib import Path

import pytest

_TESTS = Path(__file__).resolve().parent / "tests"
_SANITIZE = _TESTS / "nbval_sanitize.cfg"
# Seconds of each file. Processes share the files (make test): what takes longest begins first, and
# the short ones fill up at the end. SIZING_SECONDS=1 writes what this run took.
_SECONDS = _TESTS / "seconds.json"
_UNKNOWN = 10.0  # a file that nobody has timed
_taken = Counter()


def pytest_configure(config):
    learner = tempfile.TemporaryDirectory(prefix="learner-")
    config.add_cleanup(learner.cleanup)
    os.environ["SIZING_RECORDED"] = "1"
    # kernels and processes find the library compiled
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["SIZING_LEARNER_DIR"] = learner.name  # a learner's own guesses stay untouched
    os.environ.pop("SIZING_CLASS", None)  # and no class hears of a test
    # traces that were taken before, by the digest of what they depend on: sizing/trace/store.py
    os.environ.setdefault("SIZING_TRACES", str(_TESTS / "traces.jsonl"))
    config.option.nbval_sanitize_with = str(_SANITIZE)  # nbval reads it from each notebook's folder


def pytest_runtest_setup(item):
    """Stored notebooks show what `reveal` reveals; for everything else no answer is shown."""
    if item.path.suffix == ".ipynb":
        os.environ["SIZING_ANSWERS"] = "shown"
    else:
        os.environ.pop("SIZING_ANSWERS", None)


def pytest_collection_modifyitems(items):
    seconds = json.loads(_SECONDS.read_text(encoding="utf-8"))
    # stable: the order within a file stays
    items.sort(key=lambda item: -seconds.get(item.nodeid.split("::")[0], _UNKNOWN))


def pytest_runtest_logreport(report):
    _taken[report.nodeid.split("::")[0]] += report.duration


def pytest_sessionfinish(session):
    if os.environ.get("SIZING_SECONDS") and not hasattr(session.config, "workerinput"):
        known = json.loads(_SECONDS.read_text(encoding="utf-8"))
        new = known | {name: round(seconds, 1) for name, seconds in _taken.items()}
        here = {name: new[name] for name in sorted(new) if (_TESTS.parent / name).exists()}
        _SECONDS.write_text(json.dumps(here, indent=1) + "\n", encoding="utf-8")


def pytest_collection_finish(session):
    if any(item.path.suffix == ".ipynb" for item in session.items):
        # On a new machine matplotlib reports on stderr that it builds its font cache, once.
        import matplotlib.font_manager  # noqa: F401


@pytest.fixture
def models(monkeypatch):
    """A preset of each family, for tests that move a calculator through all of them undrawn.

    `make nightly` takes every preset and draws it (SIZING_ALL=1).
    """
    import sizing
    from sizing.calculators.base import Calculator

    if os.environ.get("SIZING_ALL"):
        return sizing.presets()
    monkeypatch.setattr(Calculator, "redraw", lambda self: None)
    monkeypatch.setattr(Calculator, "_png", lambda self: b"")
    return tuple({sizing.Model(name).family: name for name in sizing.presets()}.values())
