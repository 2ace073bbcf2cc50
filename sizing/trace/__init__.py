"""Exact accounting of a training step of the real transformers model, at any size, on no device.

The model is built from fake tensors, which have shapes and dtypes but no data, and takes two real
training steps; the second, steady one is recorded. `sizing.memory` and `sizing.flops` are the
formulas for the same quantities. Checked with torch 2.11 to 2.13 and transformers 5.17 to 5.23.
"""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from dataclasses import replace
from unittest.mock import patch

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import init
from torch.utils.flop_counter import FlopCounterMode
from transformers.integrations import moe

from ..compute import Flops
from ..recomputing import is_checkpointed
from ..run import Run
from . import build, grouped
from .cuda import cuda_operators, scratch
from .fallback import TracedModel, may_run, model
from .patience import waiting
from .quantized import as_on_cuda, scales
from .routes import EvenRoutes
from .step import Step
from .store import stored
from .tracker import PARTS, LiveBytes, Trace

DEVICES = ("cpu", "cuda")
PHASES = ("forward", "loss", "layers", "embedding", "optimizer")


@stored("memory")
def memory(run: Run, *, device: str = "cuda", library: bool = False) -> Trace:
    """Peak memory of one GPU in a steady training step, operation by operation.

    Phases: "forward"; "loss", the backward pass of loss and head; "layers", the backward pass of
    the layers; "embedding", the gradient of the embeddings; "optimizer".

    Args:
        run: the training run; its parallel degrees must be 1.
        device: whose operators: "cuda" (see sizing.trace.cuda; cuBLAS's workspaces and the
            allocator's rounding are not part of a trace), or "cpu".
        library: adapters of peft and quantised layers of bitsandbytes, which must be installed,
            instead of the same operations written out. Quantised weights are real tensors: keep
            such a model small.

    Raises:
        ValueError: a parallel degree above 1, or an unknown device.
    """
    _single(run)
    may_run(run)
    _eager(run)
    if device not in DEVICES:
        raise ValueError(f"device: {device!r} given; allowed: {', '.join(DEVICES)}")
    operators = cuda_operators() if device == "cuda" else nullcontext()
    with _patience(run), _tensors_of(run), _kernels_of(run), operators, _routes(run) as routes:
        step = Step(run, library=library)
        logits = (step.batch.numel(), run.model.vocab)
        options = {"scratch": scratch} if device == "cuda" else {}
        if routes is not None:
            options["answer"] = routes.answer
        tracker = LiveBytes(logits, **options)
        with tracker:
            tracker.tag(step.batch, "activations")
            for network in filter(None, (step.model, step.frozen)):
                for tensor in (*network.parameters(), *network.buffers(), *scales(network)):
                    tracker.tag(tensor, "parameters")
            for tensor in step.buffers:
                tracker.tag(tensor, "gradients")
            _mark_phases(step, tracker)

            def enter(phase):
                tracker.phase = phase

            step(enter)
            for tensor in _tensors(step.optimizer.state):
                tracker.tag(tensor, "optimizer")
            tracker.start()
            step(enter)
    peaks = tracker.peaks
    phases = {name: {part: peaks[name][part] for part in PARTS} for name in PHASES if name in peaks}
    return Trace(phases, tuple(tracker.timeline))


@stored("flops")
def flops(run: Run) -> Flops:
    """Matmul FLOPs of one optimizer step over all ranks, counted by torch's FlopCounterMode.

    The model runs with eager attention whatever `run.attention` says: the counter does not know
    every fused kernel, and the products are the same.

    Raises:
        ValueError: a tensor, pipeline or context parallel degree above 1.
    """
    for field in ("tensor", "pipeline", "context"):
        _require_one(run, field)
    may_run(run)
    attention = "recomputed_core" if run.recompute == "selective" else "eager"
    if run.recompute == "selective" and run.attention != "eager":
        # Fused attention is kept. The counter has no FLOPs for it in either pass: what is run again
        # is counted with it, all else without.
        attention = None
    ahead, back = _counted(run, attention)
    again = back - _plain_backward(run, ahead, back, attention)
    if attention is None:
        ahead, back = _counted(run, "eager", plain=True)
    else:
        back -= again
    count = run.accumulation * run.data
    return Flops(count * ahead, count * back, count * again)


def _plain_backward(run: Run, ahead: int, back: int, attention: str | None) -> int:
    """FLOPs of one backward pass without recompute."""
    if run.recompute == "none":
        return back
    if _two_products_backward(run):
        return 2 * ahead  # each matrix of the forward pass is multiplied twice
    return _counted(run, "eager" if attention else "fused_core", plain=True)[1]


def _two_products_backward(run: Run) -> bool:
    """Not of frozen weights, nor of scans, loops and sums from block to block."""
    apart = getattr(run.model, "traced", False) or run.model.family == "minimax"
    return not apart and run.lora is None


def _counted(run: Run, attention: str | None, plain: bool = False) -> tuple[int, int]:
    """FLOPs of one forward and one backward pass; `plain`, without what is run again."""
    checkpointed = is_checkpointed(run.recompute, run.attention)
    if plain:
        run = replace(run, recompute="none", accumulation=1, data=1)
    with _patience(run), _fake_tensors(), _routes(run):
        step = Step(run, attention=attention)
        if plain and checkpointed:  # as transformers does under recompute
            step.model.enable_input_require_grads()
        with flop_counter() as forward:
            loss = step.forward()
        with flop_counter() as backward:
            loss.backward()
        del loss
    return forward.get_total_flops(), backward.get_total_flops()


def _patience(run: Run):
    """A bar for a model without a formula: nobody knows how large it is."""
    traced = getattr(run.model, "traced", False)
    return waiting(f"tracing {run.model.family}") if traced else nullcontext()


def _routes(run: Run):
    """Answers to what the code of a model without a formula asks of its tokens' values."""
    if not getattr(run.model, "traced", False):
        return nullcontext()
    return EvenRoutes(run, build.config_of(run.model))


def flop_counter() -> FlopCounterMode:
    """torch's counter, taught the product of grouped rows with their experts' matrices."""
    operators = torch.ops.transformers
    return FlopCounterMode(
        display=False,
        custom_mapping={
            operators.grouped_mm_fallback: _grouped_flops,
            operators.grouped_mm_fallback_backward: _grouped_backward_flops,
        },
    )


def _grouped_flops(rows, weight, *args, out_shape=None, **kwargs) -> int:
    """Each row meets one expert's matrix: (rows, K) x (experts, K, N)."""
    return 2 * rows[0] * weight[-2] * weight[-1]


def _grouped_backward_flops(rows, weight, *args, out_shape=None, **kwargs) -> int:
    return 2 * _grouped_flops(rows, weight)


@contextmanager
def _fake_tensors():
    with (
        build.not_packed(),
        patch.object(moe, "_grouped_mm", grouped.product),
        # it draws until no value is outside, which a tensor without values cannot tell
        patch.object(init, "_no_grad_trunc_normal_", lambda tensor, *args, **kwargs: tensor),
        FakeTensorMode(),
        torch.device("cpu"),
    ):
        yield


def _tensors_of(run: Run):
    """Fake tensors; bitsandbytes' own kinds of weight are real ones, so that a model is small."""
    return _fake_tensors() if run.quantization is None else build.not_packed()


def _kernels_of(run: Run):
    return nullcontext() if run.quantization is None else as_on_cuda()


def _mark_phases(step: Step, tracker: LiveBytes) -> None:
    """Move the tracker's phase with the backward pass, and tag gradients when complete."""

    def enter_on_gradient(tensor, phase):
        if tensor.requires_grad:
            tensor.register_hook(lambda _: setattr(tracker, "phase", phase))

    step.model.get_output_embeddings().register_forward_pre_hook(
        lambda module, args: enter_on_gradient(args[0], "layers")
    )
    step.model.get_input_embeddings().register_forward_hook(
        lambda module, args, out: enter_on_gradient(out, "embedding")
    )
    if not step.buffers and not step.run.optimizer_in_backward:
        for _, p in step.named:
            p.register_post_accumulate_grad_hook(lambda p: tracker.tag(p.grad, "gradients"))


def _tensors(state) -> list[torch.Tensor]:
    if isinstance(state, torch.Tensor):
        return [state]
    if isinstance(state, dict):
        state = tuple(state.values())
    if isinstance(state, (list, tuple)):
        return [tensor for value in state for tensor in _tensors(value)]
    return []


def _single(run: Run) -> None:
    for field in ("data", "tensor", "pipeline", "context"):
        _require_one(run, field)


def _eager(run: Run) -> None:
    """A ValueError for what no trace runs: its step is eager PyTorch's, on one GPU."""
    for field, allowed in (("kernels", "eager"), ("loss_kernel", "eager")):
        if getattr(run, field) != allowed:
            name = field.removesuffix("_kernel")
            given = getattr(run, name)
            raise ValueError(
                f"{name}: {given!r} given; allowed in a traced step: {allowed!r}, as a trace runs "
                "eager PyTorch on one GPU"
            )
    if set(run.offload) - {"activations"}:
        raise ValueError(
            f"offload: {run.offload!r} given; allowed in a traced step: 'activations' (on fake "
            "tensors there is no host)"
        )
    if run.recipe.products == "fp8":
        raise ValueError(
            "precision: 'fp8' given; allowed in a traced step: 'bf16-mixed', ... (torchao's fp8 "
            "layers need a GPU)"
        )


def _require_one(run: Run, field: str) -> None:
    if getattr(run, field) != 1:
        raise ValueError(
            f"{field}: {getattr(run, field)} given; allowed: 1 (a trace runs on one rank)"
        )


__all__ = ["PARTS", "PHASES", "Step", "Trace", "TracedModel", "flops", "memory", "model"]
