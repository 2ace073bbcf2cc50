"""Adapters on a model: peft's own, and the same operations where peft is not installed."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy as shallow
from unittest.mock import patch

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers.pytorch_utils import Conv1D

from ..lora import Lora, linear_layers
from ..run import Run
from . import build, quantized


class LoraLinear(nn.Module):
    """A frozen linear layer with a trained low-rank update beside it (Hu et al., arXiv:2106.09685).

    As peft builds it: the input cast to the adapters' dtype, their dropout, the update added, the
    sum cast back.
    """

    def __init__(self, base: nn.Module, lora: Lora, dtype: torch.dtype):
        super().__init__()
        rows, columns = base.weight.shape
        out, into = (columns, rows) if isinstance(base, Conv1D) else (rows, columns)
        self.base = base
        self.lora_A = nn.Linear(into, lora.rank, bias=False, dtype=dtype)
        self.lora_B = nn.Linear(lora.rank, out, bias=False, dtype=dtype)
        self.dropout = lora.dropout
        self.scaling = 1.0

    @property
    def weight(self) -> torch.Tensor:  # some models look at it
        return self.base.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base(x)
        dtype = result.dtype
        x = x.to(self.lora_A.weight.dtype)
        result = result + self.lora_B(self.lora_A(self._dropped(x))) * self.scaling
        return result.to(dtype)

    def _dropped(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.dropout(x, self.dropout, self.training) if self.dropout else x


class TrainedCopy(nn.Module):
    """A module that is trained whole on a copy of itself; the frozen one stays in memory."""

    def __init__(self, original: nn.Module):
        super().__init__()
        copy = shallow(original)
        copy._parameters = {
            name: None if p is None else nn.Parameter(torch.empty_like(p))
            for name, p in original._parameters.items()
        }
        self.original, self.copy = original, copy.requires_grad_(True)

    @property
    def weight(self) -> torch.Tensor:
        return self.copy.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.copy(x)


def dtype_of(run: Run) -> torch.dtype:
    """The adapters' dtype: in 16 bits the run's own."""
    fp16 = run.lora.dtype == "bf16" and run.recipe.products == "fp16"
    return torch.float16 if fp16 else build.DTYPES[run.lora.dtype]


def put_on(network: nn.Module, run: Run, among: Callable[[str], bool] = bool) -> None:
    """Freeze a module, and put adapters on those of its linear layers that `among` names."""
    lora, dtype = run.lora, dtype_of(run)
    network.requires_grad_(False)
    for name, module in list(network.named_modules()):
        if among(name) and isinstance(module, (nn.Linear, Conv1D)) and lora.adapts(name):
            _put(network, name, LoraLinear(module, lora, dtype))


def add(network: nn.Module, run: Run) -> nn.Module:
    """Freeze all weights and put the run's adapters on its linear layers, without peft."""
    if run.quantization is not None:
        raise ValueError(
            f"quantization: {run.quantization!r} given; allowed: None, or a trace with "
            "library=True (bitsandbytes' own layers)"
        )
    put_on(network, run, lambda name: _inside(name, run))
    for name in _tables(network, run.lora):
        module = network.get_submodule(name)
        _put(network, name, TrainedCopy(module))
    return network


def _inside(name: str, run: Run) -> bool:
    """Whether a module such as "model.layers.0.mlp.up_proj" is a linear layer of a block."""
    parts = name.split(".")
    place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
    if place is None or getattr(run.model, "traced", False):
        return place is not None
    return ".".join(parts[place + 1 :]) in linear_layers(run.model)


def add_with_peft(network: nn.Module, run: Run) -> nn.Module:
    """The same with the real library, over bitsandbytes' layers where the run is quantised."""
    import peft

    lora = run.lora
    if run.quantization is not None:
        network = quantized.replace_linears(network, run)
    tables = list(_tables(network, lora))
    config = peft.LoraConfig(
        r=lora.rank,
        target_modules=lora.targets if lora.targets == "all-linear" else list(lora.targets),
        lora_dropout=lora.dropout,
        modules_to_save=tables or None,
        task_type="CAUSAL_LM",
    )
    with (
        # Adapters are made in fp32 and where they are to be: fake tensors cannot be moved, nor
        # copied with the mode that they belong to.
        patch.object(nn.Module, "to", lambda module, *args, **kwargs: module),
        patch.object(FakeTensorMode, "__deepcopy__", lambda mode, memo: mode, create=True),
    ):
        network = peft.get_peft_model(network, config)
    for name, parameter in network.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.to(dtype_of(run))
    return network


def _tables(network: nn.Module, lora: Lora) -> list[str]:
    """The modules that `Lora.embeddings` means, by their own names."""
    found = {
        "embed_tokens": network.get_input_embeddings(),
        "lm_head": network.get_output_embeddings(),
    }
    wanted = [found[name] for name in lora.embeddings]
    return [name for name, module in network.named_modules() if any(module is w for w in wanted)]


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(network.get_submodule(parent), child, module)
