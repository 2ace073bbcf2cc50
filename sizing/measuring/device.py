"""The device that experiments find: a CUDA GPU, or the CPU."""

from __future__ import annotations

import gc
import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

from ..hardware import gpu, gpus

_ROOT = Path(__file__).resolve().parents[2]
_NOISE = re.compile(
    r"\((R|TM)\)|@.*|\b(NVIDIA|GeForce|Tesla|GPU|CPU|Processor|\d+-Core|with Radeon Graphics)\b",
    re.IGNORECASE,
)


OWN_SHARE = 0.97  # of a GPU's memory for torch's allocator; the rest is for context and libraries


class DeviceTooSmall(MemoryError):
    """A point was not tried because its estimate exceeds the memory that is free."""


@dataclass(frozen=True)
class Device:
    """Where an experiment runs.

    Attributes:
        kind: "cuda" or "cpu", as torch names it.
        name: what the driver or the operating system calls it.
        memory: bytes of memory, the GPU's or the computer's.
        cores: multiprocessors of a GPU, logical cores of a CPU.
    """

    kind: str
    name: str
    memory: int
    cores: int

    @property
    def slug(self) -> str:
        """Short name for files: "NVIDIA H100 80GB HBM3" is ``h100-80gb-hbm3``."""
        slug = re.sub(r"[^a-z0-9]+", "-", _NOISE.sub(" ", self.name).lower()).strip("-")
        return slug if self.cuda else f"{slug or 'cpu'}-{self.cores}-core"

    @property
    def cuda(self) -> bool:
        """Whether this is a CUDA GPU."""
        return self.kind == "cuda"

    def datasheet(self, dtype: str) -> float | None:
        """The dense peak FLOP/s on this GPU's datasheet; None for a CPU or a GPU not listed."""
        name = _datasheet_name(self.slug) if self.cuda else None
        return gpu(name).peak.get(dtype) if name else None

    def synchronize(self) -> None:
        """Wait until the device has done what it was given."""
        if self.cuda:
            torch.cuda.synchronize()

    def release(self) -> None:
        """Give back all memory that nothing refers to any more."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def require(self, size: float) -> None:
        """Refuse a point that a CPU cannot hold.

        A GPU is simply tried: its allocator fails cleanly. A CPU's operating system may kill the
        process instead, so there an estimate must fit in nine tenths of the memory that is free.

        Args:
            size: estimated bytes that the point needs.

        Raises:
            DeviceTooSmall: the estimate does not fit.
        """
        free = psutil.virtual_memory().available
        if not self.cuda and size > 0.9 * free:
            raise DeviceTooSmall(
                f"not tried: estimated {size / 1e9:.2f} GB, {free / 1e9:.2f} GB of memory free"
            )


def find() -> Device:
    """The device here: the first CUDA GPU, otherwise the CPU."""
    if torch.cuda.is_available():
        found = torch.cuda.get_device_properties(0)
        # torch's allocator shall be the one that refuses: its error is the one that leaves no trace
        torch.cuda.set_per_process_memory_fraction(OWN_SHARE)
        return Device("cuda", found.name, found.total_memory, found.multi_processor_count)
    return cpu()


def cpu() -> Device:
    """The CPU here."""
    return Device("cpu", _cpu_name(), psutil.virtual_memory().total, os.cpu_count() or 1)


def provenance(device: Device, name: str, command: str) -> dict[str, str]:
    """How a recording is made: the lines above its rows.

    Args:
        name: the experiment.
        command: what a reader types to make it again.
    """
    facts = {
        "experiment": name,
        "device": device.name,
        "kind": device.kind,
        "memory": f"{device.memory} bytes",
        "cores": device.cores,
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader")
        if device.cuda
        else "none",
        "clocks": _output("nvidia-smi", "--query-gpu=clocks.sm,power.draw", "--format=csv,noheader")
        if device.cuda
        else "none",
        "cuda": torch.version.cuda or "none",
        "torch": torch.__version__,
        "transformers": version("transformers"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "threads": torch.get_num_threads(),
        "load": f"{psutil.getloadavg()[0]:.2f} before the first point",
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": _commit(),
        "command": command,
    }
    return {key: str(value) for key, value in facts.items()}


def _datasheet_name(slug: str) -> str | None:
    """The name in `hardware.gpus` of what a driver calls ``a100-80gb-pcie`` or ``h200``.

    The words agree in some order (SXM4 is SXM); or the driver names no form factor, which from the
    H100 on means SXM.
    """
    words = set(re.sub(r"\bsxm\d", "sxm", slug).split("-"))
    for name in gpus():
        if set(name.split("-")) == words:
            return name
    plain = not words & {"pcie", "nvl"} and f"{slug.split('-')[0]}-sxm"
    return plain if plain in gpus() else None


def _cpu_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        if found:
            return found.group(1).strip()
    return platform.processor() or platform.machine()


def _commit() -> str:
    """Commit of the course, with "+dirty" when the library differs from it.

    A copy without its history says so in SIZING_COMMIT.
    """
    if given := os.environ.get("SIZING_COMMIT"):
        return given
    commit = _output("git", "-C", str(_ROOT), "rev-parse", "--short=12", "HEAD")
    changes = _output(
        "git", "-C", str(_ROOT), "status", "--porcelain", "--", "sizing", "data/models"
    )
    return f"{commit}+dirty" if commit != "unknown" and changes else commit


def _output(*command: str) -> str:
    if not shutil.which(command[0]):
        return "unknown"
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return done.stdout.strip() if done.returncode == 0 else "unknown"
