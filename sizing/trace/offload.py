"""Activations kept out of a traced step's memory, as torchtune's OffloadActivations keeps them."""

from __future__ import annotations

import torch
from torch.autograd.graph import saved_tensors_hooks


class Activations:
    """A context in which what autograd saves leaves, until the backward pass asks for it.

    Weights stay, and from the head on everything: as in torchtune, whose loss is outside and whose
    head is spared. What leaves is forgotten here: fetched tensors are new and empty.

    Attributes:
        sent: bytes handed over so far, each operation's own.
    """

    def __init__(self, model):
        self.sent = 0
        self._open = False
        self._weights = {p.untyped_storage()._cdata for p in model.parameters()}
        head = model.get_output_embeddings()
        head.register_forward_pre_hook(lambda module, args: setattr(self, "_open", False))

    def __enter__(self):
        self._open = True
        self._hooks = saved_tensors_hooks(self._pack, self._unpack)
        self._hooks.__enter__()

    def __exit__(self, *error):
        self._hooks.__exit__(*error)

    def _pack(self, tensor: torch.Tensor):
        if not self._open or tensor.untyped_storage()._cdata in self._weights:
            return tensor
        self.sent += tensor.nbytes
        return tensor.shape, tensor.stride(), tensor.dtype, tensor.device

    def _unpack(self, kept):
        if isinstance(kept, torch.Tensor):
            return kept
        shape, stride, dtype, device = kept
        return torch.empty_strided(shape, stride, dtype=dtype, device=device)
