"""Who holds what of a checkpoint: tensors cut along their first dimension, as FSDP2 cuts them."""

from __future__ import annotations

from ..run import Run
from .containers import Chunk, Item
from .pickles import Stored


def items_of(content: dict, ranks: int, rank: int, parts) -> list[Item]:
    """What a rank holds; `parts(path)` says into how many parts a tensor is cut."""
    items = []
    for group, entry in content.items():
        named = {None: entry} if isinstance(entry, Stored) else entry
        for name, tensor in named.items():
            if group == "rng" and ranks > 1 and name.split(".")[1] != str(rank):
                continue
            path = (group,) if name is None else (group, name)
            count = parts(path)
            items.append(Item(path, tensor, _cut(tensor.shape, count, rank % count)))
    return items


def _cut(shape: tuple[int, ...], parts: int, which: int) -> Chunk:
    """The part of a tensor along its first dimension: torch.chunk's sizes, then empty ones."""
    if parts == 1 or not shape:
        return Chunk((0,) * len(shape), shape)
    each = -(-shape[0] // parts)
    start = min(which * each, shape[0])
    size = min(each, shape[0] - start)
    return Chunk((start, *(0 for _ in shape[1:])), (size, *shape[1:]))


def plans_of(run: Run, content: dict) -> list[list[Item]]:
    """What each GPU holds of a run, numbered as in `sizing.parallel`."""

    def parts(path: tuple[str, ...]) -> int:
        return parts_of(run, path)

    names = list(content["model"])
    stage_of = {name: i * run.pipeline // len(names) for i, name in enumerate(names)}
    plans = []
    for rank in range(run.gpus):
        stage = rank // (run.gpus // run.pipeline)
        items = items_of(content, run.gpus, rank, parts)
        if run.pipeline > 1:
            items = [i for i in items if _stage(i.path, stage_of, stage) == stage]
        plans.append(items)
    return plans


def parts_of(run: Run, path: tuple[str, ...]) -> int:
    """Into how many parts a tensor is cut."""
    if path[0] in ("rng", "progress") or path[-1].endswith(".step"):
        return 1
    sharded = run.zero >= (3 if path[0] == "model" else 1)
    return run.tensor * (run.shards if sharded else 1)


def _stage(path: tuple[str, ...], stage_of: dict[str, int], otherwise: int) -> int:
    if path[0] in ("model", "master"):
        return stage_of[path[1]]
    if path[0] == "optimizer":
        return next(stage_of[n] for n in _stems(path[1]) if n in stage_of)
    return otherwise


def _stems(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:end]) for end in (len(parts) - 1, len(parts) - 2)]


def unwritten(items: list[Item], written: set) -> dict:
    """A rank's parts as dictionaries, without what a rank before it has written."""
    found: dict = {}
    for item in items:
        if item.key in written or 0 in item.chunk.sizes:
            continue
        written.add(item.key)
        tensor = Stored(item.chunk.sizes, item.tensor.dtype)
        if len(item.path) == 1:
            found[item.path[0]] = tensor
        else:
            found.setdefault(item.path[0], {})[item.path[1]] = tensor
    return found
