"""What breaks with the newest, or the oldest supported, torch and transformers? `make nightly`.

    python tests/newest.py                     the newest releases of both
    python tests/newest.py --oldest            the oldest that the course supports (OLDEST below)
    python tests/newest.py torch==2.14.1       any other pair, by hand

makes an environment of its own (it needs a network and some gigabytes; --folder says where) and
runs the tests of counts, FLOPs and memory there, taking every trace. It prints the versions and,
for each group, how many tests pass and which fail; the exit code is 1 if one fails.
"""

import argparse
import os
import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
GROUPS = {
    "counts": ["tests/test_model.py"],
    "FLOPs": ["tests/test_flops.py"],
    "memory": ["tests/test_memory.py", "tests/test_trace.py"],
    "families": ["tests/test_architectures.py"],
}
NEWEST = ("torch", "transformers")
OLDEST = ("torch==2.11.0", "transformers==5.20.0")
COUNTED = re.compile(r"(\d+) (failed|error|passed|skipped)")
SHOW = "import torch, transformers as t; print('torch', torch.__version__, 't', t.__version__)"


def name(requirement: str) -> str:
    """The package that a line of requirements is about."""
    return re.split("[=<>!~ ]", requirement)[0]


def replaced(requirements: str, wanted: tuple[str, ...]) -> list[str]:
    """The direct dependencies, those of `wanted` in its versions; a bare name is the newest."""
    lines = [line for line in requirements.splitlines() if line and line[0] not in "#-"]
    new = {name(requirement): requirement for requirement in wanted}
    return [new.get(name(line), line) for line in lines]


def summary(text: str) -> str:
    """pytest's counts, in the order in which they matter."""
    lines = text.strip().splitlines() or [""]
    found = {what: int(count) for count, what in COUNTED.findall(lines[-1])}
    return ", ".join(f"{found.get(what, 0)} {what}" for what in ("failed", "error", "passed"))


def environment(folder: Path, wanted: tuple[str, ...]) -> Path:
    """A new virtual environment with these versions; its Python."""
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    lines = replaced((ROOT / "requirements.txt").read_text(encoding="utf-8"), wanted)
    subprocess.run([python, "-m", "pip", "install", "--quiet", *lines], check=True)
    return python


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("wanted", nargs="*", metavar="PACKAGE", help="such as torch==2.14.1")
    parser.add_argument("--oldest", action="store_true", help=" ".join(OLDEST))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "versions")
    parser.add_argument("--groups", nargs="*", default=list(GROUPS), choices=GROUPS)
    options = parser.parse_args()
    wanted = tuple(options.wanted) or (OLDEST if options.oldest else NEWEST)
    python = environment(options.folder, wanted)
    print(subprocess.run([python, "-c", SHOW], capture_output=True, text=True).stdout.strip())
    env = os.environ | {"SIZING_TRACES": "", "SIZING_RECORDED": "1", "PYTHONPATH": str(ROOT)}
    command = [python, "-m", "pytest", "-q", "-p", "no:nbval", "--override-ini=addopts="]
    worst = 0
    for group in options.groups:
        done = subprocess.run(
            [*command, *GROUPS[group]], cwd=ROOT, env=env, capture_output=True, text=True
        )
        worst = max(worst, done.returncode)
        print(f"{group:10s}{summary(done.stdout)}", flush=True)
        for line in done.stdout.splitlines():
            if line.startswith(("FAILED", "ERROR")):
                print(f"  {line}")
    return int(worst != 0)


if __name__ == "__main__":
    sys.exit(main())
