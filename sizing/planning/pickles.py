"""Pickles of the same length as torch's, built from placeholders.

How long a pickle is depends on which strings and tuples are one object, because the second mention
of an object is a short reference. So the same structure is built here and pickled by the standard
library's own pickler, taught what its C version does differently.
"""

from __future__ import annotations

import io
import pickle
from dataclasses import dataclass
from math import prod

WIDTHS = {"fp32": 4, "bf16": 2, "fp16": 2, "int8": 1, "uint8": 1, "int64": 8}


@dataclass(frozen=True)
class Stored:
    """A tensor as a file holds it: row-major, alone in its storage."""

    shape: tuple[int, ...]
    dtype: str

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * WIDTHS[self.dtype]


class Global:
    """A class or function by its name, without the module that has it."""

    __name__ = "stand-in"

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self):
        raise TypeError("a stand-in for a name is never called")


class Made:
    """An object that pickles as the call of a function, or as a new object with a state."""

    def __init__(self, function: Global, arguments: tuple, state=None, new: bool = False):
        self.function, self.arguments, self.state, self.new = function, arguments, state, new


class _Storage:
    def __init__(self, key: int, tensor: Stored):
        self.key, self.tensor = key, tensor


class Pickler(pickle._Pickler):
    """The standard pickler with C's batches and frames."""

    dispatch = dict(pickle._Pickler.dispatch)

    def __init__(self, file, protocol: int):
        super().__init__(file, protocol)
        self._commit = self.framer.commit_frame
        self.framer.commit_frame = lambda force=False: self._commit(force) if force else None

    def save(self, value, save_persistent_id=True):
        super().save(value, save_persistent_id)
        self._commit()  # C closes a frame after a value, not before the next one

    def save_named(self, value: Global):
        if self.proto >= 4:
            self.save(value.module)
            self.save(value.name)
            self.write(pickle.STACK_GLOBAL)
        else:
            self.write(pickle.GLOBAL + f"{value.module}\n{value.name}\n".encode())
        self.memoize(value)

    dispatch[Global] = save_named

    def save_made(self, value: Made):
        self.save(value.function)
        self.save(value.arguments)
        self.write(pickle.NEWOBJ if value.new else pickle.REDUCE)
        self.memoize(value)
        if value.state is not None:
            self.save(value.state)
            self.write(pickle.BUILD)

    dispatch[Made] = save_made

    def _batch_setitems(self, items, *unused):
        items = list(items)
        if len(items) == 1:
            for part in items[0]:
                self.save(part)
            self.write(pickle.SETITEM)
            return
        # A full last batch is followed by an empty one.
        for start in range(0, len(items) + 1, self._BATCHSIZE):
            batch = items[start : start + self._BATCHSIZE]
            if not items:
                return
            self.write(pickle.MARK)
            for key, value in batch:
                self.save(key)
                self.save(value)
            self.write(pickle.SETITEMS)

    def _batch_appends(self, items, *unused):
        items = list(items)
        if len(items) == 1:
            self.save(items[0])
            self.write(pickle.APPEND)
            return
        for start in range(0, len(items), self._BATCHSIZE):
            self.write(pickle.MARK)
            for value in items[start : start + self._BATCHSIZE]:
                self.save(value)
            self.write(pickle.APPENDS)


_STORAGES = {
    "fp32": "FloatStorage",
    "bf16": "BFloat16Storage",
    "fp16": "HalfStorage",
    "int8": "CharStorage",
    "uint8": "ByteStorage",
    "int64": "LongStorage",
}
_REBUILD = Global("torch._utils", "_rebuild_tensor_v2")
_ORDERED = Global("collections", "OrderedDict")


class _TorchPickler(Pickler):
    """Protocol 2, and storages by reference to the records that hold them."""

    dispatch = dict(Pickler.dispatch)

    def __init__(self, file):
        super().__init__(file, 2)
        self.storages: list[int] = []
        self.types = {dtype: Global("torch", name) for dtype, name in _STORAGES.items()}

    def persistent_id(self, value):
        if isinstance(value, _Storage):
            kind, elements = self.types[value.tensor.dtype], value.tensor.elements
            return ("storage", kind, str(value.key), "cpu", elements)
        return None

    def save_tensor(self, tensor: Stored):
        storage = _Storage(len(self.storages), tensor)
        self.storages.append(tensor.bytes)
        size = tuple(list(tensor.shape))
        strides = tuple(prod(max(1, n) for n in size[i + 1 :]) for i in range(len(size)))
        hooks = Made(_ORDERED, ())
        self.save(_REBUILD)
        self.save((storage, 0, size, strides, False, hooks))
        self.write(pickle.REDUCE)
        self.memoize(tensor)

    dispatch[Stored] = save_tensor


def pickle_torch(value) -> tuple[bytes, list[int]]:
    """The pickle in a file of torch.save, and the bytes of each storage."""
    file = io.BytesIO()
    pickler = _TorchPickler(file)
    pickler.dump(value)
    return file.getvalue(), pickler.storages
