"""bitsandbytes' layers in a model, prepared as peft prepares them for training."""

from __future__ import annotations

import importlib.util
from contextlib import nullcontext
from unittest.mock import patch

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..lora import linear_layers
from ..run import Run
from . import build


def replace_linears(network: nn.Module, run: Run) -> nn.Module:
    """Quantise the linear layers inside the blocks; under fp32 recipes all else becomes fp32.

    That is what transformers' BitsAndBytesConfig does on loading, and then peft's
    `prepare_model_for_kbit_training`, which a model in pure bf16 goes without.
    """
    import peft

    names = linear_layers(run.model)
    for name, module in list(network.named_modules()):
        if isinstance(module, (nn.Linear, Conv1D)) and _inside(name) in names:
            parent, _, child = name.rpartition(".")
            setattr(network.get_submodule(parent), child, _layer(module, run))
    flag = "is_loaded_in_8bit" if run.quantization == "int8" else "is_loaded_in_4bit"
    setattr(network, flag, True)
    if run.recipe.weights == "fp32":
        return peft.prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    return network.requires_grad_(False)


def _inside(name: str) -> str:
    """A module's name inside its block: "model.layers.0.mlp.up_proj" -> "mlp.up_proj"."""
    parts = name.split(".")
    places = [i for i, part in enumerate(parts) if part.isdigit()]
    return ".".join(parts[places[0] + 1 :]) if places else ""


def _layer(module: nn.Module, run: Run) -> nn.Module:
    import bitsandbytes as bnb

    rows, columns = module.weight.shape
    out, into = (columns, rows) if isinstance(module, Conv1D) else (rows, columns)
    compute, biased = build.DTYPES[run.recipe.products], module.bias is not None
    weight = torch.empty(out, into, dtype=compute)
    if run.quantization == "int8":
        # Columns beyond the threshold are kept in 16 bits beside the rest: how many depends on the
        # data. Without any it is what a step holds least.
        layer = bnb.nn.Linear8bitLt(into, out, biased, has_fp16_weights=False, threshold=0.0)
        layer.weight = bnb.nn.Int8Params(weight, requires_grad=False, has_fp16_weights=False)
        layer.weight = layer.weight._quantize("cpu")
    else:
        double = run.quantization == "nf4-double"
        layer = bnb.nn.Linear4bit(into, out, biased, compute, double, "nf4")
        layer.weight = bnb.nn.Params4bit(weight, False, None, None, double, "nf4")._quantize("cpu")
    if biased:
        layer.bias = nn.Parameter(module.bias.data.to(compute), requires_grad=False)
    return layer.train()


def scales(network: nn.Module) -> list[torch.Tensor]:
    """What quantised weights need beside their codes: no parameters or buffers of a module."""
    found = []
    for module in network.modules():
        state = getattr(getattr(module, "weight", None), "quant_state", None)
        if state is not None:
            found += [state.absmax, state.code]
            if state.nested:
                found += [state.offset, state.state2.absmax]
        elif type(module).__name__ == "Linear8bitLt":
            found.append(module.weight.SCB if module.weight.SCB is not None else module.state.SCB)
    return found


def as_on_cuda():
    """bitsandbytes trains int8 layers on a CPU by a product of its own; here as on a GPU."""
    if importlib.util.find_spec("bitsandbytes") is None:
        return nullcontext()
    from bitsandbytes.autograd import _functions

    return patch.object(_functions, "MatMul8bitFp", _functions.MatMul8bitLt)
