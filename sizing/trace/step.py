"""One optimizer step of a run, taken as a trainer takes it, on real or on fake tensors."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import nn

from ..footprint.objectives import as_one_batch
from ..run import Run
from ..settings import Dpo
from . import adapters, build, objectives, offload, optimizers


class Step:
    """Model, optimizer and data of a run; calling it takes one optimizer step.

    The loss is the model's own, computed from labels; the caller keeps the loss alone, so that the
    logits are released before the backward pass, as in transformers' Trainer. Gradients are set to
    None after the step. Every micro-batch after the second costs what the second costs: only two
    are taken.

    Args:
        run: the training run on one GPU.
        attention: overrides transformers' attention implementation.
        library: adapters of peft and quantised layers of bitsandbytes, which must be installed.
    """

    def __init__(self, run: Run, attention: str | None = None, library: bool = False):
        self.run = run
        self.model = build.model(run, attention)
        if run.lora:
            add = adapters.add_with_peft if library else adapters.add
            self.model = add(self.model, run)
        sequences = as_one_batch(run).micro_batch
        self.batch = torch.zeros(sequences, run.sequence, dtype=torch.long)
        self.frozen = objectives.frozen(run)
        self.micro_batches = min(run.accumulation, 2)
        self.named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.buffers = self._gradient_buffers()
        self.optimizer = self._optimizer()
        self.kept: torch.Tensor | None = None  # of the model's outputs, see `Run.outputs`
        self.away = offload.Activations(self.model) if "activations" in run.offload else None

    def _optimizer(self):
        outer = [self.model.get_input_embeddings(), self.model.get_output_embeddings()]
        tables = {
            p for m in self.model.modules() if isinstance(m, nn.Embedding) for p in m.parameters()
        }
        tables |= {p for module in outer for p in module.parameters()}
        hidden = {n for n, p in self.named if p.ndim == 2 and p not in tables}

        def make(named):
            return optimizers.build(self.run.optimizer, named, hidden)

        if self.run.recipe.master:
            return optimizers.MasterWeights(self.named, make)
        if self.run.optimizer_in_backward:
            return optimizers.InBackward(self.named, make)
        return make(self.named)

    def _gradient_buffers(self) -> list[torch.Tensor]:
        """fp32 accumulation buffers; each gradient is added to its buffer and released at once."""
        if self.run.gradients == "same" or self.run.recipe.weight_bytes == 4:
            return []
        buffers = []
        for _, p in self.named:
            buffer = torch.zeros_like(p, dtype=torch.float32)
            buffers.append(buffer)

            def accumulate(p, buffer=buffer):
                buffer.add_(p.grad)
                p.grad = None

            p.register_post_accumulate_grad_hook(accumulate)
        return buffers

    def forward(self) -> torch.Tensor:
        recipe, device = self.run.recipe, self.batch.device.type
        products = build.DTYPES[recipe.products]
        away = self.away or nullcontext()
        if isinstance(self.run.objective, Dpo):
            with away:
                return objectives.loss(self.run, self.model, self.frozen, self.batch)
        with torch.autocast(device, products) if recipe.autocast else nullcontext(), away:
            if self.run.objective != "lm":
                return objectives.loss(self.run, self.model, self.frozen, self.batch)
            found = self.model(input_ids=self.batch, labels=self.batch, use_cache=False)
        if self.run.outputs != "released":
            self.kept = found.logits
        if self.run.outputs == "fp32":  # accelerate's convert_outputs_to_fp32
            self.kept = self.kept.float()
        return found.loss

    def update(self) -> None:
        if not self.buffers:
            self.optimizer.step()
        elif self.run.recipe.master:
            self.optimizer.step(self.buffers)
        else:
            for (_, p), buffer in zip(self.named, self.buffers, strict=True):
                p.grad = buffer.to(p.dtype)
            self.optimizer.step()
        for _, p in self.named:
            p.grad = None
        for buffer in self.buffers:
            buffer.zero_()

    def __call__(self, enter=lambda phase: None) -> None:
        """Take the step; `enter` is called with "forward", "loss" and "optimizer" as they begin."""
        for _ in range(self.micro_batches):
            enter("forward")
            loss = self.forward()
            enter("loss")
            loss.backward()
            del loss
            self.kept = None
        enter("optimizer")
        self.update()
