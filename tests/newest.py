"""What would break with the newest torch and transformers? For a scheduled run: `make nightly`.

    python tests/newest.py

makes an environment of its own in build/newest with the newest releases (it needs a network and
some gigabytes) and runs the tests of counts, FLOPs and memory there, taking every trace. It prints
the versions and, for each group, how many tests pass; the exit code is 1 if one fails.
"""

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
MAJOR = re.compile(r"(\d+) (passed|failed|error)")


def unpinned(requirements: str) -> list[str]:
    """The direct dependencies, with the newest of those that this is about."""
    lines = [line for line in requirements.splitlines() if line and line[0] not in "#-"]
    return [line.split("==")[0] if line.split("==")[0] in NEWEST else line for line in lines]


def summary(text: str) -> str:
    """pytest's counts, in the order in which they matter."""
    found = {what: int(count) for count, what in MAJOR.findall(text.splitlines()[-1])}
    return ", ".join(f"{found.get(what, 0)} {what}" for what in ("failed", "error", "passed"))


def main() -> int:
    folder = ROOT / "build" / "newest"
    venv.create(folder, with_pip=True, clear=True)
    python = folder / "bin" / "python"
    wanted = unpinned((ROOT / "requirements.txt").read_text(encoding="utf-8"))
    subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)
    show = "import torch, transformers as t; print('torch', torch.__version__, 't', t.__version__)"
    print(subprocess.run([python, "-c", show], capture_output=True, text=True).stdout.strip())
    env = os.environ | {"SIZING_TRACES": "", "PYTHONPATH": str(ROOT)}
    worst = 0
    for name, files in GROUPS.items():
        command = [
            python,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:nbval",
            "--override-ini=addopts=",
            *files,
        ]
        done = subprocess.run([*command, *files], cwd=ROOT, env=env, capture_output=True, text=True)
        worst = max(worst, done.returncode)
        print(f"{name:10s}{summary(done.stdout)}")
        for line in done.stdout.splitlines():
            if line.startswith("FAILED"):
                print(f"  {line[7:]}")
    return int(worst != 0)


if __name__ == "__main__":
    sys.exit(main())
