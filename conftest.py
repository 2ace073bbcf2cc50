"""How the notebooks are tested: strict nbval in recorded mode, whatever the machine.

`pytest` collects notebooks/, labs/ and solutions/ beside tests/ (see pyproject.toml). Everything
here holds for the kernels as well, which inherit this process's environment.
"""

import os
import tempfile
from pathlib import Path

_TESTS = Path(__file__).resolve().parent / "tests"
_SANITIZE = _TESTS / "nbval_sanitize.cfg"
# Two processes share the files (make test): what takes longest begins first, the rest fills up.
_FIRST = ("browser/", "test_distributed.py", "test_experiments.py", ".ipynb")


def pytest_configure(config):
    learner = tempfile.TemporaryDirectory(prefix="learner-")
    config.add_cleanup(learner.cleanup)
    os.environ["SIZING_RECORDED"] = "1"
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
    def place(item):
        return next((n for n, part in enumerate(_FIRST) if part in str(item.path)), len(_FIRST))

    items.sort(key=place)  # stable: the order within a file stays


def pytest_collection_finish(session):
    if any(item.path.suffix == ".ipynb" for item in session.items):
        # On a new machine matplotlib reports on stderr that it builds its font cache, once.
        import matplotlib.font_manager  # noqa: F401
