"""Bytes of the files that checkpoints are written to, derived from the formats themselves.

A checkpoint is numbers in a container. The numbers are shapes times widths; a container adds
names, offsets and padding. Each function here writes the container's head with placeholders for
the numbers, and returns how long the file would be. Nothing here needs torch.

- safetensors (github.com/huggingface/safetensors, README, "Format"): eight bytes that hold the
  length of a JSON head, the head padded with spaces to eight bytes, then the numbers.
- torch.save (torch/serialization.py and caffe2/serialize/inline_container.cc): an uncompressed
  zip of one pickle and one record a storage, every record's content aligned to 64 bytes.
- torch.distributed.checkpoint (torch/distributed/checkpoint/filesystem.py): a file a rank in which
  every tensor is a zip of its own, and a pickle, `.metadata`, that says where everything is.

Read in torch 2.13 and safetensors 0.8; tests/test_storage.py compares with files that they wrote.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import prod

from .pickles import WIDTHS, Global, Made, Pickler, Stored, pickle_torch

# --- safetensors ---------------------------------------------------------------------------------

_SAFE = {"fp32": "F32", "bf16": "BF16", "fp16": "F16", "int8": "I8", "uint8": "U8", "int64": "I64"}


def safetensors_bytes(
    tensors: Mapping[str, Stored], metadata: Mapping[str, str] | None = None
) -> int:
    """Bytes of a safetensors file.

    Widest dtypes come first, names in order within one (safetensors/src/tensor.rs, prepare): the
    offsets in the head, and so its length, depend on it.

    Args:
        tensors: by name.
        metadata: what stands under `__metadata__`; transformers writes {"format": "pt"}.
    """
    head: dict = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    ordered = sorted(tensors.items(), key=lambda item: (-_RANK[item[1].dtype], item[0]))
    for name, tensor in ordered:
        end = start + tensor.bytes
        head[name] = {
            "dtype": _SAFE[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": (start, end),
        }
        start = end
    text = json.dumps(head, separators=(",", ":"), ensure_ascii=False).encode()
    return 8 + -(-len(text) // 8) * 8 + start


# The order of the format's own list of dtypes, in which they are compared.
_RANK = {
    dtype: rank for rank, dtype in enumerate(("uint8", "int8", "fp16", "bf16", "fp32", "int64"))
}


def sharded_safetensors(
    tensors: Mapping[str, Stored], most: int, stem: str = "model"
) -> dict[str, int]:
    """Files that a model is split into when none may hold more than `most` bytes of numbers.

    transformers' `save_pretrained(max_shard_size=...)`: tensors in the model's order, a new file
    when the next one would not fit, and an index of names (huggingface_hub,
    serialization/_base.py).

    Returns:
        {file name: bytes}; one file without an index where all fits.
    """
    shards: list[dict[str, Stored]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        if filled + tensor.bytes > most and shards[-1]:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.bytes
    kind = {"format": "pt"}
    if len(shards) == 1:
        return {f"{stem}.safetensors": safetensors_bytes(shards[0], kind)}
    names = [f"{stem}-{n:05}-of-{len(shards):05}.safetensors" for n in range(1, len(shards) + 1)]
    index = {
        "metadata": {
            "total_parameters": sum(tensor.elements for tensor in tensors.values()),
            "total_size": sum(tensor.bytes for tensor in tensors.values()),
        },
        "weight_map": {
            tensor: name for name, shard in zip(names, shards, strict=True) for tensor in shard
        },
    }
    files = {
        name: safetensors_bytes(shard, kind) for name, shard in zip(names, shards, strict=True)
    }
    text = json.dumps(index, indent=2, sort_keys=True) + "\n"
    return {**files, f"{stem}.safetensors.index.json": len(text.encode())}


# --- torch.save ----------------------------------------------------------------------------------

ALIGNMENT = 64  # bytes, of every record's content
_LOCAL, _CENTRAL, _END = 30, 46, 22  # bytes of a zip's headers, names and extra fields left out
_DESCRIPTOR, _DESCRIPTOR_64 = 16, 24  # after a record's content: checksum and sizes
_END_64 = 56 + 20  # of the zip64 end and its locator, which torch always writes
_LIMIT = 2**32 - 1  # from here on sizes and offsets need zip64's fields


def torch_save_bytes(value, stem: str = "archive") -> int:
    """Bytes of `torch.save(value, "<stem>.pt")`.

    Args:
        value: dictionaries, lists, tuples, numbers, strings, and `Stored` for a tensor. Two names
            of the same `Stored` object are two names of one tensor.
        stem: the file's name without its ending, which every record begins with; "archive" where
            torch writes to a stream.
    """
    pickled, storages = pickle_torch(value)
    records = [("data.pkl", len(pickled)), (".format_version", 1), (".storage_alignment", 2)]
    records.append(("byteorder", len("little")))
    records += [(f"data/{key}", size) for key, size in enumerate(storages)]
    records += [("version", 2), (".data/serialization_id", 40)]
    return _zip_bytes([(len(f"{stem}/{name}"), size) for name, size in records])


@lru_cache(maxsize=4096)
def _tensor_bytes(tensor: Stored) -> int:
    """Bytes of a tensor saved alone to a stream."""
    return torch_save_bytes(tensor)


def _zip_bytes(records: Iterable[tuple[int, int]]) -> int:
    """Bytes of an aligned, uncompressed zip of records (length of the name, bytes of content)."""
    cursor = directory = 0
    for name, size in records:
        beyond = size >= _LIMIT or cursor >= _LIMIT
        # The extra field of zip64: a head of 4 bytes, two sizes and an offset of 8 where needed.
        wide = 4 + 16 * (size >= _LIMIT) + 8 * (cursor >= _LIMIT) if beyond else 0
        start = cursor + _LOCAL + name + wide + 4  # 4: head of the field that pads
        cursor = -(-start // ALIGNMENT) * ALIGNMENT + size
        if size:  # an empty record ends with its head
            cursor += _DESCRIPTOR_64 if beyond else _DESCRIPTOR
        directory += _CENTRAL + name + wide
    return cursor + directory + _END_64 + _END


# --- torch.distributed.checkpoint ----------------------------------------------------------------


@dataclass(frozen=True)
class Chunk:
    """A rank's part of a tensor: where it begins and its shape."""

    offsets: tuple[int, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Item:
    """Something that a rank would save.

    Attributes:
        path: keys that lead to it, such as ("model", "norm.weight").
        tensor: of which it is a part, or None for an object, which is saved by torch.save.
        chunk: which part.
        value: the object.
    """

    path: tuple[str, ...]
    tensor: Stored | None = None
    chunk: Chunk | None = None
    value: object = None

    @property
    def name(self) -> str:
        return ".".join(self.path)

    @property
    def key(self) -> tuple:
        return self.name, self.chunk.offsets if self.chunk else None

    @property
    def bytes(self) -> int:
        """Numbers alone."""
        return prod(self.chunk.sizes) * WIDTHS[self.tensor.dtype] if self.tensor else 0

    @property
    def written(self) -> int:
        """With the zip around it."""
        if self.tensor is None:
            return torch_save_bytes(self.value)
        return _tensor_bytes(Stored(self.chunk.sizes, self.tensor.dtype))


def distributed_bytes(plans: list[list[Item]], path: str, metadata: bool = True) -> dict[str, int]:
    """Files of `torch.distributed.checkpoint.save(state, checkpoint_id=path)`.

    Args:
        plans: what each rank holds, in the order of its dictionary. What several ranks hold is
            written once, by the one with the least to write so far.
        path: the folder as it was given, which `.metadata` repeats.
        metadata: whether to size `.metadata`, whose length grows with tensors times ranks.

    Returns:
        {file name: bytes}: `__<rank>_0.distcp` for each rank that writes, and `.metadata`.
    """
    kept = deduplicated(plans)
    files = {
        f"__{rank}_0.distcp": sum(item.written for item in items) for rank, items in enumerate(kept)
    }
    if metadata:
        files[".metadata"] = len(_pickle_metadata(plans, kept, path))
    return files


def deduplicated(plans: list[list[Item]]) -> list[list[Item]]:
    """Each rank's items without those that another one writes (_dedup_save_plans.py)."""
    if len(plans) == 1:
        return plans
    holders: dict[tuple, list[int]] = {}
    items: dict[tuple, Item] = {}
    for rank, plan in enumerate(plans):
        for item in plan:
            holders.setdefault(item.key, []).append(rank)
            items[item.key] = item
    load, writer = [0] * len(plans), {}
    for key, ranks in holders.items():
        chosen = min(ranks, key=load.__getitem__)
        load[chosen] += items[key].bytes or 1
        writer[key] = chosen
    return [[item for item in plan if writer[item.key] == rank] for rank, plan in enumerate(plans)]


# --- .metadata -----------------------------------------------------------------------------------

_DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
_META = "torch.distributed.checkpoint.metadata"
_UUID = "0" * 36


class _Metadata:
    """The parts that every entry of a `.metadata` shares."""

    def __init__(self):
        meta, files = _copy(_META), "torch.distributed.checkpoint.filesystem"
        self.classes = {
            name: Global(meta, name)
            for name in (
                "Metadata",
                "TensorStorageMetadata",
                "TensorProperties",
                "ChunkStorageMetadata",
                "BytesStorageMetadata",
                "MetadataIndex",
                "StorageMeta",
            )
        }
        self.classes["_StorageInfo"] = Global(files, "_StorageInfo")
        self.size = Global(_copy("torch"), "Size")
        module = _copy("torch")
        self.dtypes = {dtype: Global(module, _DTYPES.get(dtype, dtype)) for dtype in WIDTHS}
        layout = Global("torch.serialization", "_get_layout")
        self.layout = Made(layout, (_copy("torch.strided"),))
        self.format = Made(Global(meta, "_MEM_FORMAT_ENCODING"), (0,))

    def new(self, name: str, state) -> Made:
        return Made(self.classes[name], (), state, new=True)

    def shape(self, sizes: tuple[int, ...]) -> Made:
        return Made(self.size, (tuple(list(sizes)),))

    def chunk(self, chunk: Chunk) -> Made:
        parts = {"offsets": self.shape(chunk.offsets), "sizes": self.shape(chunk.sizes)}
        return self.new("ChunkStorageMetadata", parts)

    def tensor(self, tensor: Stored, chunks: list) -> Made:
        properties = (self.dtypes[tensor.dtype], self.layout, False, self.format, False)
        return self.new(
            "TensorStorageMetadata",
            {
                "properties": self.new("TensorProperties", properties),
                "size": self.shape(tensor.shape),
                "chunks": chunks,
            },
        )


def _copy(text: str) -> str:
    """The same text as another object, as after a message between processes."""
    return "".join([text[:1], text[1:]]) if len(text) > 1 else text


def _pickle_metadata(plans, kept, path: str) -> bytes:
    """A `.metadata` with offsets, shapes and names, and a placeholder for its random id."""
    make, alone = _Metadata(), len(plans) == 1
    names = [
        {item.path: item.name if alone else _copy(item.name) for item in plan} for plan in plans
    ]
    tensors: dict[str, Made] = {}
    lists: dict[str, list] = {}
    keys: dict[str, str] = {}
    stored: dict[Made, Made] = {}
    for rank, items in enumerate(kept):
        results = names[rank] if alone else {p: _copy(n) for p, n in names[rank].items()}
        order = [i for i in items if i.tensor is None] + [i for i in items if i.tensor]
        numbers = {}
        for item in items:
            if item.tensor is None:
                keys.setdefault(item.name, names[rank][item.path])
                tensors[item.name] = make.new("BytesStorageMetadata", None)
                continue
            if item.name not in tensors:
                keys[item.name], lists[item.name] = names[rank][item.path], []
                tensors[item.name] = make.tensor(item.tensor, lists[item.name])
            numbers[item.path] = len(lists[item.name])
            lists[item.name].append(make.chunk(item.chunk))
        offset, file = 0, f"__{rank}_0.distcp"
        for item in order:
            fqn = results[item.path]
            index = {"fqn": fqn, "index": numbers.get(item.path)}
            if item.tensor:
                index["offset"] = make.shape(item.chunk.offsets)
            place = {"relative_path": file, "offset": offset, "length": item.written}
            stored[make.new("MetadataIndex", index)] = make.new("_StorageInfo", place)
            offset += item.written
    paths = _planner_data(plans, names)
    place = Made(Global("pathlib", "PosixPath"), tuple(_path_parts(path)))
    storage = {"checkpoint_id": place, "save_id": _UUID, "load_id": None, "modules": []}
    whole = make.new(
        "Metadata",
        {
            "state_dict_metadata": {keys[name]: entry for name, entry in tensors.items()},
            "planner_data": paths,
            "storage_data": stored,
            "storage_meta": make.new("StorageMeta", storage),
            "version": "1.0.0",
        },
    )
    file = io.BytesIO()
    Pickler(file, 4).dump(whole)
    return file.getvalue()


def _planner_data(plans, names) -> dict[str, tuple[str, ...]]:
    """{name: path} as a ChainMap of all ranks' merges it: the last rank's keys, the first's paths.

    In the plan of one rank a word that occurs in several paths is one object.
    """
    values: dict[tuple, tuple] = {}
    for plan, named in zip(plans, names, strict=True):
        words: dict[str, str] = {}
        for item in plan:
            if item.path not in values:
                values[item.path] = tuple(
                    named[item.path] if len(item.path) == 1 else words.setdefault(word, _copy(word))
                    for word in item.path
                )
    found: dict[str, tuple] = {}
    for named in reversed(names):
        for path, name in named.items():
            found.setdefault(name, values[path])
    return found


def _path_parts(path: str) -> list[str]:
    parts = [part for part in path.split("/") if part]
    return ["/", *parts] if path.startswith("/") else parts
