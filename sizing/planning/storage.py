"""What a run writes to disk: checkpoints to the byte, tokenised data, logs; and how often to save.

`checkpoint_contents` has what a checkpoint holds, `shards` which rank holds what, `containers` the
formats, `intervals` how often to save, `token_data` the tokens. `sizing.measuring.checkpoints`
writes exactly that layout.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from ..run import Run
from .checkpoint_contents import (
    CUDA_GENERATOR,
    GENERATOR,
    checkpoint_numbers,
    contents,
    numbers,
    parameter_shapes,
)
from .containers import (
    Chunk,
    Item,
    deduplicated,
    distributed_bytes,
    safetensors_bytes,
    torch_save_bytes,
)
from .intervals import PINNED, Saving, daly, saving, useful_share, young
from .pickles import Stored
from .shards import items_of, parts_of, plans_of, unwritten
from .token_data import TokenFiles, padding_share, token_files

__all__ = [
    "CUDA_GENERATOR",
    "FORMATS",
    "GENERATOR",
    "LOG_LINE",
    "PINNED",
    "Checkpoint",
    "Disk",
    "Saving",
    "TokenFiles",
    "checkpoint",
    "checkpoint_numbers",
    "contents",
    "daly",
    "disk",
    "padding_share",
    "parameter_shapes",
    "saving",
    "token_files",
    "useful_share",
    "young",
]

FORMATS = ("torch", "safetensors", "distributed")
# Above so many tensors times ranks a distributed checkpoint is scaled up: its pickle takes seconds.
ENTRIES = 40_000

# --- Checkpoints ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Checkpoint:
    """Bytes of one checkpoint on disk.

    Attributes:
        format: "torch" (torch.save), "safetensors" or "distributed" (torch.distributed.checkpoint).
        sharded: whether each rank writes its own part.
        weights, optimizer, master: numbers of the weights, of the optimizer's moments and step
            counters, and of fp32 master copies.
        other: numbers of the random generators and of the position in training and data.
        files: {file name: bytes}, without their folder.
        exact: False where there are so many entries that `.metadata` is scaled up from fewer ranks,
            and every rank's file is the mean one.
    """

    format: str
    sharded: bool
    weights: int
    optimizer: int
    master: int
    other: int
    files: dict[str, int]
    exact: bool = True

    @property
    def total(self) -> int:
        """Bytes of all files."""
        return sum(self.files.values())

    @property
    def container(self) -> int:
        """Bytes that are no numbers: names, offsets, padding."""
        return self.total - self.weights - self.optimizer - self.master - self.other

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by content; they sum to the total."""
        return {
            "weights": self.weights,
            "optimizer": self.optimizer,
            "master": self.master,
            "other": self.other,
            "container": self.container,
        }

    @property
    def largest(self) -> int:
        """Bytes of the largest file: what one rank has to write at most."""
        return max(self.files.values())


def checkpoint(
    run: Run,
    format: str = "distributed",
    *,
    sharded: bool | None = None,
    path: str = "checkpoint",
    device: str = "cuda",
) -> Checkpoint:
    """Bytes on disk of a checkpoint from which the run can go on as if nothing had happened.

    Args:
        run: the training run.
        format: "torch": one file of torch.save, or one for each rank; "safetensors": a file each of
            weights, optimizer and the rest, or of all for each rank; "distributed":
            torch.distributed.checkpoint, a file for each rank that has something to write.
        sharded: whether each rank writes what it alone holds. By default a distributed checkpoint
            of several GPUs is, but for 4-bit AdamW under ZeRO.
        path: the folder, as the program names it: `.metadata` repeats it, and torch.save the name
            of its file.
        device: "cuda" (a GPU's random generator is saved beside the CPU's) or "cpu".

    Raises:
        ValueError: an unknown format or device; shards of a 4-bit state.

    Of a run with adapters it holds what is trained, under peft's names. The state of "adamw-8bit"
    and "paged-adamw-8bit" is this course's own layout, codes and scales, without the two tables of
    1 KiB that bitsandbytes shares.

    Sharded tensors are cut along their first dimension into equal parts, the last ones smaller or
    empty, as FSDP2 cuts them: optimizer state and master weights over the data-parallel ranks from
    `zero=1` on, weights from `zero=3` on, everything over the tensor-parallel ranks; a pipeline
    divides the names in order. Exact for data parallelism (tests/test_storage.py); for tensor
    parallelism and pipelines to the numbers, while names of files and offsets may take other
    digits.
    """
    if format not in FORMATS:
        raise ValueError(f"format: {format!r} given; allowed: {', '.join(map(repr, FORMATS))}")
    if device not in ("cpu", "cuda"):
        raise ValueError(f"device: {device!r} given; allowed: 'cpu', 'cuda'")
    own_tables = run.optimizer == "adamw-4bit" and run.zero > 0 and run.shards > 1
    if sharded is None:
        sharded = format == "distributed" and run.gpus > 1 and not own_tables
    if sharded and own_tables:
        raise ValueError(
            f"optimizer: 'adamw-4bit' given with zero={run.zero}; allowed: sharded=False, since "
            "torchao quantises each rank's part by itself, with a table of its own for each"
        )
    content = contents(run, device)
    exact = True
    if format == "distributed":
        count = sum(len(e) if isinstance(e, dict) else 1 for e in content.values())
        exact = not sharded or count * run.gpus <= ENTRIES
        if exact:
            plans = plans_of(run, content) if sharded else [items_of(content, 1, 0, lambda path: 1)]
            files = distributed_bytes(plans, path)
        else:
            files = _scaled(run, content, path)
    elif sharded:
        files, seen = {}, set()
        for rank, items in enumerate(plans_of(run, content)):
            own = unwritten(items, seen)
            if own:
                files |= _written(own, format, f"rank-{rank}")
    else:
        files = _written(content, format, "checkpoint")
    sizes = {part: numbers(content.get(part, {})) for part in ("model", "optimizer", "master")}
    return Checkpoint(
        format,
        sharded,
        weights=sizes["model"],
        optimizer=sizes["optimizer"],
        master=sizes["master"],
        other=numbers(content["rng"]) + content["progress"].bytes,
        files=files,
        exact=exact,
    )


def _written(content: dict, format: str, stem: str) -> dict[str, int]:
    """Files of one process that holds this content."""
    if format == "torch":
        return {f"{stem}.pt": torch_save_bytes(content, stem)}
    rest = {f"rng.{name}": tensor for name, tensor in content.get("rng", {}).items()}
    if "progress" in content:
        rest["progress"] = content["progress"]
    states = {
        f"{part}.{name}": tensor
        for part in ("master", "optimizer")
        for name, tensor in content.get(part, {}).items()
    }
    prefix = "" if stem == "checkpoint" else f"{stem}-"
    groups = {"model": content.get("model", {}), "optimizer": states, "state": rest}
    return {
        f"{prefix}{name}.safetensors": safetensors_bytes(tensors, {"format": "pt"})
        for name, tensors in groups.items()
        if tensors
    }


def _scaled(run: Run, content: dict, path: str) -> dict[str, int]:
    """Files of very many entries: all zips added up, `.metadata` from its growth by the entry."""
    written = entries = 0
    for item in items_of(content, 1, 0, lambda path: 1):
        shape = item.tensor.shape
        count = parts_of(run, item.path) if shape else 1
        each = -(-shape[0] // count) if shape else 0
        whole, rest = divmod(shape[0], each) if shape else (1, 0)
        sizes = [(whole, each)] + [(1, rest)] * (rest > 0) + [(1, 0)] * (whole + (rest > 0) < count)
        for copies, rows in sizes:
            chunk = (rows, *shape[1:]) if shape else ()
            written += (
                copies * Item(item.path, item.tensor, Chunk((0,) * len(chunk), chunk)).written
            )
            entries += copies
    sample = {
        group: entry if isinstance(entry, Stored) else dict(list(entry.items())[:200])
        for group, entry in content.items()
    }
    two, four = (
        [items_of(sample, ranks, rank, lambda path, ranks=ranks: ranks) for rank in range(ranks)]
        for ranks in (2, 4)
    )
    # Names are mentioned once for each tensor, chunks once for each entry.
    small, large = (distributed_bytes(plans, path)[".metadata"] for plans in (two, four))
    kept = [sum(map(len, deduplicated(plans))) for plans in (two, four)]
    per_entry = (large - small) / (kept[1] - kept[0])
    tensors = sum(1 if isinstance(entry, Stored) else len(entry) for entry in content.values())
    sampled = sum(1 if isinstance(entry, Stored) else len(entry) for entry in sample.values())
    per_tensor = (small - per_entry * kept[0]) / sampled
    mean = written // run.gpus
    files = {f"__{rank}_0.distcp": mean for rank in range(run.gpus)}
    files["__0_0.distcp"] += written - mean * run.gpus
    return {**files, ".metadata": round(per_entry * entries + per_tensor * tensors)}


# --- The whole disk -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Disk:
    """Bytes that a whole run needs on disk, by what they are."""

    data: int
    checkpoints: int
    model: int
    logs: int

    @cached_property
    def parts(self) -> dict[str, int]:
        return {name: getattr(self, name) for name in ("data", "checkpoints", "model", "logs")}

    @property
    def total(self) -> int:
        return sum(self.parts.values())


LOG_LINE = 160  # bytes of a step's line: step, loss, rate, norm, seconds, tokens/s as JSON


def disk(
    run: Run,
    tokens: float,
    *,
    documents: float = 0,
    keep: int = 3,
    format: str = "distributed",
    log_line: int = LOG_LINE,
) -> Disk:
    """Disk space of a whole run: tokenised data, checkpoints kept, the model handed on, logs.

    Args:
        run: the training run.
        tokens: seen in training; an epoch, each once.
        documents: in the data.
        keep: checkpoints that exist at the same time, the one being written among them.
        format: of the checkpoints.
        log_line: bytes logged for each optimizer step.
    """
    if isinstance(keep, bool) or not isinstance(keep, int) or keep < 1:
        raise ValueError(f"keep: {keep!r} given; allowed: a whole number >= 1")
    files = token_files(tokens, run.model.vocab, documents, run.sequence)
    saved = checkpoint(run, format)
    weights = {name: Stored(shape, "bf16") for name, shape in parameter_shapes(run.model)}
    steps = math.ceil(tokens / run.tokens)
    return Disk(
        data=files.total,
        checkpoints=keep * saved.total,
        model=safetensors_bytes(weights, {"format": "pt"}),
        logs=steps * log_line,
    )
