"""`environment()`: is this machine ready, what will run live on it, and what is recorded."""

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape
from importlib.metadata import PackageNotFoundError, version

from .. import experiments
from ..measuring.recording import recorded_only
from ..units import DATA, GIB

PACKAGES = ("torch", "transformers", "numpy", "ipywidgets", "matplotlib")
PYTHON = (3, 11)


@dataclass(frozen=True)
class Environment:
    """A table of what the course was made with and what is here, and sentences under it."""

    rows: tuple[tuple[str, str, str, str], ...]
    notes: tuple[str, ...]

    HEAD = ("", "course", "here", "verdict")

    def __repr__(self) -> str:
        table = [self.HEAD, *self.rows]
        widths = [max(len(row[column]) for row in table) for column in range(len(self.HEAD))]
        lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
        return "\n".join([*lines, "", *self.notes])

    def _repr_html_(self) -> str:
        head = "".join(f"<th>{escape(cell)}</th>" for cell in self.HEAD)
        body = "".join(
            "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
            for row in self.rows
        )
        notes = "".join(f"<p>{escape(note)}</p>" for note in self.notes)
        return f"<table><tr>{head}</tr>{body}</table>{notes}"


def environment() -> Environment:
    """Compare this machine with what the course expects. Nothing is installed or changed.

    With ``SIZING_RECORDED=1`` the machine is not looked at, and the text is the same everywhere.
    """
    live = not recorded_only()
    rows = [_python(live), *(_package(name, pin, live) for name, pin in pins().items())]
    notes = [*(_device() if live else [_RECORDED]), _recordings()]
    return Environment(tuple(rows), tuple(notes))


_RECORDED = (
    "Recorded mode: this machine was not looked at, and experiments show the reference CPU's "
    "recordings. To check your machine, run this cell in `make lab`."
)


def pins() -> dict[str, str]:
    """Versions in requirements.txt of the packages on which results depend."""
    text = (DATA.parent / "requirements.txt").read_text(encoding="utf-8")
    found = dict(re.findall(r"^([\w-]+)==(\S+)", text, re.MULTILINE))
    return {name: found[name] for name in PACKAGES}


def _python(live: bool) -> tuple[str, str, str, str]:
    wanted = ".".join(map(str, PYTHON)) + " or newer"
    if not live:
        return "Python", wanted, "-", "not looked at"
    ok = tuple(map(int, platform.python_version_tuple()[:2])) >= PYTHON
    return "Python", wanted, platform.python_version(), "ok" if ok else "too old"


def _package(name: str, pin: str, live: bool) -> tuple[str, str, str, str]:
    if not live:
        return name, pin, "-", "not looked at"
    try:
        here = version(name)
    except PackageNotFoundError:
        return name, pin, "-", "missing: pip install -r requirements.txt"
    same = here.split("+")[0] == pin  # "2.13.0+cpu" is 2.13.0 without CUDA
    return name, pin, here, "ok" if same else "differs: last digits may too"


def _device() -> Iterator[str]:
    import torch

    from ..measuring.device import find, provenance

    device = find()
    facts = provenance(device, "environment", "environment()")
    memory = f"{device.memory / GIB:.1f} GiB of memory" if device.memory else "memory unknown"
    if device.cuda:
        yield f"GPU: {device.name}, {memory}, driver {facts['driver']}, CUDA {facts['cuda']}."
        yield "Every experiment runs live on this GPU, on a grid scaled to its memory."
    else:
        threads = f"{torch.get_num_threads()} threads"
        yield f"No CUDA GPU found. CPU: {device.name}, {device.cores} cores, {threads}, {memory}."
        yield "Every experiment runs live on this CPU, on a small grid of under a minute each."


def _recordings() -> str:
    """Which GPUs the drawings show beside the learner's machine: what is in data/, no promise."""
    gpus = sorted(
        {
            recording.provenance["device"]
            for name in experiments.names()
            for recording in experiments.recordings(name, gpu=True)
        }
    )
    if not gpus:
        return "Recorded GPUs to compare with: none yet."
    return f"Recorded GPUs to compare with: {', '.join(gpus)}."
