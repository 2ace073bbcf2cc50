"""Rehearse every CUDA line of the course on a machine without a GPU: `make rehearse`.

The real CUDA build of torch runs on a null driver (null_driver.c), a library that is loaded before
libcudart, cuBLAS, cuDNN and NCCL: it reports an H100 of 80 GB, hands out addresses as memory,
refuses what goes beyond, and launches nothing. So torch's own CUDA code decides as on a GPU:
dispatch, autocast's lists, the attention kernel, workspaces, the caching allocator with its
rounding, peaks, history and out-of-memory errors; Inductor and Triton compile.

Its limits: values are not real (all memory reads as 0), nor are times, nor what libraries allocate
behind torch (context, NCCL). A pipeline's schedule cannot be rehearsed: its ranks vote by values.
cuDNN's attention is asked for by nobody here, its workspace is 0. Nothing here was seen on a GPU.

Linux on x86-64 only, with gcc and nm. `make rehearse` makes .venv-rehearsal with the CUDA build of
the versions that requirements.txt pins: 5 GB, once. Then, in 20 to 40 minutes on two cores:

    rehearse.py attention               which kernel each kind of attention takes
    rehearse.py experiments [name ...]  every experiment's own grid, those of several processes on
                                        two GPUs; --devices 1 or 2 takes one kind alone
    rehearse.py table [--write]         the memory table, written to data/cuda_error.csv or held
                                        against its bars
"""

from __future__ import annotations

import argparse
import csv
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
COURSE = HERE.parents[1]
# What no rehearsal has: said in a row, it is no failure.
MISSING = ("DeepSpeed", "torchao", "torch.compile", "trl", "peft", "bitsandbytes", "liger-kernel")
NOT_REHEARSED = {"tensor-and-pipeline": "a pipeline's ranks vote by values"}
TWO_GPUS = ("zero", "data-parallel-scaling", "frozen-weights", "checkpoint")
OF_THE_CPU = ("tokens",)  # whatever else the machine has


class Failed(Exception):
    """Something is not as it should be on a GPU."""


# -- the null driver


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
    """Of a process that is to find `devices` H100s."""
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
        "PYTHONPATH": f"{HERE / 'site'}:{COURSE}",
        "PYTHONDONTWRITEBYTECODE": "1",
        "HF_HUB_OFFLINE": "1",
        "SIZING_LEARNER_DIR": str(scratch / "learner"),
        "NULLCUDA_DEVICES": str(devices),
    }
    env.pop("SIZING_RECORDED", None)
    return env


def python(scratch: Path, *arguments, devices: int = 1, **options):
    """Run this Python on the null driver."""
    command = [sys.executable, "-W", "ignore", *map(str, arguments)]
    return subprocess.run(command, env=environment(scratch, devices), cwd=COURSE, **options)


# -- which attention kernel

# (dtype, key/value heads of 8 query heads, width, mask): torch's choice on an H100, the course's.
FLASH, EFFICIENT, CUDNN, MATH = "flash", "efficient", "cudnn", "math"
ATTENTION = {
    ("bfloat16", 8, 64, False): (CUDNN, FLASH),
    ("bfloat16", 2, 64, False): (CUDNN, FLASH),
    ("bfloat16", 8, 256, False): (CUDNN, FLASH),
    ("bfloat16", 2, 256, False): (CUDNN, FLASH),
    ("bfloat16", 8, 64, True): (CUDNN, EFFICIENT),
    ("bfloat16", 8, 256, True): (CUDNN, EFFICIENT),
    ("bfloat16", 2, 64, True): (CUDNN, EFFICIENT),
    ("float32", 8, 64, False): (EFFICIENT, EFFICIENT),
    ("float32", 8, 256, False): (EFFICIENT, EFFICIENT),
    ("float32", 8, 256, True): (EFFICIENT, EFFICIENT),
    ("float32", 2, 64, False): (MATH, EFFICIENT),
    ("float32", 2, 256, False): (MATH, EFFICIENT),
    ("float32", 2, 64, True): (MATH, EFFICIENT),
}

_ATTENTION_CODE = """
import torch
from types import SimpleNamespace
from torch.nn.functional import scaled_dot_product_attention
from sizing.evidence.cuda import _Operators
from sizing.trace import build

def kernel(call):
    with _Operators() as seen:
        call()
    names = [name for name in seen.names if "scaled_dot_product" in name]
    return names[0].split("product_")[1].split("_")[0] if names else "math"

for key in {keys!r}:
    dtype, groups, width, masked = key
    q, k = (torch.empty(2, n, 1024, width, device="cuda", dtype=getattr(torch, dtype),
                        requires_grad=True) for n in (8, groups))
    mask = torch.ones(1, 1, 1024, 1024, dtype=torch.bool, device="cuda") if masked else None
    torchs = kernel(lambda: scaled_dot_product_attention(
        q, k, k, attn_mask=mask, is_causal=not masked, enable_gqa=groups < 8))
    module = SimpleNamespace(is_causal=True, num_key_value_groups=8 // groups)
    print(*key, torchs, kernel(lambda: build._flash(module, q, k, k, mask)))
"""


def attention(scratch: Path) -> None:
    """Which kernel torch takes, and which one the course's flash attention takes."""
    code = _ATTENTION_CODE.format(keys=list(ATTENTION))
    found = python(scratch, "-c", code, capture_output=True, text=True)
    if found.returncode:
        raise Failed(found.stderr)
    print(f"{'dtype':9} {'k/v heads of 8':>14} {'width':>5} {'mask':5}  torch alone, the course")
    for line, expected in zip(found.stdout.splitlines(), ATTENTION.items(), strict=True):
        dtype, groups, width, mask, torchs, ours = line.split()
        print(f"{dtype:9} {groups:>14} {width:>5} {mask:5}  {torchs}, {ours}")
        key, kernels = expected
        if (torchs, ours) != kernels:
            raise Failed(f"attention {key}: {torchs}, {ours}; expected: {', '.join(kernels)}")


# -- the experiments


def experiments(scratch: Path, names: list[str], devices: int | None, timeout: float) -> None:
    """Record every experiment's CUDA grid, and look at each recording as a reader would."""
    code = "from sizing.experiments import names; print(*names())"
    listed = python(scratch, "-c", code, capture_output=True, text=True, check=True).stdout.split()
    wrong = []
    for name in names or listed:
        count = 2 if name in TWO_GPUS or name in NOT_REHEARSED else 1
        if devices not in (None, count):
            continue
        if name in NOT_REHEARSED:
            print(f"{name}: not rehearsed: {NOT_REHEARSED[name]}")
            continue
        started = time.monotonic()
        out, log = scratch / f"recordings-{count}", scratch / f"{name}.log"
        command = ["-m", "sizing.experiments", "record", name, "--out", out, "--minutes", "1000"]
        with log.open("w") as file:
            done = python(
                scratch, *command, devices=count, stdout=file, stderr=file, timeout=timeout
            )
        problems = [f"exit code {done.returncode}, see {log}"] if done.returncode else []
        recordings = list(out.glob(f"*/{name}.csv"))
        for path in recordings:
            summary, odd = examine(path)
            problems += odd
            print(f"{name}: {summary}, {time.monotonic() - started:.0f} s here", flush=True)
        if not recordings:
            problems.append("nothing was recorded")
        for problem in problems:
            print(f"  ! {problem}", flush=True)
        wrong += [f"{name}: {problem}" for problem in problems]
    if wrong:
        raise Failed("\n".join(wrong))


def examine(path: Path) -> tuple[str, list[str]]:
    """What a recording holds, and what is wrong with it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    head = dict(line[2:].split(": ", 1) for line in lines if line.startswith("# "))
    rows = list(csv.DictReader(line for line in lines if not line.startswith("#")))
    wrong = []
    if head["kind"] != "cuda" and path.stem not in OF_THE_CPU:
        wrong.append("measured on the CPU although there is a GPU")
    reached, _, planned = head["points"].partition(" of ")
    if reached != planned:
        wrong.append(f"points: {head['points']}")
    counts: dict[str, int] = {}
    for row in rows:
        counts[row["status"]] = counts.get(row["status"], 0) + 1
        if row["status"] == "not available" and not row["note"].startswith(MISSING):
            wrong.append(f"not available: {row['note']}")
    wrong += _left_behind(rows)
    kinds = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"{len(rows)} rows on {head['device']}: {kinds}", wrong


# Settings that decide what is alive before a step: rows that agree in them must agree in it.
_STATE = (
    "model", "precision", "gradients", "optimizer", "accumulation", "kind", "part", "compiled",
    "micro_batch", "sequence",
)  # fmt: skip


# Blocks are up to 1 MiB larger than asked for, some of them in each point; what a point could leave
# behind, a model or its optimizer's state, is larger than that.
ROUNDING = 2**25


def _left_behind(rows: list[dict]) -> list[str]:
    """Where a step began with more than another of the same state: a point left memory behind."""
    before, wrong = {}, []
    for row in rows:
        measured = row["status"] == "ok" and row.get("transient_bytes") and "optimizer" in row
        if not measured or "resident_bytes" in row:
            continue
        key = tuple(row.get(name) for name in _STATE)
        held = int(row["peak_bytes"]) - int(row["transient_bytes"])
        if abs(held - before.setdefault(key, held)) > ROUNDING:
            wrong.append(f"{(held - before[key]) / 2**20:+.0f} MiB left before {key}")
    return wrong


# -- the memory table

# Bars, as relative errors of the formula beside what tensors asked the allocator for.
MEAN, MEAN_OF_BF16, WORST = 0.005, 0.002, 0.03


def table(scratch: Path, write: bool, runs: str | None) -> None:
    """Make the table anew and hold its errors against the bars."""
    path = COURSE / "data/cuda_error.csv" if write else scratch / "cuda_error.csv"
    code = "import sys; from pathlib import Path; from sizing.evidence import cuda, __main__ as m; "
    code += f"from sizing import Run; runs = {runs}; "
    code += "cuda.record(Path(sys.argv[1]), runs, m._report_cuda); "
    code += "rows = cuda.load(Path(sys.argv[1])); print(cuda.text(rows)); "
    code += "e = [(abs(cuda.error(r)), r['precision']) for r in rows]; "
    code += "print(*(f'{x} {p}' for x, p in e), sep='\\n', file=open(sys.argv[2], 'w'))"
    errors = scratch / "errors.txt"
    if python(scratch, "-c", code, path, errors).returncode:
        raise Failed("the table could not be made")
    found = [line.split() for line in errors.read_text().splitlines()]
    sizes = [float(size) for size, _ in found]
    bf16 = [float(size) for size, precision in found if precision.startswith("bf16")]
    if sum(sizes) / len(sizes) > MEAN or max(sizes) > WORST:
        raise Failed(f"mean {sum(sizes) / len(sizes):.4%}, worst {max(sizes):.4%}")
    if bf16 and sum(bf16) / len(bf16) > MEAN_OF_BF16:
        raise Failed(f"bf16 recipes: mean {sum(bf16) / len(bf16):.4%}")


def main() -> int:
    """Run the command line; without a command, everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", nargs="?", choices=("attention", "experiments", "table", "all"))
    parser.add_argument("names", nargs="*", help="of experiments")
    parser.add_argument("--devices", type=int, choices=(1, 2), help="experiments of so many GPUs")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of an experiment")
    parser.add_argument("--write", action="store_true", help="the table to data/cuda_error.csv")
    parser.add_argument("--runs", help="other runs: \"[Run('gpt2', sequence=512), ...]\"")
    parser.add_argument("--scratch", type=Path, help="folder for recordings and logs")
    options = parser.parse_args()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SystemExit("a rehearsal needs Linux on x86-64")
    scratch = (options.scratch or Path(tempfile.mkdtemp(prefix="rehearsal-"))).resolve()
    scratch.mkdir(parents=True, exist_ok=True)
    what, failed = options.what or "all", []
    parts = {
        "attention": lambda: attention(scratch),
        "table": lambda: table(scratch, options.write, options.runs),
        "experiments": lambda: experiments(
            scratch, options.names, options.devices, options.timeout
        ),
    }
    for name, rehearse in parts.items():
        if what in (name, "all"):
            try:
                rehearse()
            except Failed as reason:
                failed.append(f"{name}: {reason}")
    print("\n".join(failed) or "rehearsed: all as on a GPU", f"(logs: {scratch})")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
