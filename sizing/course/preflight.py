"""Is this machine ready for the course? One line a check: [OK], [NOTE] or [FAIL] with what to do.

    make check          or, without make:  python sizing/course/preflight.py

Works where nothing is installed yet: this file imports the standard library alone, and each package
is tried in a process of its own. Nothing is changed and no network is used. The exit code is 1 if a
check failed, 0 otherwise; the text names no user and can be sent to an instructor.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections import namedtuple
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OK, NOTE, FAIL = "OK", "NOTE", "FAIL"
Finding = namedtuple("Finding", "verdict subject text remedy", defaults=("",))

OLDEST = (3, 11)
INSTALL = "Run `make lab`, or `pip install -r requirements.txt` with this Python."
# Tried by import; the others of requirements.txt matter to those who test or change the course.
LEARNERS = ("torch", "transformers", "numpy", "scipy", "pandas", "matplotlib", "ipywidgets", "tqdm")
LEARNERS += ("psutil", "jupyterlab", "ipykernel")
MODELS = ("llama-3.1-8b.json", "gpt2.json", "mixtral-8x22b.json")  # lessons 00 and 01 begin there
TABLES = ("gpus.csv", "prices.csv", "rates.csv", "runs.csv", "energy.csv", "goodput.csv")
TABLES += ("layouts.csv", "facilities.csv", "scaling_laws.csv", "chinchilla_tables.csv")
TABLES += ("memory_error.csv", "cuda_error.csv", "parallel_error.csv", "device_memory.csv")
TABLES += ("ultrascale_h100.csv",)
GB = 10**9
DISK = 1 * GB  # notebooks, measurements, and the checkpoints that lesson 10 writes and deletes
MEMORY = 4 * GB  # lesson 02 measured live peaks at 3.8 GB
SECONDS = 120  # for one package or kernel; a loaded machine needs half a minute for torch


def check_python(version=sys.version_info) -> Finding:
    """The interpreter's version against the oldest that the course runs on."""
    here = ".".join(map(str, version[:3]))
    if tuple(version[:2]) < OLDEST:
        wanted = ".".join(map(str, OLDEST))
        remedy = f"Install Python {wanted} or newer, then `make lab PYTHON=python{wanted}`."
        return Finding(FAIL, "Python", f"{here} is too old", remedy)
    return Finding(OK, "Python", f"{here} on {platform.system()} {platform.machine()}")


def pins(requirements: str) -> dict[str, str]:
    """The packages that a requirements file pins, and their versions."""
    return dict(re.findall(r"^([\w.-]+)==(\S+)", requirements, re.MULTILINE))


def version_of(package: str) -> str | None:
    """The version that is installed, or None."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def check_packages(pinned: dict[str, str], installed=version_of) -> list[Finding]:
    """Installed versions against pinned ones; another major version fails, a near one is noted."""
    missing, wrong, near, spare = [], [], [], []
    for name, pin in pinned.items():
        here = installed(name)
        if here is None:
            (missing if name in LEARNERS else spare).append(name)
        elif here.split("+")[0] != pin:  # "2.13.0+cpu" is 2.13.0 without CUDA
            far = here.split(".")[0] != pin.split(".")[0] and name in LEARNERS
            (wrong if far else near).append(f"{name} {here} (course: {pin})")
    found = []
    if missing:
        found.append(Finding(FAIL, "packages", "missing: " + ", ".join(missing), INSTALL))
    if wrong:
        found.append(Finding(FAIL, "packages", "of another time: " + ", ".join(wrong), INSTALL))
    if near:
        text = "differ, so last digits may too: " + ", ".join(near)
        found.append(Finding(NOTE, "packages", text, INSTALL))
    if spare:
        text = "missing, needed by the tests alone: " + ", ".join(spare)
        found.append(Finding(NOTE, "packages", text))
    return found or [Finding(OK, "packages", f"all {len(pinned)} as in requirements.txt")]


def ask(code: str, seconds: float = SECONDS, **environment: str) -> tuple[bool, str]:
    """Run Python code in a process of its own: whether it ended well, and the last line it wrote.

    A package that takes its process with it, or never returns, is a finding and not the end.
    """
    env = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=seconds,
            env=env,
            cwd=sys.prefix,  # as in a kernel, `sizing` must be found without this folder's help
        )
    except subprocess.TimeoutExpired:
        return False, f"no answer in {seconds:.0f} s"
    said = (done.stdout if done.returncode == 0 else done.stderr or done.stdout).strip()
    last = said.splitlines()[-1] if said else f"ended with exit code {done.returncode}"
    return done.returncode == 0, last


def check_imports(packages=LEARNERS, ask=ask) -> list[Finding]:
    """Each installed package that a learner needs is imported for real."""
    here = [name for name in packages if version_of(name)]
    good, _ = ask("".join(f"import {name}\n" for name in here))
    if good:
        return [Finding(OK, "imports", f"{len(here)} packages load")] if here else []
    found = []
    for name in here:
        good, said = ask(f"import {name}")
        if not good:
            remedy = f"Reinstall it: `pip install --force-reinstall --no-deps {name}`, or {INSTALL}"
            found.append(Finding(FAIL, "imports", f"{name} does not load: {said}", remedy))
    return found


def check_course(ask=ask) -> Finding:
    """`import sizing` works and is this folder's, and it counts a model's parameters."""
    code = "import sizing; print(sizing.__file__, sizing.Model('gpt2').parameters.total)"
    good, said = ask(code)
    remedy = "Run `pip install -e .` in the course's folder, with the Python that runs the lessons."
    if not good:
        return Finding(FAIL, "course", f"`import sizing` fails: {said}", remedy)
    where, _, count = said.rpartition(" ")
    if count != "124439808":
        return Finding(FAIL, "course", f"GPT-2 has {count} parameters, not 124439808", remedy)
    if Path(where).resolve().parent != ROOT / "sizing":
        return Finding(FAIL, "course", f"`sizing` is that of {where}", remedy)
    return Finding(OK, "course", "`sizing` loads and counts GPT-2's 124,439,808 parameters")


_KERNEL = """
import sys
from jupyter_client.manager import start_new_kernel
manager, client = start_new_kernel(kernel_name="python3", startup_timeout=60)
try:
    lines = []
    def keep(message):
        lines.append(message["content"].get("text", ""))
    client.execute_interactive("import sys; print(sys.prefix)", timeout=60, output_hook=keep)
finally:
    client.stop_channels()
    manager.shutdown_kernel(now=True)
print("same" if "".join(lines).strip() == sys.prefix else "".join(lines).strip())
"""


def check_kernel(ask=ask) -> Finding:
    """A kernel starts, computes, and runs in the same Python as this check."""
    good, said = ask(_KERNEL)
    remedy = "Run `python -m ipykernel install --sys-prefix` with the Python of the course."
    if not good:
        return Finding(FAIL, "kernel", f"no kernel answers: {said}", remedy)
    if said != "same":
        return Finding(FAIL, "kernel", f"`python3` starts another Python: {said}", remedy)
    return Finding(OK, "kernel", "starts and answers, in this Python")


_WIDGETS = """
from pathlib import Path
from jupyter_core.paths import jupyter_path
import ipywidgets
name = Path("@jupyter-widgets", "jupyterlab-manager", "package.json")
print(any((Path(folder) / name).exists() for folder in jupyter_path("labextensions")))
"""


def check_widgets(ask=ask) -> Finding:
    """The calculators' half in Python, and the half that JupyterLab shows in the browser."""
    good, said = ask(_WIDGETS)
    remedy = "Run `pip install ipywidgets jupyterlab_widgets` and reload the page."
    if not good:
        return Finding(FAIL, "widgets", f"ipywidgets does not load: {said}", remedy)
    if said != "True":
        text = "JupyterLab lacks their extension: controls would show as text"
        return Finding(FAIL, "widgets", text, remedy)
    return Finding(OK, "widgets", "ipywidgets and its JupyterLab extension")


_TORCH = """
import json, torch
a = torch.ones(64, 64)
facts = {"version": torch.__version__, "cuda": torch.version.cuda, "sum": (a @ a).sum().item()}
if torch.cuda.is_available():
    free, total = torch.cuda.mem_get_info()
    b = torch.ones(64, 64, device="cuda")
    facts |= {"gpu": torch.cuda.get_device_name(), "free": free, "total": total}
    facts["sum"] = (b @ b).sum().item()
print(json.dumps(facts))
"""


def check_torch(ask=ask) -> Finding:
    """torch multiplies two matrices, on the GPU where it sees one; the GPU's free memory."""
    good, said = ask(_TORCH)
    if not good:
        return Finding(FAIL, "torch", f"a matrix product fails: {said}", INSTALL)
    facts = json.loads(said)
    if facts["sum"] != 64**3:
        text = f"a product of ones sums to {facts['sum']}, not {64**3}"
        return Finding(FAIL, "torch", text, "Do not trust this device. Restart it and check again.")
    about = f"torch {facts['version']}"
    if "gpu" not in facts:
        if shutil.which("nvidia-smi"):
            text = f"{about} does not see the GPU that nvidia-smi is here for; the CPU is used"
            remedy = "Without a CUDA build: `pip install --force-reinstall torch`. Else the driver."
            return Finding(NOTE, "torch", text, remedy)
        return Finding(OK, "torch", f"{about}, no CUDA GPU: the course runs on the CPU")
    text = f"{about}, {facts['gpu']}: {facts['free'] / GB:.1f} of {facts['total'] / GB:.1f} GB free"
    if facts["free"] < 0.8 * facts["total"]:
        remedy = "Others use this GPU (`nvidia-smi` names them): measured memory and times suffer."
        return Finding(NOTE, "torch", text, remedy)
    return Finding(OK, "torch", text)


def check_data(root: Path = ROOT) -> Finding:
    """Every file of data/ can be read, and those that lessons need are there."""
    data, wrong = root / "data", []
    for name in (*TABLES, "config_defaults.json", *(f"models/{name}" for name in MODELS)):
        if not (data / name).is_file():
            wrong.append(f"data/{name} is missing")
    files = sorted(file for file in data.rglob("*") if file.suffix in (".json", ".csv"))
    for file in files:
        if reason := damage(file):
            wrong.append(f"{file.relative_to(root).as_posix()}: {reason}")
    lessons = len(list((root / "notebooks").glob("[0-9][0-9]-*.ipynb")))
    if not lessons:
        wrong.append("no lesson stands in notebooks/")
    if wrong:
        remedy = "Get them again: `git checkout -- data notebooks`, or a new copy of the course."
        more = f", and {len(wrong) - 3} more" if len(wrong) > 3 else ""
        return Finding(FAIL, "data", "; ".join(wrong[:3]) + more, remedy)
    return Finding(OK, "data", f"{len(files)} data files and {lessons} lessons can be read")


def damage(file: Path) -> str:
    """Why a JSON or CSV file cannot be used, in words; empty where it can."""
    try:
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            json.loads(text)
            return ""
        lines = (line for line in text.splitlines() if not line.startswith("#"))
        rows = list(csv.DictReader(lines, strict=True))
    except (OSError, ValueError, csv.Error) as error:  # also what json and utf-8 raise
        return str(error)
    if not rows:
        return "no rows"
    if any(None in row or None in row.values() for row in rows):
        return "a row is cut"
    return ""


def check_disk(free: int) -> Finding:
    """Bytes of free disk where the course stands."""
    text = f"{free / GB:.1f} GB free"
    if free < DISK:
        remedy = "Delete something. Guesses and measurements cannot be kept on a full disk."
        return Finding(FAIL, "disk", f"{text}, {DISK / GB:.0f} GB needed", remedy)
    return Finding(OK, "disk", text)


def check_folder(folder: Path) -> Finding:
    """A learner's guesses and measurements can be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 1024)
    except OSError as error:
        remedy = "Name a folder of your own: SIZING_LEARNER_DIR=~/sizing jupyter lab"
        return Finding(FAIL, "your folder", f"cannot be written: {error.strerror}", remedy)
    return Finding(OK, "your folder", "guesses and measurements can be kept")


def check_memory(available: int | None) -> Finding:
    """Bytes of main memory that a kernel can have."""
    if available is None:
        return Finding(NOTE, "memory", "this system does not say how much there is")
    text = f"{available / GB:.1f} GB for kernels"
    if available < MEMORY:
        remedy = "Set SIZING_RECORDED=1 to see recordings, not to measure; close notebooks."
        return Finding(NOTE, "memory", f"{text}; measuring live takes up to 4 GB", remedy)
    return Finding(OK, "memory", text)


def available_memory() -> int | None:
    """Bytes: what the system says is available, or the container's limit where that is less."""
    found = []
    try:
        text = Path("/proc/meminfo").read_text()
        found.append(1024 * int(re.search(r"^MemAvailable:\s+(\d+) kB", text, re.MULTILINE)[1]))
    except (OSError, TypeError):
        if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
            found.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for limit in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            found.append(int(Path(limit).read_text()))
        except (OSError, ValueError):  # no such file, or "max"
            continue
    return min(found, default=None)


def check_port() -> Finding:
    """JupyterLab can listen on this machine's own address."""
    try:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
    except OSError as error:
        remedy = "A firewall or sandbox forbids it: allow 127.0.0.1."
        return Finding(FAIL, "port", f"nothing can listen on localhost: {error.strerror}", remedy)
    return Finding(OK, "port", "JupyterLab can listen on localhost")


def learner_folder() -> Path:
    """Where guesses and measurements are kept, as `sizing` decides it."""
    return Path(os.environ.get("SIZING_LEARNER_DIR") or ROOT / ".learner")


def findings() -> list[Finding]:
    """All checks of this machine, in the order in which a learner should mend them."""
    pinned = pins((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    return [
        check_python(),
        check_disk(shutil.disk_usage(ROOT).free),
        check_memory(available_memory()),
        check_data(),
        check_folder(learner_folder()),
        check_port(),
        *check_packages(pinned),
        *check_imports(),
        check_course(),
        check_kernel(),
        check_widgets(),
        check_torch(),
    ]


def report(found: list[Finding]) -> str:
    """The text of a check, to read and to send."""
    lines = [f"LLM Sizing Workbook, checked {datetime.now(timezone.utc):%Y-%m-%d %H:%M} UTC"]  # noqa: UP017
    for finding in found:
        lines.append(f"{'[' + finding.verdict + ']':7s}{finding.subject}: {finding.text}")
        if finding.remedy:
            lines.append(f"       -> {finding.remedy}")
    failed = sum(finding.verdict == FAIL for finding in found)
    if failed:
        lines.append(f"{failed} of {len(found)} failed. Mend the first, check again; or send this.")
    else:
        lines.append("Ready.")
    home = str(Path.home())
    return "\n".join(lines).replace(home, "~") if len(home) > 1 else "\n".join(lines)


def ready() -> None:
    """Print what `make check` prints; in recorded mode nothing is looked at."""
    main(["--unless-recorded"])


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--unless-recorded",
        action="store_true",
        help="look at nothing where SIZING_RECORDED=1 is set, so that lesson 00 prints the same",
    )
    recorded = os.environ.get("SIZING_RECORDED", "") not in ("", "0")
    if parser.parse_args(arguments).unless_recorded and recorded:
        print("Recorded mode: this machine was not looked at. `make check` looks.")
        return 0
    found = findings()
    print(report(found))
    return int(any(finding.verdict == FAIL for finding in found))


if __name__ == "__main__":
    sys.exit(main())
