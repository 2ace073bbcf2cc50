"""isoflop: small language models trained on the text in data/text, several sizes a compute budget.

Each run spends one budget of FLOPs (`sizing.flops`, all products, attention included) on one size:
a smaller model sees more text. The loss is of text that no run trained on, in nats a byte. On a CPU
no run sees the text more than about once, on a GPU four times at most. Nothing here is timed, so
that a busy machine records as well as an idle one.
"""

from __future__ import annotations

import math
from functools import cache

import torch

from ..architecture.model import Model
from ..compute import flops
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import default_precision, real_step
from ..run import Run
from ..units import DATA

TEXT = DATA / "text" / "shakespeare.txt"
HEAD = 8  # width of a head
# (width, layers): one depth for what a CPU trains, so that only the width differs.
SMALL = tuple((width, 2) for width in (8, 16, 24, 32, 40, 48))
LARGE = tuple((width, 4) for width in (48, 64, 96, 128, 192, 256, 384, 512, 640))
# FLOPs of a run, and the shapes that are tried with it: around the lowest loss. On a CPU a step of
# these models is mostly launches, so what counts there is the steps: 16 500 of some 4 to 6 ms.
CPU_SWEEP = {2e10: SMALL[0:5], 5e10: SMALL[0:5], 1.2e11: SMALL[1:6]}
GPU_SWEEP = {1e12: LARGE[0:6], 1e13: LARGE[1:7], 1e14: LARGE[3:9]}
BLOCK = 4096  # bytes; every twentieth block of the text is kept for validation
EVERY = 20
WARMUP = 0.05  # share of the steps in which the learning rate rises
LAST = 0.1  # and what it falls to, as a share of its highest


def model(width: int, layers: int) -> Model:
    """A Llama of this shape that reads the text's own characters; one table for input and output.

    Raises:
        ValueError: a width that heads of 8 do not fill.
    """
    if width % HEAD:
        raise ValueError(f"width: {width!r} given; allowed: a multiple of {HEAD}")
    return Model(
        {
            "model_type": "llama",
            "vocab_size": len(alphabet()),
            "hidden_size": width,
            "intermediate_size": 8 * (width * 8 // 24),
            "num_hidden_layers": layers,
            "num_attention_heads": width // HEAD,
            "num_key_value_heads": width // HEAD,
            "tie_word_embeddings": True,
        },
        name=f"text-llama-{width}-{layers}",
    )


def grid(
    device: Device,
    budgets: tuple[float, ...] | None = None,
    shapes: tuple[tuple[int, int], ...] | None = None,
    seeds: tuple[int, ...] = (0,),
    sequence: int = 64,
    micro_batch: int | None = None,
) -> list[Row]:
    """Several sizes at each budget.

    Args:
        budgets: FLOPs of a run; by default three, over a factor of 6 on a CPU, of 100 on a
            GPU.
        shapes: (width, layers) of the models; by default five per budget on a CPU, six on a GPU.
        seeds: of weights and data; several show how far two equal runs lie apart.
        sequence: bytes a model sees at once.
        micro_batch: sequences a step; by default 8 on a CPU, 16 to 64 on a GPU.
    """
    sweep = GPU_SWEEP if device.cuda else CPU_SWEEP
    chosen = {
        c: shapes or sweep.get(c) or (LARGE if device.cuda else SMALL)[:6] for c in budgets or sweep
    }
    found = []
    for compute, sizes in chosen.items():
        batch = micro_batch or (_batch(compute) if device.cuda else 8)
        for width, layers in sizes:
            one = model(width, layers)
            work = flops(Run(one, sequence=sequence)).model / sequence
            step = sequence * batch
            steps = round(compute / work / step)
            if steps < 2:
                raise ValueError(
                    f"budgets: {compute:.3g} FLOPs given; allowed: two steps or more, "
                    f"{2 * step * work:.3g} FLOPs at width {width} and {layers} layers"
                )
            found += [
                {
                    "compute": compute,
                    "width": width,
                    "layers": layers,
                    "parameters": one.parameters.total,
                    "flops_per_token": work,
                    "tokens": steps * step,
                    "steps": steps,
                    "sequence": sequence,
                    "micro_batch": batch,
                    "precision": default_precision(device),
                    "rate": _rate(width),
                    "seed": seed,
                }
                for seed in seeds
            ]
    return found


def _batch(compute: float) -> int:
    """Sequences a step on a GPU: the more tokens a run sees, the larger the batch that it bears."""
    return 16 if compute < 3e12 else 32 if compute < 3e13 else 64


def _rate(width: int) -> float:
    """Highest learning rate: falls with the width, as Adam's should (Yang et al., 2203.03466)."""
    return min(0.02, 0.32 / width)


def measure(point: Row, device: Device) -> Row:
    """The loss of unseen text after training one size on one budget."""
    threads = torch.get_num_threads()
    if not device.cuda:
        torch.set_num_threads(1)  # products this small lose more by sharing than they win
    try:
        return _trained(point, device)
    finally:
        torch.set_num_threads(threads)


def _trained(point: Row, device: Device) -> Row:
    run = Run(
        model(point["width"], point["layers"]),
        sequence=point["sequence"],
        micro_batch=point["micro_batch"],
        precision=point["precision"],
        optimizer="adamw-fused",
    )
    step = real_step(run, device)
    _start(step.model, point["seed"])
    for group in step.optimizer.param_groups:
        group["betas"] = (0.9, 0.95)  # a second moment that forgets within a short run
    train, unseen = windows(point["sequence"])
    order = _order(len(train), point["seed"], point["steps"] * point["micro_batch"])
    batches = order.view(point["steps"], point["micro_batch"])
    last = 0.0
    for number, chosen in enumerate(batches):
        for group in step.optimizer.param_groups:
            group["lr"] = point["rate"] * schedule(number / point["steps"])
        step.batch.copy_(train[chosen])
        loss = step.forward()
        loss.backward()
        step.update()
        if number >= 0.9 * point["steps"]:
            last = last + loss.detach()
    loss = _validate(step, unseen)
    if not math.isfinite(loss):
        return {"loss": None, "note": "the loss is not finite"}
    kept = sum(number >= 0.9 * point["steps"] for number in range(point["steps"]))
    return {
        "loss": loss,
        "training_loss": float(last) / max(1, kept),
        "epochs": point["tokens"] / train.numel(),
    }


def schedule(done: float) -> float:
    """The learning rate over its highest, at a share of the steps: a rise, then half a cosine."""
    if done < WARMUP:
        return (done + 0.2 * WARMUP) / (1.2 * WARMUP)
    return LAST + (1 - LAST) * (1 + math.cos(math.pi * (done - WARMUP) / (1 - WARMUP))) / 2


@cache
def alphabet() -> bytes:
    """The different bytes of the text, in order."""
    return bytes(sorted(set(TEXT.read_bytes())))


@cache
def windows(sequence: int) -> tuple[torch.Tensor, torch.Tensor]:
    """(training, validation) text in pieces of `sequence` characters, as places in `alphabet()`."""
    place = torch.zeros(256, dtype=torch.long)
    place[list(alphabet())] = torch.arange(len(alphabet()))
    text = place[torch.frombuffer(bytearray(TEXT.read_bytes()), dtype=torch.uint8).long()]
    blocks = text[: len(text) // BLOCK * BLOCK].view(-1, BLOCK)
    kept = torch.arange(len(blocks)) % EVERY == EVERY - 1
    pieces = BLOCK // sequence * sequence

    def cut(chosen):
        return blocks[chosen][:, :pieces].reshape(-1, sequence)

    return cut(~kept), cut(kept)


def _order(pieces: int, seed: int, count: int) -> torch.Tensor:
    """Which piece comes when: each once before any comes again."""
    random = torch.Generator().manual_seed(seed)
    passes = [torch.randperm(pieces, generator=random) for _ in range(-(-count // pieces))]
    return torch.cat(passes)[:count]


def _start(network: torch.nn.Module, seed: int) -> None:
    """Weights as wide as 1 / sqrt(inputs): the library's 0.02 is too narrow for so few inputs."""
    torch.manual_seed(seed)
    for parameter in network.parameters():
        if parameter.ndim == 2:
            torch.nn.init.normal_(parameter, std=parameter.shape[1] ** -0.5)


def _validate(step, unseen: torch.Tensor) -> float:
    """Mean loss of the validation text, nats a byte."""
    losses, size = [], len(step.batch)
    with torch.no_grad():
        for at in range(0, len(unseen) - size + 1, size * _stride(len(unseen), size)):
            step.batch.copy_(unseen[at : at + size])
            losses.append(step.forward())
    return torch.stack(losses).mean().item()


def _stride(pieces: int, size: int, most: int = 64) -> int:
    """Every how many batches of the validation text are used, so that at most `most` are."""
    return max(1, pieces // size // most)


EXPERIMENT = Experiment("isoflop", grid, measure)
