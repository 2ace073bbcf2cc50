"""optimizers: state bytes and step time of each, and what a high learning rate does.

Rows of kind "step" hold state and time of one optimizer step on random gradients. Rows of kind
"loss" hold the curve of a small model that learns a first-order Markov chain; its entropy rate,
the lowest loss that any model can reach, is known and stands beside the loss.

8-bit AdamW is torchao's on a GPU where that is installed (`pip install torchao`, which the course
leaves out: with it transformers warns at every import), compiled kernels and all; elsewhere the
course's own, whose bytes are the same and whose time is not.
"""

from __future__ import annotations

import importlib.util
import math
from importlib.metadata import version

import torch

from ..architecture.model import Model
from ..measuring.allocations import optimizer_tensors, peak, resident, storage_bytes
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.timing import timed
from ..measuring.training import BYTES_MODEL, TINY_MODEL, default_precision, named, real_step
from ..run import Run
from ..trace.optimizers import BUILT
from ..trace.step import Step

LOOP = "adamw-loop"  # AdamW one tensor at a time, torch's default on a CPU
OPTIMIZERS = (*BUILT, LOOP)
CURVES = ("sgd", "momentum", "adamw", "adafactor", "muon", "lion")
RATES = (1e-3, 1e-2, 1e-1, 1.0)
STEPS = 40


def grid(
    device: Device,
    model: str | None = None,
    optimizers: tuple[str, ...] = OPTIMIZERS,
    curves: tuple[str, ...] = CURVES,
    rates: tuple[float, ...] = RATES,
) -> list[Row]:
    """A step of each optimizer, then a loss curve of each at each learning rate.

    Args:
        model: name of a preset to step; by default pythia-410m on a GPU, a byte-level model on a
            CPU.
        optimizers: whose step is measured.
        curves: whose loss curves are drawn.
        rates: learning rates of the curves.
    """
    for field, names in (("optimizers", optimizers), ("curves", curves)):
        for name in names:
            if name not in OPTIMIZERS:
                allowed = ", ".join(OPTIMIZERS)
                raise ValueError(f"{field}: unknown optimizer {name!r}; allowed: {allowed}")
    chosen = named(model or ("pythia-410m" if device.cuda else BYTES_MODEL.name))
    steps = [
        {
            "kind": "step",
            "model": chosen.name,
            "parameters": chosen.parameters.total,
            "precision": default_precision(device),
            "optimizer": name,
            "rate": None,
        }
        for name in optimizers
    ]
    losses = [
        {
            "kind": "loss",
            "model": TINY_MODEL.name,
            "parameters": TINY_MODEL.parameters.total,
            "precision": "fp32",
            "optimizer": name,
            "rate": rate,
        }
        for name in curves
        for rate in rates
    ]
    return steps + losses


def measure(point: Row, device: Device) -> Row | list[Row]:
    """State and time of a step, or the rows of a loss curve."""
    return _step(point, device) if point["kind"] == "step" else _curve(point, device)


def _built(model: Model, point: Row, device: Device, **shape) -> Step:
    name = point["optimizer"]
    run = Run(
        model,
        precision=point["precision"],
        optimizer="adamw" if name == LOOP else name,
        **shape,
    )
    step = real_step(run, device)
    if name == LOOP:
        step.optimizer = torch.optim.AdamW(step.model.parameters(), foreach=False)
    if _implementation(name, device).startswith("torchao"):
        step.optimizer = torchao_adamw_8bit(step.model.parameters())
    return step


def _implementation(optimizer: str, device: Device) -> str:
    """Whose code an optimizer is."""
    if optimizer == "adamw-8bit" and device.cuda and importlib.util.find_spec("torchao"):
        return f"torchao {version('torchao')}"
    return "this course" if optimizer in ("adamw-8bit", "lion") else "torch"


def torchao_adamw_8bit(parameters) -> torch.optim.Optimizer:
    """torchao's AdamW with 8-bit moments; its step is compiled the first time it runs."""
    from torchao.optim import AdamW8bit

    return AdamW8bit(parameters)


def _step(point: Row, device: Device) -> Row:
    step = _built(named(point["model"]), point, device, sequence=1)
    gradients = [torch.randn_like(p).mul_(1e-3) for _, p in step.named]
    for (_, p), gradient in zip(step.named, gradients, strict=True):
        p.grad = gradient
    timing = timed(step.optimizer.step, device, most=20, shortest=0)
    state = storage_bytes(*optimizer_tensors(step.optimizer.state))
    return {
        "implementation": _implementation(point["optimizer"], device),
        "state_bytes": state,
        "state_bytes_per_parameter": state / point["parameters"],
        **timing.row,
        **peak(step.optimizer.step, device, resident(step) + storage_bytes(*gradients)),
    }


def _curve(point: Row, device: Device) -> list[Row]:
    step = _built(TINY_MODEL, point, device, sequence=64, micro_batch=8)
    for part in getattr(step.optimizer, "parts", [step.optimizer]):
        for group in part.param_groups:
            group["lr"] = point["rate"]
    chain, rows = MarkovChain(TINY_MODEL.vocab), []
    for number in range(STEPS):
        step.batch.copy_(chain.sample(*step.batch.shape))
        loss = step.forward()
        if not math.isfinite(loss.item()):
            return [*rows, {"step": number, "loss": None, "note": "the loss is not finite"}]
        rows.append({"step": number, "loss": loss.item(), "entropy": chain.entropy})
        loss.backward()
        step.update()
    return rows


class MarkovChain:
    """Text of a first-order Markov chain over a few symbols, the same in every run.

    Attributes:
        entropy: its entropy rate in nats a symbol.
    """

    def __init__(self, symbols: int):
        self._random = torch.Generator().manual_seed(0)
        scores = 2 * torch.randn(symbols, symbols, generator=self._random)
        self._next = scores.softmax(-1)
        stationary = torch.linalg.matrix_power(self._next.double(), 256)[0].float()
        self.entropy = -(stationary @ (self._next * self._next.log()).sum(-1)).item()

    def sample(self, sequences: int, length: int) -> torch.Tensor:
        """Symbols, of shape (sequences, length)."""
        symbols = len(self._next)
        columns = [torch.randint(symbols, (sequences,), generator=self._random)]
        for _ in range(length - 1):
            ahead = self._next[columns[-1]]
            columns.append(torch.multinomial(ahead, 1, generator=self._random).squeeze(1))
        return torch.stack(columns, 1)


EXPERIMENT = Experiment("optimizers", grid, measure)
