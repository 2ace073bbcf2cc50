"""Rehearse every CUDA line of the course on a machine without a GPU: `make rehearse`.

The real CUDA build of torch runs on a null driver (null_driver.c), a library that is loaded before
libcudart, cuBLAS, cuDNN and NCCL: it reports an H100 of 80 GB, hands out addresses as memory,
refuses what goes beyond, and launches nothing. So torch's own CUDA code decides as on a GPU:
dispatch, autocast's lists, the attention kernel, workspaces, the caching allocator with its
rounding, peaks, history and out-of-memory errors; Inductor and Triton compile.

Its limits: values are not real (all memory reads as 0), nor are times, nor what libraries allocate
behind torch (context, NCCL). Ranks exchange no values, so losses and gradients of several of them
compare nothing. cuDNN's attention is asked for by nobody here, its workspace is 0. Two experiments
take a smaller model than on a GPU (SMALLER). Nothing here was seen on a GPU.

Linux on x86-64 only, with gcc and nm. `make rehearse` makes .venv-rehearsal with the CUDA build of
the versions that requirements.txt pins: 5 GB, once. `make rehearse TORCH=2.11.0` makes another with
that torch, and takes a share of the table. Then, in one to two hours on one core:

    rehearse.py attention               which kernel each kind of attention takes
    rehearse.py experiments [name ...]  every experiment's own grid, those of several processes on
                                        two GPUs
    rehearse.py table [--write]         the memory table, held against its bars, and written to
                                        data/cuda_error.csv
    rehearse.py fits [--write]          what fits and what does not, written to data/cuda_fits.csv

Without a word it does all of them, one after the other. It can be stopped and called again: what
was rehearsed of these sources is kept in build/rehearsal/ and not done twice, unless --again.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from subprocess import TimeoutExpired

from driver import COURSE, HERE, python

# What no rehearsal has: said in a row, it is no failure.
MISSING = ("DeepSpeed", "torchao", "torch.compile", "trl", "peft", "bitsandbytes", "liger-kernel")
TWO_GPUS = ("zero", "data-parallel-scaling", "tensor-and-pipeline", "frozen-weights", "checkpoint")
OF_THE_CPU = ("tokens",)  # whatever else the machine has
# Options of a grid that would otherwise move gigabytes of zeros through the host: a checkpoint once
# per format, weights of the CPU and gradients compared there once per rank.
SMALLER = {"checkpoint": {"model": "pythia-70m"}, "tensor-and-pipeline": {"model": "byte-llama"}}


class Failed(Exception):
    """Something is not as it should be on a GPU."""


def scratch_folder() -> Path:
    """Of this torch and these sources: what it holds was rehearsed with both."""
    digest = hashlib.sha256()
    for folder, kind in ((COURSE / "sizing", "*.py"), (HERE, "*.py"), (HERE, "*.c")):
        for path in sorted(folder.rglob(kind)):
            digest.update(path.read_bytes())
    name = f"torch-{version('torch')}-{digest.hexdigest()[:8]}"
    return COURSE / "build/rehearsal" / name


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

# As `python -m sizing.experiments record` does it, with options of the grid.
_RECORD_SMALLER = """
from pathlib import Path
from sizing.experiments import experiment
from sizing.measuring.protocol import measure
chosen = experiment({name!r})
device = chosen.find()
points = chosen.points(device, **{options!r})
path = Path({out!r}) / device.slug / "{name}.csv"
measure(chosen, device, points, path, "a rehearsal", progress=False)
"""


def experiments(scratch: Path, names: list[str], timeout: float) -> None:
    """Record every experiment's CUDA grid, and look at each recording as a reader would."""
    code = "from sizing.experiments import names; print(*names())"
    listed = python(scratch, "-c", code, capture_output=True, text=True, check=True).stdout.split()
    wrong = []
    for name in names or listed:
        marker = scratch / "done" / name
        if marker.exists():
            print(f"{marker.read_text()} (before)", flush=True)
            continue
        summary, problems = _record(scratch, name, timeout)
        print("\n  ! ".join([summary, *problems]), flush=True)
        if not problems:
            marker.parent.mkdir(exist_ok=True)
            marker.write_text(summary)
        wrong += [f"{name}: {problem}" for problem in problems]
    if wrong:
        raise Failed("\n".join(wrong))


def _record(scratch: Path, name: str, timeout: float) -> tuple[str, list[str]]:
    """A line on one experiment's recording, and what is wrong with it."""
    devices = 2 if name in TWO_GPUS else 1
    out, log = scratch / f"recordings-{devices}", scratch / f"{name}.log"
    for path in out.glob(f"*/{name}.csv"):
        path.unlink()
    if name in SMALLER:
        settings = {"name": name, "options": SMALLER[name], "out": str(out)}
        command = ["-c", _RECORD_SMALLER.format(**settings)]
    else:
        command = ["-m", "sizing.experiments", "record", name, "--out", out, "--minutes", "1000"]
    started, problems = time.monotonic(), []
    with log.open("w") as file:
        options = {"stdout": file, "stderr": file, "timeout": timeout}
        try:
            done = python(scratch, *command, devices=devices, **options)
        except TimeoutExpired:
            problems.append(f"not done after {timeout:.0f} s")
        else:
            problems += [f"exit code {done.returncode}, see {log}"] if done.returncode else []
    found = [examine(path) for path in out.glob(f"*/{name}.csv")]
    problems += [problem for _, odd in found for problem in odd] if found else ["no recording"]
    seconds = time.monotonic() - started
    held = "; ".join(summary for summary, _ in found)
    return f"{name}: {held}, {seconds:.0f} s here", problems


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
        known = row["note"].startswith(MISSING) or row["note"].endswith("is not installed")
        if row["status"] == "not available" and not known:
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

_TABLE = """
import sys
from pathlib import Path
from sizing import Run
from sizing.run import Lora
from sizing.evidence import cuda, __main__ as printed
runs = {runs} or cuda.grid()[::{every}]
cuda.record(Path(sys.argv[1]), runs, printed._report_cuda)
"""


def table(scratch: Path, write: bool, runs: str | None, every: int) -> None:
    """Make the table anew, hold its errors against the bars and its bytes against the committed."""
    path = scratch / "cuda_error.csv"
    if python(scratch, "-c", _TABLE.format(runs=runs, every=every), path).returncode:
        raise Failed("the table could not be made")
    from sizing.evidence import cuda

    rows, here = cuda.load(path), cuda.load()
    print(cuda.text(rows))
    if write:
        cuda.merge(rows)
    if not write and (wrong := cuda.differences(rows, here)):
        raise Failed("\n".join(wrong))
    judged(rows)


def judged(rows: list[dict]) -> None:
    """Hold the errors of a table against the bars."""
    from sizing.evidence import cuda

    sizes = [abs(cuda.error(row)) for row in rows]
    bf16 = [abs(cuda.error(row)) for row in rows if row["precision"].startswith("bf16")]
    wrong = []
    if sum(sizes) / len(sizes) > MEAN or max(sizes) > WORST:
        wrong.append(f"mean {sum(sizes) / len(sizes):.4%}, worst {max(sizes):.4%}")
    if bf16 and sum(bf16) / len(bf16) > MEAN_OF_BF16:
        wrong.append(f"bf16 recipes: mean {sum(bf16) / len(bf16):.4%}")
    if wrong:
        raise Failed("\n".join(wrong))


# -- what fits

_FITS = """
import sys
from pathlib import Path
from sizing.evidence import fits
fits.record(Path(sys.argv[1]))
"""


def fits(scratch: Path, write: bool) -> None:
    """Take the largest step that is said to fit, and one that is not, on the full device."""
    path = scratch / "cuda_fits.csv"
    for allocator in ("", "expandable_segments:True"):
        variables = {"PYTORCH_ALLOC_CONF": allocator}
        if python(scratch, "-c", _FITS, path, variables=variables).returncode:
            raise Failed("what fits could not be tried")
    from sizing.evidence import fits as evidence

    rows = evidence.load(path)
    print(evidence.text(rows))
    if write:
        shutil.copy(path, evidence.PATH)
    if wrong := evidence.wrong(rows):
        raise Failed("\n".join(wrong))


def main() -> int:
    """Run the command line; without a command, everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    every = ("attention", "experiments", "table", "fits")
    parser.add_argument("what", nargs="?", choices=(*every, "all"), default="all")
    parser.add_argument("names", nargs="*", help="of experiments")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds of an experiment")
    parser.add_argument("--write", action="store_true", help="a table to data/")
    parser.add_argument("--runs", help="other runs: \"[Run('gpt2', sequence=512), ...]\"")
    parser.add_argument(
        "--every", type=int, default=1, help="row of the table, as 4: a share of it"
    )
    parser.add_argument("--again", action="store_true", help="forget what was rehearsed before")
    parser.add_argument("--scratch", type=Path, help="folder for recordings and logs")
    options = parser.parse_args()
    if (platform.system(), platform.machine()) != ("Linux", "x86_64"):
        raise SystemExit("a rehearsal needs Linux on x86-64")
    scratch = (options.scratch or scratch_folder()).resolve()
    if options.again:
        shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(COURSE))
    parts = {
        "attention": lambda: attention(scratch),
        "experiments": lambda: experiments(scratch, options.names, options.timeout),
        "table": lambda: table(scratch, options.write, options.runs, options.every),
        "fits": lambda: fits(scratch, options.write),
    }
    failed = []
    for name in every if options.what == "all" else [options.what]:
        try:
            parts[name]()
        except Failed as reason:
            failed.append(f"{name}: {reason}")
    print("\n".join(failed) or "rehearsed: all as on a GPU", f"(logs: {scratch})")
    return bool(failed)


if __name__ == "__main__":
    sys.exit(main())
