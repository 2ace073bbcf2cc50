"""The floors of the library: each module imports only from its own floor and those below it."""

import ast
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[1] / "sizing"
FLOORS = {"trace": 2, "experiments": 2, "calculators": 3, "course": 4}  # all else is the core, 1
CORE_USES = {"numpy", "sizing"}
HEAVY = {"torch", "transformers", "matplotlib", "ipywidgets", "pandas", "IPython"}
WIDGETS = {"ipywidgets", "IPython"}  # and where they may be used: from floor 3 on
MODULES = sorted(PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    return FLOORS.get([*module.split("."), ""][1], 1)


def imports(source: str, module: str, is_package: bool) -> set[str]:
    """Every module that a source imports, in functions too, by statement or by import_module."""
    package = module if is_package else module.rpartition(".")[0]
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = resolve_name("." * node.level + (node.module or ""), package)
            found |= {f"{base}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith("import_module"):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                found.add(resolve_name(argument.value, package))
    return found


def trespasses(module: str, imported: set[str]) -> list[str]:
    """Those of its imports that a module's floor does not allow."""
    here = floor(module)
    wrong = [name for name in imported if name.startswith("sizing") and floor(name) > here]
    roots = {name.split(".")[0] for name in imported}
    if here == 1:
        wrong += roots - CORE_USES - sys.stdlib_module_names
    if here < FLOORS["calculators"]:
        wrong += roots & WIDGETS
    return sorted(set(wrong))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_from_below(path):
    module = name_of(path)
    found = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert trespasses(module, found) == []


def test_every_floor_is_there():
    assert {floor(name_of(path)) for path in MODULES} == {1, 2, 3, 4}


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("sizing.model", "import math, numpy", []),
        ("sizing.model", "def f():\n    import torch", ["torch"]),
        ("sizing.model", "from .trace import memory", ["sizing.trace.memory"]),
        ("sizing.model", "from . import experiments", ["sizing.experiments"]),
        ("sizing.model", "import_module('.course', __package__)", ["sizing.course"]),
        ("sizing.trace.step", "from ..units import GIB\nimport torch", []),
        ("sizing.trace.step", "from ..calculators import base", ["sizing.calculators.base"]),
        ("sizing.experiments.run", "import ipywidgets", ["ipywidgets"]),
        ("sizing.calculators.cost", "from sizing import experiments, Model", []),
        ("sizing.calculators.cost", "import sizing.course.check", ["sizing.course.check"]),
        ("sizing.course.check", "from ..calculators import base", []),
    ],
)
def test_trespass_is_seen(module, source, wrong):
    assert trespasses(module, imports(source, module, is_package=False)) == wrong


def test_the_core_loads_nothing_heavy():
    code = (
        "import sys, sizing; sizing.flops(sizing.Run(sizing.presets()[0]));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sizing" in loaded
    assert loaded & HEAVY == set()
