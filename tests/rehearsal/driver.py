"""The null driver: compiled for the torch of this Python, and loaded into processes of it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1]


def build(folder: Path) -> Path:
    """Compile the driver for the torch of this Python: what it knows, and 0 from all else."""
    import torch  # the environment's own: here it is only asked where it is

    if not (torch.version.cuda or "").startswith("13"):
        raise SystemExit(f"torch is built for CUDA {torch.version.cuda}; the null driver is for 13")
    source = (HERE / "null_driver.c").read_text()
    known = set(re.findall(r"^[\w \*]*?\b(\w+)\(", source, re.M))
    rest = "".join(f"int {name}() {{ return 0; }}\n" for name in sorted(_needed(torch) - known))
    complete = folder / "driver.c"
    complete.write_text(source + rest)
    library = folder / "libcuda.so.1"
    options = ["-O1", "-w", "-shared", "-fPIC", "-Wl,-soname,libcuda.so.1"]
    subprocess.run(["gcc", *options, "-o", library, complete, "-ldl", "-lpthread"], check=True)
    shutil.copy(library, folder / "libnvidia-ml.so.1")
    return library


def _needed(torch) -> set[str]:
    """Names of NVIDIA's functions that torch's libraries and Triton call, or look up."""
    home, names = Path(torch.__path__[0]), set()
    for library in home.glob("lib/*.so"):
        listed = subprocess.run(
            ["nm", "-D", "--undefined-only", library], capture_output=True, text=True, check=False
        ).stdout
        names |= {line.split()[-1].split("@")[0] for line in listed.splitlines() if line.strip()}
    triton = home.parent / "triton/backends/nvidia/driver.c"
    if triton.exists():
        names |= set(re.findall(r"\bcu[A-Z]\w+", triton.read_text()))
    looked_up = re.findall(rb"\0(cu[A-Z]\w+)(?=\0)", (home / "lib/libc10_cuda.so").read_bytes())
    names |= {name.decode() for name in looked_up}
    theirs = re.compile(
        r"(__cuda\w+|cuda[A-Z]\w+|cu[A-Z]\w+|cu(blas|dnn|sparse|solver|fft|rand)\w+|nccl[A-Z]\w+)"
    )
    return {n for n in names if theirs.fullmatch(n) and not n.startswith("cupti")}


def environment(scratch: Path, devices: int) -> dict[str, str]:
    """Of a process that is to find `devices` H100s; it computes with one of the host's threads."""
    driver = scratch / "driver"
    driver.mkdir(exist_ok=True)
    library = driver / "libcuda.so.1"
    if not library.exists():
        build(driver)
    env = os.environ | {
        "LD_PRELOAD": str(library),
        "LD_LIBRARY_PATH": str(driver),
        "TRITON_LIBCUDA_PATH": str(driver),
        "TRITON_CACHE_DIR": str(scratch / "triton"),
        "TORCHINDUCTOR_CACHE_DIR": str(scratch / "inductor"),
        "TORCHINDUCTOR_COMPILE_THREADS": "1",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": f"{HERE / 'site'}:{COURSE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "SIZING_LEARNER_DIR": str(scratch / "learner"),
        "NULLCUDA_DEVICES": str(devices),
    }
    env.pop("SIZING_RECORDED", None)
    return env


def python(scratch: Path, *arguments, devices: int = 1, variables=None, **options):
    """Run this Python on the null driver, with more `variables` in its environment if given."""
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    env = environment(scratch, devices) | (variables or {})
    return subprocess.run(command, env=env, cwd=COURSE, **options)
