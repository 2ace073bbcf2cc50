"""checkpoint: what saving costs, in bytes and seconds, and that nothing is lost.

- "save": each format, synchronous and asynchronous, from one process: bytes beside what
  `sizing.checkpoint` says, seconds that training stands still, seconds until the file is there,
  seconds to load. Files go to the system's temporary folder, and no further than its page cache.
- "reshard": saved from four processes (on GPUs: from one each), loaded into half as many; every
  number is the same.
- "resume": two processes train; one is killed in the middle of a save; two new ones go on from the
  last whole checkpoint. Losses are the same to the bit as without the accident: weights, moments,
  dropout's random state and the position in the data are all restored.
"""

from __future__ import annotations

import hashlib
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from ..architecture.model import Model
from ..measuring import checkpoints, workers
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import BYTES_MODEL, TINY_MODEL, as_run, describe, named
from ..measuring.workers import WorkerFailed, World
from ..planning.storage import FORMATS, checkpoint
from ..run import Run
from ..trace import build
from ..units import DATA
from .zero import divide, fused_adamw

STEPS, EVERY = 8, 3  # optimizer steps of "resume", and between two saves
DROPOUT = 0.1  # so that the random state matters


def grid(
    device: Device, model: str | None = None, parts: tuple = ("save", "reshard", "resume")
) -> list[Row]:
    """Formats, then the two tests of what was saved.

    Args:
        model: what "save" saves: by default pythia-410m on a GPU, a byte-level model on a CPU.
        parts: of "save", "reshard" and "resume".
    """
    name = model or ("pythia-410m" if device.cuda else BYTES_MODEL.name)
    run = Run(named(name), sequence=128, precision="fp32", optimizer="adamw-fused")
    points: list[Row] = []
    if "save" in parts:
        points += [
            {"part": "save", "format": form, "mode": mode, "ranks": 1, **describe(run)}
            for form in FORMATS
            for mode in ("synchronous", "asynchronous")
        ]
    many = workers.processes(device) // 2 * 2 if device.cuda else 4
    small = Run(TINY_MODEL, sequence=32, micro_batch=2, precision="fp32", optimizer="adamw-fused")
    points += [
        {"part": part, "format": "distributed", "mode": "synchronous", "ranks": ranks}
        | describe(small)
        for part, ranks in (("reshard", many), ("resume", 2))
        if part in parts
    ]
    return points


def measure(point: Row, device: Device) -> Row:
    """One row a point."""
    with tempfile.TemporaryDirectory() as folder:
        return _PARTS[point["part"]]({**point, "folder": folder}, device)


# --- save ----------------------------------------------------------------------------------------


def _save(point: Row, device: Device) -> Row:
    (row,) = workers.launch(save_once, point, 1, device)
    return row


def save_once(point: Row, world: World) -> Row:
    """Save the state after a step, and load it again."""
    run, folder = as_run(point), Path(point["folder"]) / "checkpoint"
    network, optimizer = _trained(run, world)
    state = checkpoints.content(checkpoints.parameters(network), optimizer, (1, run.tokens))
    pending = []
    asynchronous = point["mode"] == "asynchronous"

    def begin() -> None:
        pending.append(_BEGIN[point["format"]](state, folder, asynchronous))

    def save() -> None:
        stalls.append(world.seconds(begin, together=False))
        pending.pop()()

    stalls: list[float] = []
    seconds = world.seconds(save, together=False)
    size = sum(path.stat().st_size for path in folder.iterdir())
    device = "cuda" if world.device.cuda else "cpu"
    said = checkpoint(run, point["format"], path=str(folder), device=device)
    before = _digest(state)
    load = world.seconds(lambda: _LOAD[point["format"]](state, folder), together=False)
    return {
        "bytes": size,
        "formula_bytes": said.total,
        "container_bytes": said.container,
        "seconds": seconds,
        "stall_seconds": stalls[0],
        "load_seconds": load,
        "equal": int(_digest(state) == before),
    }


def _trained(run: Run, world: World) -> tuple[nn.Module, torch.optim.Optimizer]:
    torch.manual_seed(0)
    network = build.model(run).to(world.target)
    optimizer = fused_adamw(network)
    batch = torch.randint(run.model.vocab, (1, run.sequence)).to(world.target)
    network(input_ids=batch, labels=batch, use_cache=False).loss.backward()
    optimizer.step()
    return network, optimizer


def _to_host(state: dict) -> dict:
    """A copy in the host's memory, which training may then go on without."""
    return {
        key: _to_host(value) if isinstance(value, dict) else value.detach().cpu().clone()
        for key, value in state.items()
    }


def _begin_files(save):
    """Save now, or copy and save in a thread; returns what waits for it."""

    def begin(state: dict, folder: Path, asynchronous: bool):
        if not asynchronous:
            save(state, folder)
            return lambda: None
        thread = threading.Thread(target=save, args=(_to_host(state), folder))
        thread.start()
        return thread.join

    return begin


def _begin_distributed(state: dict, folder: Path, asynchronous: bool):
    if asynchronous:
        return dcp.async_save(state, checkpoint_id=str(folder), no_dist=True).result
    dcp.save(state, checkpoint_id=str(folder), no_dist=True)
    return lambda: None


_BEGIN = {
    "torch": _begin_files(checkpoints.save_torch),
    "safetensors": _begin_files(checkpoints.save_safetensors),
    "distributed": _begin_distributed,
}


def _load_torch(state: dict, folder: Path) -> None:
    _copy(state, torch.load(folder / "checkpoint.pt", mmap=True))


def _load_safetensors(state: dict, folder: Path) -> None:
    flat = {}
    for path in folder.iterdir():
        flat |= load_file(path)
    found: dict = {"progress": flat["progress"], "model": {}}
    for group, entries in state.items():
        if isinstance(entries, dict):
            prefix = "" if group == "model" else f"{group}."
            found[group] = {name: flat[f"{prefix}{name}"] for name in entries}
    _copy(state, found)


@torch.no_grad()
def _copy(state: dict, found: dict) -> None:
    for key, value in state.items():
        if isinstance(value, dict):
            _copy(value, found[key])
        else:
            value.copy_(found[key])


_LOAD = {
    "torch": _load_torch,
    "safetensors": _load_safetensors,
    "distributed": lambda state, folder: dcp.load(state, checkpoint_id=str(folder), no_dist=True),
}


def _whole(tensor: Tensor) -> Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def _digest(state: dict) -> str:
    """A hash of weights and optimizer state, gathered from all ranks."""
    found = hashlib.sha256()
    for group in ("model", "optimizer"):
        for name, tensor in state[group].items():
            found.update(name.encode())
            # as bytes: equal to the bit, whatever the dtype
            whole = _whole(tensor).detach().cpu().contiguous().reshape(-1)
            found.update(whole.view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


# --- Several processes ---------------------------------------------------------------------------


class _Training:
    """A model divided by FSDP2 that reads the course's text in order."""

    def __init__(self, run: Run, world: World):
        torch.manual_seed(0)
        self.run, self.world, self.step, self.position = run, world, 0, 0
        # Eager attention: a fused kernel's dropout is none of PyTorch's random state.
        model = Model({**run.model.config, "attention_dropout": DROPOUT})
        self.network = build.model(replace(run, model=model, attention="eager"))
        divide(self.network, run, 3, init_device_mesh(world.device.kind, (world.ranks,)))
        self.optimizer = fused_adamw(self.network)
        torch.manual_seed(1 + world.rank)  # each rank drops out others
        # a large enough piece of the text; its bytes fold into a small vocabulary
        text = (DATA / "text" / "shakespeare.txt").read_bytes()[:100_000]
        self.text = torch.frombuffer(bytearray(text), dtype=torch.uint8).long() % run.model.vocab

    def take(self) -> float:
        """A step on the next tokens; returns the mean loss of the ranks."""
        run, ranks = self.run, self.world.ranks
        size = run.micro_batch * run.sequence
        first = self.position + self.world.rank * size
        batch = self.text[first : first + size].view(run.micro_batch, run.sequence)
        batch = batch.to(self.world.target)
        loss = self.network(input_ids=batch, labels=batch, use_cache=False).loss
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step, self.position = self.step + 1, self.position + ranks * size
        mean = loss.detach()
        dist.all_reduce(mean)
        return mean.item() / ranks

    def state(self) -> dict:
        if not self.optimizer.state:  # AdamW makes its state in its first step
            for p in self.network.parameters():
                p.grad = torch.zeros_like(p)
            self.optimizer.step()
            self.optimizer.zero_grad()
        return checkpoints.content(
            checkpoints.parameters(self.network),
            self.optimizer,
            (self.step, self.position),
            self.world.rank,
        )

    def restore(self, path: Path) -> str:
        """Go on from a checkpoint; returns the digest of what was read."""
        state = self.state()
        self.step, self.position = checkpoints.load_distributed(state, path)
        return _digest(state)


def train_and_save(point: Row, world: World) -> Row:
    """A step, and a checkpoint of what it made."""
    training = _Training(as_run(point), world)
    training.take()
    state = training.state()
    dcp.save(state, checkpoint_id=point["path"])
    return {"digest": _digest(state)}


def load_alone(point: Row, world: World) -> Row:
    """Read a checkpoint that other ranks wrote."""
    training = _Training(as_run(point), world)
    digest = training.restore(Path(point["path"]))
    return {"digest": digest, "step": training.step, "position": training.position}


def _reshard(point: Row, device: Device) -> Row:
    path = str(Path(point["folder"]) / "step-1")
    saved = workers.launch(train_and_save, {**point, "path": path}, point["ranks"], device)
    run = as_run(point)
    size = sum(file.stat().st_size for file in Path(path).iterdir())
    said = checkpoint(
        replace(run, data=point["ranks"], zero=3),
        path=path,
        device="cuda" if device.cuda else "cpu",
    )
    loaded = workers.launch(load_alone, {**point, "path": path}, point["ranks"] // 2, device)
    digests = {row["digest"] for row in (*saved, *loaded)}
    return {
        "bytes": size,
        "formula_bytes": said.total,
        "container_bytes": said.container,
        "loaded_ranks": len(loaded),
        "equal": int(len(digests) == 1),
    }


def train_to_the_end(point: Row, world: World) -> Row:
    """All steps without an accident."""
    training = _Training(as_run(point), world)
    return {"losses": [training.take() for _ in range(STEPS)]}


def train_until_killed(point: Row, world: World) -> Row:
    """Steps and saves; the second save kills its first rank half-way."""
    training = _Training(as_run(point), world)
    while training.step < STEPS:
        training.take()
        if training.step % EVERY == 0:
            path = f"{point['folder']}/step-{training.step}"
            late = training.step > EVERY and world.rank == 0
            writer = (checkpoints.CutOff if late else dcp.FileSystemWriter)(path)
            dcp.save(training.state(), storage_writer=writer)
    return {}


def resume(point: Row, world: World) -> Row:
    """The steps after the last whole checkpoint."""
    training = _Training(as_run(point), world)
    training.restore(checkpoints.last_good(Path(point["folder"])))
    first = training.step
    return {"first": first, "losses": [training.take() for _ in range(STEPS - first)]}


def _resume(point: Row, device: Device) -> Row:
    ranks = point["ranks"]
    whole = workers.launch(train_to_the_end, point, ranks, device)
    try:
        workers.launch(train_until_killed, point, ranks, device)
        killed = 0
    except WorkerFailed as failure:
        if "SIGKILL" not in str(failure):
            raise
        killed = 1
    left = sorted(path.name for path in Path(point["folder"]).iterdir())
    again = workers.launch(resume, point, ranks, device)
    first, losses = again[0]["first"], again[0]["losses"]
    return {
        "killed": killed,
        "checkpoints_left": len(left),
        "resumed_at": first,
        "equal": int(losses == whole[0]["losses"][first:]),
        "loss": losses[-1],
    }


_PARTS = {"save": _save, "reshard": _reshard, "resume": _resume}

EXPERIMENT = Experiment("checkpoint", grid, measure, workers.find)
