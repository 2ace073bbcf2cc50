"""The course installed as its README says, each way in a new clone and a new environment.

    python tests/install.py                 all ways: `make install-test`
    python tests/install.py pip colab       some

takes the commands from the README, the Dockerfile, binder/ and .devcontainer/ and runs them on
this machine (it needs a network and, each way, two gigabytes and some minutes). Then lesson 01 has
to run in that environment, and JupyterLab has to answer on this machine alone. Where torch comes
from can be said as everywhere: TORCH_FROM="--find-links wheels"; empty for PyPI.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LESSON = "01-counting-parameters.ipynb"
OPENS = "sizing.course.lab"  # the command that does not end
IMAGE = "/opt/course"  # where the Dockerfile has the course
# Steps of the image that change the machine, not the environment.
MACHINE = ("apt-get", "useradd")


def blocks(language: str) -> list[str]:
    """The README's blocks of code in this language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), re.S)


def steps(way: str) -> list[str]:
    """The commands of one way, in their order; the last one may open JupyterLab."""
    if way in ("pip", "uv"):
        begins = {"pip": "python3 -m venv", "uv": "uv venv"}[way]
        (block,) = [block for block in blocks("sh") if block.startswith(begins)]
        return block.strip().splitlines()
    if way == "docker":
        return [words for kind, words in instructions() if kind == "RUN"]
    if way == "binder":
        return ["binder/postBuild"]
    if way == "devcontainer":
        told = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
        return [told["onCreateCommand"], told["postCreateCommand"]]
    (block,) = [block for block in blocks("python") if "git clone" in block]
    return block.strip().splitlines()


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile as (instruction, words), lines that go on joined, comments left out."""
    text = (ROOT / "Dockerfile").read_text()
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines()
    return [(line.split(maxsplit=1)[0], line.split(maxsplit=1)[1]) for line in joined]


def clone(folder: Path) -> Path:
    """The course as it is committed, without anything that was built."""
    command = ["git", "-c", f"safe.directory={ROOT}", "clone", "--quiet", ROOT, folder]
    subprocess.run(command, check=True)
    return folder


def new_environment(folder: Path, uv: bool) -> dict[str, str]:
    """A shell's environment in which `python` and `pip` are those of a new virtual environment.

    uv is installed beside it where the machine has none.
    """
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    env["PATH"] = f"{folder / 'bin'}{os.pathsep}{env['PATH']}"
    env["SIZING_RECORDED"] = "1"
    env.setdefault("TORCH_FROM", "")
    if uv and not shutil.which("uv"):
        subprocess.run([folder / "bin/pip", "install", "--quiet", "uv"], check=True)
    return env


def shell(command: str, course: Path, env: dict[str, str]) -> None:
    """Run a command as a person would; RuntimeError with the end of what it says if it fails."""
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", command],
        cwd=course,
        env=env,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{command}\n{(done.stdout + done.stderr)[-2000:]}")


def colab(cells: list[str], folder: Path, python: str, env: dict[str, str]) -> None:
    """The README's first cell, then the lesson's cells, in one kernel in an empty folder."""
    first = "\n".join(cells).replace("COURSE", shlex.quote(str(ROOT)))
    lesson = f"json.load(open({str(ROOT / 'notebooks' / LESSON)!r}))['cells']"
    code = (
        "import json, nbformat as n, nbclient as c\n"
        f"cells = [n.v4.new_code_cell({first!r})]\n"
        f"cells += [n.v4.new_code_cell(''.join(x['source'])) for x in {lesson}\n"
        "          if x['cell_type'] == 'code']\n"
        "c.NotebookClient(n.v4.new_notebook(cells=cells), timeout=600,"
        f" resources={{'metadata': {{'path': {str(folder)!r}}}}}).execute()\n"
    )
    done = subprocess.run([python, "-c", code], cwd=folder, env=env, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])


def lesson_runs(python: str, course: Path, env: dict[str, str]) -> None:
    """RuntimeError unless every cell of the lesson runs in the learner's copy."""
    name = shlex.quote(f"work/notebooks/{LESSON}")
    shell(f"test -e {name} && {python} -m nbclient.cli {name}", course, env)


def answers(command: str, course: Path, env: dict[str, str], seconds: float = 120) -> None:
    """RuntimeError unless the command opens a JupyterLab that answers on this machine alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    root = " --allow-root" if os.geteuid() == 0 else ""
    options = f"{command} --no-browser --port={port}{root} --IdentityProvider.token=t"
    server = subprocess.Popen(
        ["bash", "-c", f"exec {options}"],
        cwd=course,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end and server.poll() is None:
            try:
                page = urllib.request.urlopen(f"http://127.0.0.1:{port}/lab?token=t", timeout=30)
                if b"JupyterLab" in page.read():
                    return
            except OSError:
                time.sleep(0.5)
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
        raise RuntimeError(f"{options} does not answer:\n{server.stdout.read()[-2000:]}")
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGTERM)
            server.wait(30)


def take(way: str, folder: Path) -> None:
    """Go one way from a new clone to a lesson that runs. RuntimeError where it ends."""
    todo = steps(way)
    env = new_environment(folder / "env", uv=way == "uv")
    if way == "colab":  # what Colab has already, in the versions of requirements.txt
        shell(
            "python -m pip install --quiet -r requirements.txt", clone(folder / "requirements"), env
        )
        colab(todo, folder, str(folder / "env/bin/python"), env)
        return
    course = clone(folder / "course")
    for step in todo:
        if step.startswith(MACHINE) or OPENS in step:
            continue
        words = step.replace(IMAGE, str(course))
        words = re.sub(r"TORCH_FROM='[^']*'", f"TORCH_FROM='{env['TORCH_FROM']}'", words)
        shell(words, course, env)
    inside = "python" if way in ("docker", "binder") else ".venv/bin/python"
    opens = next((step for step in todo if OPENS in step), f"{inside} -m {OPENS}")
    answers(opens, course, env)  # it makes the copies, where nothing did before
    lesson_runs(inside, course, env)


WAYS = ("pip", "uv", "colab", "docker", "binder", "devcontainer")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("ways", nargs="*", metavar="WAY", help=", ".join(WAYS))
    chosen = parser.parse_args().ways or WAYS
    if unknown := set(chosen) - set(WAYS):
        parser.error(f"{', '.join(unknown)}: no such way; allowed: {', '.join(WAYS)}")
    bad = 0
    for way in chosen:
        started = time.monotonic()
        with tempfile.TemporaryDirectory(prefix=f"install-{way}-") as folder:
            try:
                take(way, Path(folder))
                verdict, why = "[OK]", ""
            except (RuntimeError, subprocess.CalledProcessError) as error:
                verdict, why, bad = "[FAIL]", f"\n{error}", bad + 1
        print(f"{verdict:7s}{way:14s}{time.monotonic() - started:6.0f} s{why}", flush=True)
    return int(bad > 0)


if __name__ == "__main__":
    sys.exit(main())
