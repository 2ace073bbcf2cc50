"""What a run writes to disk: checkpoints to the byte, tokenised data, logs; and how often to save.

A checkpoint here has one layout in every format, nested dictionaries with names in order:

    {"master": {name: fp32 copy}, "model": {name: weight}, "optimizer": {name.slot: state},
     "progress": (step, position in the data), "rng": {"cpu.<rank>", "cuda.<rank>"}}

`model` has each parameter once, as `named_parameters()` gives them. The optimizer's state goes by
name and not by number, so that another number of ranks can read it.
`sizing.measuring.checkpoints` writes exactly this.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache

from ..architecture.families import kinds_of
from ..architecture.model import Model
from ..architecture.weights import Block
from ..footprint.optimizer import BLOCK, SMALL
from ..run import Run, all_weights_trained, linear_layers
from .containers import (
    Chunk,
    Item,
    Stored,
    deduplicated,
    distributed_bytes,
    safetensors_bytes,
    torch_save_bytes,
)

FORMATS = ("torch", "safetensors", "distributed")
GENERATOR = 5056  # bytes of torch.get_rng_state(): a Mersenne twister of 624 words of 8 bytes, more
CUDA_GENERATOR = 16  # bytes of torch.cuda.get_rng_state(): a seed and an offset
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
            of several GPUs is.
        path: the folder, as the program names it: `.metadata` repeats it, and torch.save the name
            of its file.
        device: "cuda" (a GPU's random generator is saved beside the CPU's) or "cpu".

    Raises:
        ValueError: an unknown format or device.

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
    if sharded is None:
        sharded = format == "distributed" and run.gpus > 1
    content = contents(run, device)
    exact = True
    if format == "distributed":
        count = sum(len(e) if isinstance(e, dict) else 1 for e in content.values())
        exact = not sharded or count * run.gpus <= ENTRIES
        if exact:
            plans = _plans(run, content) if sharded else [_items(content, 1, 0, lambda path: 1)]
            files = distributed_bytes(plans, path)
        else:
            files = _scaled(run, content, path)
    elif sharded:
        files, seen = {}, set()
        for rank, items in enumerate(_plans(run, content)):
            own = _own(items, seen)
            if own:
                files |= _written(own, format, f"rank-{rank}")
    else:
        files = _written(content, format, "checkpoint")
    sizes = {part: _numbers(content.get(part, {})) for part in ("model", "optimizer", "master")}
    return Checkpoint(
        format,
        sharded,
        weights=sizes["model"],
        optimizer=sizes["optimizer"],
        master=sizes["master"],
        other=_numbers(content["rng"]) + content["progress"].bytes,
        files=files,
        exact=exact,
    )


def contents(run: Run, device: str = "cuda") -> dict:
    """The checkpoint of a run as nested dictionaries of `Stored`, names in order."""
    width, master = run.recipe.weights, run.recipe.master
    shapes = dict(sorted(parameter_shapes(run.model)))
    if run.lora is not None:
        width, shapes = run.lora.dtype, dict(sorted(adapter_shapes(run)))
        master = master and width != "fp32"
    model = {name: Stored(shape, width) for name, shape in shapes.items()}
    moments = {
        f"{name}.{slot}": stored
        for name, shape in shapes.items()
        for slot, stored in _slots(run.optimizer, name, shape, "fp32" if master else width)
    }
    found: dict = {"master": {n: Stored(s, "fp32") for n, s in shapes.items()}} if master else {}
    found["model"] = model
    if moments:
        found["optimizer"] = dict(sorted(moments.items()))
    found["progress"] = Stored((2,), "int64")
    states = {f"cpu.{rank}": Stored((GENERATOR,), "uint8") for rank in range(run.gpus)}
    if device == "cuda":
        states |= {f"cuda.{rank}": Stored((CUDA_GENERATOR,), "uint8") for rank in range(run.gpus)}
    found["rng"] = dict(sorted(states.items()))
    return found


def checkpoint_numbers(run: Run) -> int:
    """Bytes of a checkpoint's weights, moments and masters, without their containers.

    Raises:
        ValueError: the run trains adapters.
    """
    all_weights_trained(run, "a checkpoint")
    return _numbers_of(run.model, run.precision, run.optimizer)


@lru_cache(maxsize=256)
def _numbers_of(model: Model, precision: str, optimizer: str) -> int:
    content = contents(Run(model, sequence=1, precision=precision, optimizer=optimizer))
    return sum(_numbers(content.get(part, {})) for part in ("model", "optimizer", "master"))


_TRANSFORMER = ("gpt2", "gpt_bigcode", "gptj", "gpt_neo", "bloom", "mpt", "falcon")
_PREFIX = {"gpt_neox": "gpt_neox.", "opt": "model.decoder."} | dict.fromkeys(
    _TRANSFORMER, "transformer."
)


def adapter_shapes(run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of what a run with adapters saves, as peft names it: adapters alone, and the
    tables that are trained whole. The frozen weights are where they were loaded from."""
    found = []
    for name, (out, into) in _adapted_by_layer(run):
        found.append((f"base_model.model.{name}.lora_A.weight", (run.lora.rank, into)))
        found.append((f"base_model.model.{name}.lora_B.weight", (out, run.lora.rank)))
    lookup = next(w for w in run.model.outer if w.kind == "lookup")
    head = next((w for w in run.model.outer if w.name == "lm_head.weight"), lookup)
    kept = {"embed_tokens": lookup, "lm_head": head}
    for table in run.lora.embeddings:
        weight = kept[table]
        found.append((f"base_model.model.{table}.weight", weight.shape))
    return found


def _adapted_by_layer(run: Run) -> Iterator[tuple[str, tuple[int, int]]]:
    names = {n.removesuffix(".weight"): shape for n, shape in parameter_shapes(run.model)}
    known = linear_layers(run.model)
    for name, shape in names.items():
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        inside = ".".join(parts[place + 1 :]) if place is not None else ""
        if inside in known and run.lora.adapts(inside):
            yield name, shape[::-1] if run.model.family == "gpt2" else shape


def parameter_shapes(model: Model) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every parameter as transformers names them, in no particular order."""
    prefix = _PREFIX.get(model.family, "model.")
    outer = [
        (w.name if w.name.startswith("lm_head.") else prefix + w.name, w.shape) for w in model.outer
    ]
    inner = [
        (prefix + weight.name.replace("*", str(number), 1), weight.shape)
        for number, block in enumerate(_blocks_by_layer(model))
        for weight in block.weights
    ]
    return outer + inner


def _blocks_by_layer(model: Model) -> list[Block]:
    """The kind of each layer. Kinds that differ in their window alone have the same weights."""
    if len({block.weights for block in model.blocks}) == 1:
        return [block for block in model.blocks for _ in range(block.count)]
    kinds = kinds_of(model.family, model.config, model.layers)
    blocks = dict(zip(dict.fromkeys(kinds), model.blocks, strict=True))
    return [blocks[kind] for kind in kinds]


def _slots(optimizer: str, name: str, shape: tuple, width: str) -> list[tuple[str, Stored]]:
    """What an optimizer keeps of a parameter: torch's optimizers, and `sizing.trace.optimizers`."""

    def like() -> Stored:  # a new object each time: one object would be one tensor of two names
        return Stored(shape, width)

    scalar = Stored((), "fp32")
    adamw = [("step", scalar), ("exp_avg", like()), ("exp_avg_sq", like())]
    if optimizer in ("adamw", "adamw-fused"):
        return adamw
    if optimizer == "momentum":
        return [("momentum_buffer", like())]
    if optimizer == "lion":
        return [("momentum", like())]
    if optimizer == "muon":
        hidden = len(shape) == 2 and any(part.isdigit() for part in name.split("."))
        return [("momentum_buffer", like())] if hidden else adamw
    if optimizer == "adafactor":
        if len(shape) < 2:
            return [("step", scalar), ("variance", like())]
        row, column = (*shape[:-1], 1), (*shape[:-2], 1, shape[-1])
        return [
            ("step", scalar),
            ("row_var", Stored(row, width)),
            ("col_var", Stored(column, width)),
        ]
    if optimizer in ("adamw-8bit", "paged-adamw-8bit"):
        count = math.prod(shape)
        step = [("step", Stored((), "int64"))]
        if count < SMALL:
            return step + [(f"moments.{i}", Stored(shape, "fp32")) for i in range(2)]
        blocks = -(-count // BLOCK)
        for i in (0, 2):
            step.append((f"moments.{i}", Stored((count,), "int8")))
            step.append((f"moments.{i + 1}", Stored((blocks,), "fp32")))
        return step
    if optimizer != "sgd":
        raise ValueError(
            f"optimizer: {optimizer!r} given; allowed in a checkpoint: one of torch's own, 'lion', "
            "'adamw-8bit', 'paged-adamw-8bit'"
        )
    return []


def _numbers(tensors: dict[str, Stored]) -> int:
    return sum(tensor.bytes for tensor in tensors.values())


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


# --- Who holds what ------------------------------------------------------------------------------


def _items(content: dict, ranks: int, rank: int, parts) -> list[Item]:
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


def _plans(run: Run, content: dict) -> list[list[Item]]:
    """What each GPU holds of a run, numbered as in `sizing.parallel`."""

    def parts(path: tuple[str, ...]) -> int:
        return _parts(run, path)

    names = list(content["model"])
    stage_of = {name: i * run.pipeline // len(names) for i, name in enumerate(names)}
    plans = []
    for rank in range(run.gpus):
        stage = rank // (run.gpus // run.pipeline)
        items = _items(content, run.gpus, rank, parts)
        if run.pipeline > 1:
            items = [i for i in items if _stage(i.path, stage_of, stage) == stage]
        plans.append(items)
    return plans


def _parts(run: Run, path: tuple[str, ...]) -> int:
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


def _own(items: list[Item], written: set) -> dict:
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


def _scaled(run: Run, content: dict, path: str) -> dict[str, int]:
    """Files of very many entries: all zips added up, `.metadata` from its growth by the entry."""
    written = entries = 0
    for item in _items(content, 1, 0, lambda path: 1):
        shape = item.tensor.shape
        count = _parts(run, item.path) if shape else 1
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
        [_items(sample, ranks, rank, lambda path, ranks=ranks: ranks) for rank in range(ranks)]
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


# --- How often to save ---------------------------------------------------------------------------


def young(save: float, mtbf: float) -> float:
    """Seconds of work between saves that lose least: sqrt(2 δ M).

    Args:
        save: δ, seconds that a save keeps the GPUs from working.
        mtbf: M, mean seconds between failures of the whole job.

    Source: Young 1974, doi:10.1145/361147.361115, equation 6; for δ much below M.
    """
    _positive("save", save)
    _positive("mtbf", mtbf)
    return math.sqrt(2 * save * mtbf)


def daly(save: float, mtbf: float) -> float:
    """The same to a higher order: sqrt(2δM) (1 + sqrt(δ/2M)/3 + (δ/2M)/9) - δ, and M from δ = 2M.

    Source: Daly 2006, doi:10.1016/j.future.2004.11.016, equation 37.
    """
    _positive("save", save)
    _positive("mtbf", mtbf)
    if save >= 2 * mtbf:
        return mtbf
    ratio = save / (2 * mtbf)
    return math.sqrt(2 * save * mtbf) * (1 + math.sqrt(ratio) / 3 + ratio / 9) - save


def useful_share(interval: float, save: float, mtbf: float, restart: float = 0.0) -> float:
    """Share of the wall-clock time that is work which lasts, with failures at random.

    T / T_work = M e^(R/M) (e^((τ+δ)/M) - 1) / τ for work τ between saves of δ and restarts of R:
    failures may strike during saves and restarts too.

    Args:
        interval: τ, seconds of work between saves.
        save: δ, seconds that a save stops the work.
        mtbf: M, mean seconds between failures of the whole job; infinity for none.
        restart: R, seconds from a failure to the first step after it.

    Source: Daly 2006, doi:10.1016/j.future.2004.11.016, equation 20.
    """
    _positive("interval", interval)
    if mtbf == math.inf:
        return interval / (interval + save)
    _positive("mtbf", mtbf)
    # 1 / (e^x - 1) as e^-x / (1 - e^-x), which is finite for any x
    work = (interval + save) / mtbf
    return interval / mtbf * math.exp(-restart / mtbf - work) / -math.expm1(-work)


@dataclass(frozen=True)
class Saving:
    """How a run saves.

    Attributes:
        size: bytes of a checkpoint.
        stall: seconds that a save stops the GPUs: all of it, or the copy to the host's memory.
        write: seconds until the checkpoint is on disk.
        interval: seconds of work between two saves.
        useful: share of the time that is work which lasts.
        rate: bytes/s that the storage must take up, so that one save ends before the next.
        burst: bytes/s that it must take up for `stall` to be as short as it is, when synchronous.
    """

    size: int
    stall: float
    write: float
    interval: float
    useful: float

    @property
    def rate(self) -> float:
        return self.size / (self.interval + self.stall)

    @property
    def burst(self) -> float:
        return self.size / self.write

    @property
    def lost(self) -> float:
        return 1 - self.useful


PINNED = 25e9  # bytes/s from a GPU to the host: PCIe 4 x16 carries 31.5e9, a copy some 80 % of it


def saving(
    size: float,
    mtbf: float,
    *,
    disk: float,
    gpus: int = 1,
    asynchronous: bool = False,
    restart: float = 0.0,
    interval: float | None = None,
    host: float = PINNED,
) -> Saving:
    """When to save, what it costs, and what the storage must be able to do.

    Args:
        size: bytes of a checkpoint, as `checkpoint(run).total`.
        mtbf: mean seconds between failures of the whole job.
        disk: bytes/s that the storage takes from all ranks together.
        gpus: ranks that write at the same time.
        asynchronous: whether training goes on once the state is copied to the host's memory.
        restart: seconds from a failure to the first step.
        interval: seconds of work between saves; by default Daly's best, but not shorter than the
            write of the save before.
        host: bytes/s from one GPU to its host.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    for field, value in (("size", size), ("disk", disk), ("host", host), ("gpus", gpus)):
        _positive(field, value)
    write = size / disk
    copy = size / gpus / host
    stall = copy if asynchronous else copy + write
    if interval is None:
        interval = daly(stall, mtbf) if mtbf != math.inf else 3600.0
        if asynchronous:
            interval = max(interval, write)
    # What an asynchronous save has not yet brought to disk is lost with a failure, too.
    late = write / 2 if asynchronous else 0.0
    useful = useful_share(interval, stall, mtbf, restart)
    if late and mtbf != math.inf:
        useful *= 1 - min(0.5, late / mtbf)
    return Saving(round(size), stall, write, interval, useful)


# --- Data, logs, the whole disk ------------------------------------------------------------------


@dataclass(frozen=True)
class TokenFiles:
    """Bytes of tokenised text on disk, and the sequences that it makes.

    Attributes:
        tokens: of the text, with one that ends each document.
        width: bytes per token.
        data: bytes of the tokens.
        index: bytes of the index that says where documents begin.
        sequences: whole sequences when documents are packed end to end.
    """

    tokens: int
    width: int
    data: int
    index: int
    sequences: int

    @property
    def total(self) -> int:
        return self.data + self.index


def token_files(
    tokens: float, vocab: int, documents: float = 0, sequence: int = 2048, indexed: bool = True
) -> TokenFiles:
    """Bytes of a tokenised data set as Megatron's indexed files (or, without index, nanoGPT's).

    Two bytes per token for a vocabulary that fits 16 bits, else four. The index has 34 bytes of
    head and, for each document, its length (4), its place (8) and its number (8), and one number
    more. Source: Megatron-LM, megatron/core/datasets/indexed_dataset.py, _IndexWriter; its unsigned
    16 bits hold vocabularies below 65 500 (DType.optimal_dtype).

    Args:
        tokens: of the text alone.
        vocab: size of the tokenizer's vocabulary.
        documents: how many there are; each adds one token that ends it.
        sequence: tokens in a training sequence, which takes one more for its targets.
        indexed: whether there is an index.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    _positive("tokens", tokens)
    _positive("vocab", vocab)
    if documents < 0:
        raise ValueError(f"documents: {documents!r} given; allowed: a number >= 0")
    total = round(tokens + documents)
    width = 2 if vocab < 65500 else 4
    index = 34 + 20 * round(documents) + 8 if indexed else 0
    return TokenFiles(total, width, total * width, index, (total - 1) // sequence)


def padding_share(lengths: list[int], sequence: int) -> float:
    """Share of a batch that is padding when each document has sequences of its own.

    Packing leaves at most the last sequence incomplete; one document per sequence fills the rest of
    its last one with padding.

    >>> padding_share([1024, 2048, 512], 2048)
    0.4166666666666667
    """
    used = sum(lengths)
    rows = sum(-(-length // sequence) for length in lengths)
    return 1 - used / (rows * sequence)


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


def _positive(field: str, value: float) -> None:
    if isinstance(value, bool) or not value > 0:
        raise ValueError(f"{field}: {value!r} given; allowed: a number above 0")
