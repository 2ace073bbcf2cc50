"""The floors of the library: each module imports only from its own floor and those below it."""

import ast
import importlib
import inspect
import json
import re
import subprocess
import sys
from importlib.util import resolve_name
from pathlib import Path

import pytest

import sizing

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "sizing"
ROOMS = (  # from the ground up; the rooms of one floor do not know each other
    ("units", "hardware", "palette"),
    ("architecture",),
    ("settings", "recomputing", "choices"),
    ("lora",),
    ("run",),
    ("partition",),
    ("compute", "parallel"),
    ("footprint", "speed"),
    ("planning",),
    ("trace",),
    ("evidence",),
    ("measuring",),
    ("experiments",),
    ("calculators",),
    ("course",),
)
FLOORS = {room: number for number, rooms in enumerate(ROOMS) for room in rooms}
CORE_USES = {"numpy", "scipy", "sizing"}
HEAVY = {"torch", "transformers", "matplotlib", "ipywidgets", "pandas", "IPython", "scipy"}
WIDGETS = {"ipywidgets", "IPython"}
MODULES = sorted(PACKAGE.rglob("*.py"))
TOP = len(ROOMS)  # the package itself hands out what all rooms have


def name_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor(module: str) -> int:
    """The floor of a module, or of the room that a name of the package's own comes from."""
    parts = module.split(".")
    if len(parts) == 1:
        return TOP
    if parts[1] in FLOORS:
        return FLOORS[parts[1]]
    home = getattr(getattr(sizing, parts[1], None), "__module__", "")  # `from sizing import Run`
    return floor(home) if home.startswith("sizing.") else TOP


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
    here, room = floor(module), module.split(".")[1:2]
    wrong = []
    for name in imported:
        if name.startswith("sizing."):
            other = name.split(".")[1]
            beside = floor(name) == here < TOP and [other] != room and other in FLOORS
            if floor(name) > here or (beside and other != "units"):
                wrong.append(name)
    roots = {name.split(".")[0] for name in imported}
    if here < FLOORS["trace"]:
        wrong += roots - CORE_USES - sys.stdlib_module_names
    if here < FLOORS["calculators"]:
        wrong += roots & WIDGETS
    return sorted(set(wrong))


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_imports_from_below(path):
    module = name_of(path)
    found = imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")
    assert trespasses(module, found) == []


def test_every_room_is_there_and_no_other():
    assert {name_of(path).split(".")[1] for path in MODULES if path.parent != PACKAGE} | {
        path.stem for path in PACKAGE.glob("*.py") if path.stem != "__init__"
    } == set(FLOORS)


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("sizing.architecture.model", "import math, numpy", []),
        ("sizing.run", "def f():\n    import torch", ["torch"]),
        ("sizing.run", "from .trace import memory", ["sizing.trace.memory"]),
        ("sizing.parallel", "from . import compute", ["sizing.compute"]),
        ("sizing.compute", "from . import experiments", ["sizing.experiments"]),
        ("sizing.footprint.step", "from ..speed import step_time", ["sizing.speed.step_time"]),
        ("sizing.planning.costs", "from ..speed import step_time", []),
        ("sizing.run", "import_module('.course', __package__)", ["sizing.course"]),
        ("sizing.trace.step", "from ..units import GIB\nimport torch", []),
        ("sizing.trace.step", "from ..calculators import base", ["sizing.calculators.base"]),
        ("sizing.measuring.timing", "from ..experiments import zero", ["sizing.experiments.zero"]),
        ("sizing.experiments.run", "import ipywidgets", ["ipywidgets"]),
        ("sizing.calculators.cost", "from sizing import experiments, Model", []),
        ("sizing.calculators.cost", "import sizing.course.check", ["sizing.course.check"]),
        ("sizing.course.check", "from ..calculators import base", []),
    ],
)
def test_trespass_is_seen(module, source, wrong):
    assert trespasses(module, imports(source, module, is_package=False)) == wrong


def test_no_module_shares_the_name_of_a_public_function():
    """`sizing.memory` is a function: a module of that name could not be reached by it."""
    packages = [sizing] + [
        importlib.import_module(name_of(path))
        for path in MODULES
        if path.name == "__init__.py" and path.parent != PACKAGE
    ]
    functions = {
        name
        for package in packages
        for name in getattr(package, "__all__", ())
        if inspect.isroutine(getattr(package, name))
    }
    assert {"memory", "check", "roofline"} <= functions
    public = {name for name in sizing.__all__ if inspect.isroutine(getattr(sizing, name))}
    for path in MODULES:
        *parents, module = name_of(path).split(".")
        beside = getattr(sys.modules.get(".".join(parents)), "__all__", ())
        assert module not in public | (functions & set(beside)), path
    for path in MODULES:
        walked = sizing
        for part in name_of(path).split(".")[1:]:
            walked = getattr(importlib.import_module(name_of(path)) and walked, part)
        assert inspect.ismodule(walked), path


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in MODULES
        if path.name == "__init__.py" and path.parent.name not in ("checks", "findings", "quizzes")
    ],
    ids=name_of,
)
def test_each_room_says_what_it_is_for(path):
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert 2 <= len(text.splitlines()) <= 8


def test_the_map_of_the_house_is_true():
    """docs/ARCHITECTURE.md names every room, and no file that is not there."""
    text = (ROOT / "docs" / "ARCHITECTURE.md").read_text(encoding="utf-8")
    for room in FLOORS:
        assert re.search(rf"`sizing/{room}(/|\.py)`", text), room
    short = re.findall(r"`((?:footprint|speed|evidence)/\w+\.py)`", text)
    long = re.findall(r"`((?:sizing|tests|data|notebooks|solutions|labs|docs)/[\w./]*)`", text)
    assert len(short) >= 5 and len(long) >= 30
    for name in [*long, *(f"sizing/{name}" for name in short)]:
        assert (ROOT / name).exists(), name
    bare = set(re.findall(r"`(\w+\.py)`", text))
    files = {path.name for path in MODULES}
    assert bare and bare <= files
    assert len(text.splitlines()) <= 60  # one screen


LESSONS = {"sizing", "sizing.calculators", "sizing.course"}


@pytest.mark.parametrize(
    "path",
    [*(ROOT / "notebooks").glob("*.ipynb"), *(ROOT / "solutions").glob("*.ipynb")],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_a_lesson_imports_from_the_top_alone(path):
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    source = "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "code")
    found = re.findall(r"^\s*(?:from|import) (sizing[\w.]*)", source, re.MULTILINE)
    assert found and set(found) <= LESSONS


def test_the_core_loads_nothing_heavy():
    code = (
        "import sys, sizing; sizing.flops(sizing.Run(sizing.presets()[0]));"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "sizing" in loaded
    assert loaded & HEAVY == set()
