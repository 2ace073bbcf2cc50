"""Loaded by every Python process of a rehearsal: answers that only a kernel could have computed.

All memory reads as zero. So a loss that something divides by is said to be 1; positions, all 0,
must not look like those of a packed batch; and objects that ranks exchange go through the store,
since over a null NCCL every rank holds what this one holds.
"""

import importlib.abc
import importlib.util
import itertools
import pickle
import sys

try:
    import torch
    import torch.distributed as dist
except ImportError:  # a process of another Python
    torch = None


class _Unpacked(importlib.abc.MetaPathFinder):
    """transformers' masking, with no packed sequences found."""

    def find_spec(self, name, path, target=None):
        if name != "transformers.masking_utils":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.find_packed_sequence_indices = lambda *args, **kwargs: None

        spec.loader.exec_module = exec_module
        return spec


if torch is not None:
    _item, _turns = torch.Tensor.item, itertools.count()

    def item(self):
        value = _item(self)
        return value if value or not self.is_cuda else type(value)(1)

    def all_gather_object(object_list, obj, group=None):  # torch's names: some callers use them
        store, turn = dist.distributed_c10d._get_default_store(), next(_turns)
        store.set(f"rehearsal/{turn}/{dist.get_rank()}", pickle.dumps(obj))
        ranks = range(len(object_list))
        object_list[:] = [pickle.loads(store.get(f"rehearsal/{turn}/{r}")) for r in ranks]

    torch.Tensor.item = item
    dist.all_gather_object = all_gather_object
    sys.meta_path.insert(0, _Unpacked())
