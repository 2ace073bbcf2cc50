"""Several processes that work together: started here, or found where torchrun has started them.

An experiment hands `launch` a function, a point and a number of ranks; every rank calls the
function with the point and its `World`. On its own the experiment starts the ranks itself, one a
GPU over NCCL, or on a CPU over gloo. Under torchrun, on any number of nodes,

    torchrun --nproc-per-node 8 -m sizing.experiments record zero

the processes are there already: each walks the same grid and the first one writes. A rank that dies
is reported with its number and its error, and the others are stopped.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

import torch
import torch.distributed as dist

from . import device as devices
from .device import Device
from .protocol import Row, Unavailable, is_out_of_memory

PATIENCE = 120.0  # seconds that a collective, or the start of a world, may take


class WorkerFailed(Exception):
    """A rank raised an error or was killed; the message names the rank and what it said."""


class WorkerOutOfMemory(WorkerFailed, MemoryError):
    """A rank ran out of memory."""


@dataclass(frozen=True)
class World:
    """What a rank knows.

    Attributes:
        rank: its number, from 0.
        ranks: how many there are. With more than one, torch's default process group joins them.
        device: what each works on.
    """

    rank: int
    ranks: int
    device: Device

    @property
    def target(self) -> str:
        """The rank's own device as torch names it."""
        return f"cuda:{torch.cuda.current_device()}" if self.device.cuda else "cpu"

    def seconds(self, call: Callable[[], object], together: bool = True) -> float:
        """Seconds of a call on this rank, which all ranks begin at the same time if `together`."""
        if together and self.ranks > 1:
            dist.barrier()
        self.device.synchronize()
        start = time.perf_counter()
        call()
        self.device.synchronize()
        return time.perf_counter() - start


Work = Callable[[Row, World], Row]


def torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_torchelastic_launched()


def find() -> Device:
    """The device of several processes: a GPU where each has its own, otherwise the CPU."""
    here = int(os.environ["LOCAL_WORLD_SIZE"]) if torchrun() else 2
    return devices.find() if torch.cuda.device_count() >= here else devices.cpu()


def processes(device: Device) -> int:
    """Ranks for a grid: torchrun's, else one for each GPU here, but at least two."""
    if torchrun():
        return int(os.environ["WORLD_SIZE"])
    return max(2, torch.cuda.device_count() if device.cuda else 2)


def launch(work: Work, point: Row, ranks: int, device: Device, patience: float = 600) -> list[Row]:
    """Call a function in every rank of a world and return what each returned, in order.

    Args:
        work: a function of a module, so that a process can import it; its row must be JSON.
        ranks: how many processes.
        patience: seconds after which all are stopped.

    Raises:
        WorkerOutOfMemory: a rank had not enough memory.
        WorkerFailed: a rank raised anything else, was killed, or took longer than `patience`.
        Unavailable: torchrun started another number of processes than the point needs.
    """
    if torchrun():
        return _join(work, point, ranks, device)
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder)
        context = multiprocessing.get_context(_start_method(device))
        workers = [
            context.Process(
                target=_worker, args=(rank, work, point, ranks, device, files), daemon=True
            )
            for rank in range(ranks)
        ]
        try:
            for worker in workers:
                worker.start()
            _wait(workers, files, patience)
        finally:
            for worker in workers:
                worker.kill()
                worker.join()
        return [json.loads((files / f"{rank}.json").read_text()) for rank in range(ranks)]


def _start_method(device: Device) -> str:
    """Fork from a server that has imported torch once; CUDA does not survive a fork."""
    if device.cuda or "forkserver" not in multiprocessing.get_all_start_methods():
        return "spawn"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "transformers.models.llama.modeling_llama"])
    return "forkserver"


def _wait(workers: list[BaseProcess], files: Path, patience: float) -> None:
    """Return when all have ended well; raise what the first failure was as soon as one fails."""
    end = time.monotonic() + patience
    running = {worker.sentinel: worker for worker in workers}
    while running:
        ended = wait(list(running), timeout=max(0.0, end - time.monotonic()))
        if not ended:
            raise WorkerFailed(f"{len(running)} of {len(workers)} ranks ran past {patience:.0f} s")
        for sentinel in ended:
            running.pop(sentinel).join()
        codes = {rank: w.exitcode for rank, w in enumerate(workers) if w.sentinel not in running}
        if any(codes.values()):
            raise _failure(codes, len(workers), files)


def _failure(codes: dict[int, int], ranks: int, files: Path) -> WorkerFailed:
    """What brought the others down: a signal, or the earliest error."""
    for rank, code in codes.items():
        if code < 0:
            name = signal.Signals(-code).name
            return WorkerFailed(f"rank {rank} of {ranks}: killed by {name}")
    failures = {int(f.stem): json.loads(f.read_text()) for f in files.glob("*.failure")}
    if not failures:
        return WorkerFailed(
            f"{len(codes)} of {ranks} ranks ended before they could work (exit code "
            f"{max(codes.values())}); a script that starts processes must do it under "
            "if __name__ == '__main__', and its functions must be importable"
        )
    rank = min(failures, key=lambda rank: failures[rank]["time"])
    failure = failures[rank]
    kind = WorkerOutOfMemory if failure["out_of_memory"] else WorkerFailed
    return kind(f"rank {rank} of {ranks}: {failure['error']}\n\n{failure['traceback']}")


def _worker(rank: int, work: Work, point: Row, ranks: int, device: Device, files: Path) -> None:
    _redirect(files / f"{rank}.log")
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        with _world(rank, ranks, device, files) as world:
            row = work(point, world)
        (files / f"{rank}.json").write_text(json.dumps(row))
    except BaseException as error:
        failure = {
            "time": time.time(),
            "error": f"{type(error).__name__}: {error}",
            "traceback": traceback.format_exc(),
            "out_of_memory": is_out_of_memory(error),
        }
        (files / f"{rank}.failure").write_text(json.dumps(failure))
        sys.exit(1)


def _end_with_parent() -> None:
    """Leave when the process that started this rank is gone: nobody waits for its row any more."""
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _redirect(log: Path) -> None:
    """Send this process's output to a file: engines are talkative, and a notebook is not a log."""
    with log.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


@contextmanager
def _world(rank: int, ranks: int, device: Device, files: Path) -> Iterator[World]:
    """The process group of ranks on this machine, which meet through a file."""
    # DeepSpeed reads torchrun's variables, and its own for the kind of device.
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(ranks),
        "LOCAL_WORLD_SIZE": str(ranks),
        "DS_ACCELERATOR": device.kind,
    }
    if sys.platform == "linux":  # gloo otherwise looks the host's name up, in vain without network
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    _claim(rank, ranks, device)
    _meet(device, init_method=f"file://{files}/store", rank=rank, world_size=ranks)
    yield World(rank, ranks, device)
    dist.destroy_process_group()


def _claim(local_rank: int, local_ranks: int, device: Device) -> None:
    """Take this rank's share of the machine."""
    if device.cuda:
        torch.cuda.set_device(local_rank)
    else:
        torch.set_num_threads(max(1, device.cores // local_ranks))


def _meet(device: Device, **where) -> None:
    backend = "nccl" if device.cuda else "gloo"
    if device.cuda:  # binds the communicator to this rank's GPU
        where["device_id"] = torch.device("cuda", torch.cuda.current_device())
    dist.init_process_group(backend, timeout=timedelta(seconds=PATIENCE), **where)


def _join(work: Work, point: Row, ranks: int, device: Device) -> list[Row]:
    """Do this process's share under torchrun; any error ends it, so that torchrun ends the rest."""
    started = int(os.environ["WORLD_SIZE"])
    if ranks not in (1, started):
        raise Unavailable(f"needs {ranks} processes, torchrun started {started}")
    if not dist.is_initialized():
        os.environ["DS_ACCELERATOR"] = device.kind
        _claim(int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"]), device)
        _meet(device)
    rank = dist.get_rank()
    try:
        row = work(point, World(rank if ranks > 1 else 0, ranks, device))
    except Exception as error:
        raise WorkerFailed(f"rank {rank} of {started}: {type(error).__name__}: {error}") from error
    rows = [None] * started
    dist.all_gather_object(rows, row)
    return rows[:ranks]


def leave() -> None:
    """Leave the world that torchrun started, if this process joined it."""
    if torchrun() and dist.is_initialized():
        dist.destroy_process_group()
