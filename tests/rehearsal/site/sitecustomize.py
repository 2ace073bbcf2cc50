"""Loaded by every Python process of a rehearsal: answers that only a kernel could have computed.

All memory reads as zero. So a loss that something divides by is said to be 1; positions, all 0,
must not look like those of a packed batch; and objects that ranks exchange go through the store,
since over a null NCCL every rank holds what this one holds. The inverse error function of Gemma 3n
is a kernel that NVRTC compiles at run time, which it cannot here: its result has the right size.
"""

import importlib.abc
import importlib.util
import itertools
import pickle
import sys
from collections import Counter

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
    _erfinv = torch.erfinv
    _item, _turns, _sent, _received = torch.Tensor.item, itertools.count(), Counter(), Counter()

    def item(self):
        value = _item(self)
        return 1.0 if value == 0 and self.is_cuda and self.is_floating_point() else value

    def erfinv(x, *args, **kwargs):
        return torch.empty_like(x) if x.is_cuda else _erfinv(x, *args, **kwargs)

    def _store():
        return dist.distributed_c10d._get_default_store()

    def all_gather_object(object_list, obj, group=None):  # torch's names: some callers use them
        turn = next(_turns)
        _store().set(f"rehearsal/{turn}/{dist.get_rank()}", pickle.dumps(obj))
        ranks = range(len(object_list))
        object_list[:] = [pickle.loads(_store().get(f"rehearsal/{turn}/{r}")) for r in ranks]

    def send_object_list(object_list, dst=None, **_):
        key = f"rehearsal/{dist.get_rank()}/{dst}"
        _sent[key] += 1
        _store().set(f"{key}/{_sent[key]}", pickle.dumps(object_list))

    def recv_object_list(object_list, src=None, **_):
        key = f"rehearsal/{src}/{dist.get_rank()}"
        _received[key] += 1
        object_list[:] = pickle.loads(_store().get(f"{key}/{_received[key]}"))
        return src

    torch.Tensor.item, torch.erfinv = item, erfinv
    dist.all_gather_object = all_gather_object
    dist.send_object_list, dist.recv_object_list = send_object_list, recv_object_list
    sys.meta_path.insert(0, _Unpacked())
