"""A training job's other work: text read from a disk, cut into tokens by workers, state saved.

A slow disk is imitated: each read waits first, as a read over a network does, while the processor
is free. Everything else is real: the file, the tokenizer, torch's `DataLoader` and its processes,
`torch.save` and the disk's own confirmation that it has the bytes.
"""

from __future__ import annotations

import os
import time
import warnings
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from ..trace.step import Step
from .device import Device

SLOW = 0.02  # seconds that each read waits on the slow disk: a busy network file system
PREFETCH = 1  # micro-batches that each worker has ready


@cache
def _tokenizer():
    """One token for each byte, by the library that real tokenizers are made of."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads and forks do not mix
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    found = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(letters)}, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return found


def tokens_of(text: str) -> list[int]:
    """The text's tokens."""
    return _tokenizer().encode(text).ids


@dataclass
class Pieces(Dataset):
    """Sequences of a text, read one by one.

    Attributes:
        path: the text in ASCII, or its tokens as 16-bit numbers.
        tokenised: which of the two.
        sequence: tokens in a piece.
        count: pieces; beyond the file's end they begin anew.
        wait: seconds before each read.
    """

    path: Path
    tokenised: bool
    sequence: int
    count: int
    wait: float

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> torch.Tensor:
        width = 2 if self.tokenised else 1
        size = self.sequence * width
        begin = number * size % (self.path.stat().st_size // size * size)
        time.sleep(self.wait)
        with self.path.open("rb") as file:
            file.seek(begin)
            read = file.read(size)
        if self.tokenised:
            return torch.from_numpy(np.frombuffer(read, np.uint16).astype(np.int64))
        return torch.tensor(tokens_of(read.decode("ascii")))


def pretokenise(text: Path, path: Path) -> None:
    """Write a text's tokens as 16-bit numbers, once and for all."""
    np.array(tokens_of(text.read_text(encoding="ascii")), dtype=np.uint16).tofile(path)


def save(step: Step, path: Path) -> int:
    """Save model and optimizer, and wait until the disk has them; bytes written."""
    with path.open("wb") as file:
        torch.save(
            {"model": step.model.state_dict(), "optimizer": step.optimizer.state_dict()}, file
        )
        file.flush()
        os.fsync(file.fileno())
    return path.stat().st_size


def job(step: Step, pieces: Pieces, device: Device, workers: int, saves: int, path: Path) -> dict:
    """Train on all pieces but those of a first step, which warms up, and save so many times.

    Returns:
        Columns: ``seconds`` of the job, of which ``data_seconds`` it waited for the loader and
        ``save_seconds`` for saving; the rest are ``compute_seconds``. ``saved_bytes`` of one save.
    """
    run = step.run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "This DataLoader will create")  # more workers than cores
        loader = DataLoader(
            pieces,
            batch_size=run.micro_batch,
            num_workers=workers,
            prefetch_factor=PREFETCH if workers else None,
        )
        source = iter(loader)
    steps = len(pieces) // run.sequences - 1
    waited, saving, size = 0.0, 0.0, 0
    for done in range(steps + 1):
        if done == 1:
            device.synchronize()
            begin, waited = time.perf_counter(), 0.0
        for _ in range(run.accumulation):
            asked = time.perf_counter()
            batch = next(source)
            waited += time.perf_counter() - asked
            step.batch = batch.to(step.batch.device)
            (step.forward() / run.accumulation).backward()
        step.update()
        device.synchronize()
        # spread evenly, the last at the end
        if done and done * saves // steps > (done - 1) * saves // steps:
            asked = time.perf_counter()
            size = save(step, path)
            saving += time.perf_counter() - asked
    seconds = time.perf_counter() - begin
    return {
        "seconds": seconds,
        "data_seconds": waited,
        "save_seconds": saving,
        "compute_seconds": seconds - waited - saving,
        "saved_bytes": size,
        "tokens": steps * run.tokens,
        "tokens_per_second": steps * run.tokens / seconds,
    }
