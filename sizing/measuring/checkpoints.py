"""Real checkpoints in the layout that `sizing.checkpoint` sizes: the state of a step, saved."""

from __future__ import annotations

import os
import signal
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import Tensor, nn

from ..trace.optimizers import MasterWeights


def content(
    named: dict[str, Tensor], optimizer, progress: tuple[int, int] = (0, 0), rank: int = 0
) -> dict:
    """The checkpoint of a model and its optimizer as nested dictionaries, names in order.

    Args:
        named: the model's parameters by name, each once.
        optimizer: torch's, or one of `sizing.trace.optimizers`, after its first step.
        progress: optimizer steps taken, and the position in the data.
        rank: of this process.
    """
    found: dict = {}
    inner, keyed = optimizer, dict(named)
    if isinstance(optimizer, MasterWeights):
        inner = optimizer.inner
        pairs = zip(optimizer.weights, optimizer.masters, strict=True)
        masters = {id(weight): master for weight, master in pairs}
        keyed = {name: masters[id(weight)] for name, weight in named.items()}
        found["master"] = {name: master.detach() for name, master in sorted(keyed.items())}
    found["model"] = {name: weight.detach() for name, weight in sorted(named.items())}
    states = {}
    for name, parameter in keyed.items():
        for slot, value in inner.state.get(parameter, {}).items():
            states |= _slots(f"{name}.{slot}", value)
    if states:
        found["optimizer"] = dict(sorted(states.items()))
    found["progress"] = torch.tensor(progress)
    generators = {f"cpu.{rank}": torch.get_rng_state()}
    if next(iter(named.values())).is_cuda:
        generators[f"cuda.{rank}"] = torch.cuda.get_rng_state()
    found["rng"] = generators
    return found


def _slots(name: str, value) -> dict[str, Tensor]:
    """The tensors of a state: of a quantised one its parts, of a projector its matrix alone."""
    if hasattr(value, "tensor_attrs"):  # torchao's
        return {f"{name}.{part}": getattr(value, part) for part in value.tensor_attrs}
    if hasattr(value, "ortho_matrix"):  # galore_torch's, a view of a larger factor
        return {name: value.ortho_matrix.clone(memory_format=torch.contiguous_format)}
    if isinstance(value, Tensor):
        return {name: value}
    if isinstance(value, (list, tuple)):
        return {f"{name}.{number}": part for number, part in enumerate(value)}
    if value is None:
        return {}
    return {name: torch.tensor(int(value) if isinstance(value, bool) else value)}


def save_torch(saved: dict, folder: Path, stem: str = "checkpoint") -> None:
    """One file of torch.save."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(saved, folder / f"{stem}.pt")


def save_safetensors(saved: dict, folder: Path) -> None:
    """Three files: weights, optimizer and masters, the rest."""
    folder.mkdir(parents=True, exist_ok=True)
    rest = {f"rng.{name}": value for name, value in saved["rng"].items()}
    groups = {
        "model": saved["model"],
        "optimizer": {
            f"{part}.{name}": value
            for part in ("master", "optimizer")
            for name, value in saved.get(part, {}).items()
        },
        "state": {**rest, "progress": saved["progress"]},
    }
    for name, tensors in groups.items():
        if tensors:
            whole = {key: value.contiguous() for key, value in tensors.items()}
            save_file(whole, folder / f"{name}.safetensors", {"format": "pt"})


def parameters(network: nn.Module) -> dict[str, Tensor]:
    """The parameters of a model by name, a tied one once."""
    return dict(network.named_parameters())


# --- Loading, and what is left when a save is cut off --------------------------------------------


def load_distributed(saved: dict, path: Path) -> tuple[int, int]:
    """Read a distributed checkpoint into tensors made by `content`; returns the progress.

    The ranks may be others than those that saved. This rank's random generators are set to what
    the rank of the same number had.
    """
    dcp.load(saved, checkpoint_id=str(path))
    for name, state in saved["rng"].items():
        if name.startswith("cuda"):
            torch.cuda.set_rng_state(state)
        else:
            torch.set_rng_state(state)
    step, position = saved["progress"].tolist()
    return step, position


def last_good(folder: Path) -> Path | None:
    """The newest checkpoint in a folder that is whole: `.metadata` is written after all else.

    Checkpoints are folders named by their step, as `step-900`; steps are compared as numbers.
    """
    whole = [path for path in folder.glob("step-*") if (path / ".metadata").is_file()]
    return max(whole, key=lambda path: int(path.name.removeprefix("step-")), default=None)


class CutOff(dcp.FileSystemWriter):
    """A writer whose process is killed once it has written half of what it was given."""

    def write_data(self, plan, planner):
        half = replace(plan, items=plan.items[: len(plan.items) // 2])
        super().write_data(half, planner).wait()
        os.kill(os.getpid(), signal.SIGKILL)
