"""Memory of a training step, phase by phase, in closed form.

What a GPU holds changes through a step: activations grow in the forward pass, the loss adds its
copies of the logits, gradients replace activations in the backward pass, the optimizer adds its
temporaries. The peak is the largest of these phases, not their sum.

Describes transformers 5.23 on PyTorch 2.13. Checked against `sizing.trace` (data/memory_error.csv)
and, for CUDA, against torch's allocator (data/cuda_error.csv). A total is what tensors ask for;
`Memory.on` adds what a GPU holds beside them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..parallel import check_degrees
from ..run import Run
from ..settings import Dpo
from .divided import divided_moments_of
from .forms import chunks_preferences, form_of, representative
from .forward import turning_points
from .held import PARTS, PHASES, Memory, ModelState
from .moments import Moments
from .objectives import CHUNK_OF_TOKENS, as_one_batch
from .offload import leaves_at_once, traffic
from .recorded import moments_of, state_of
from .sharding import gathers
from .tape import SAME_BYTES, value

__all__ = ["PARTS", "PHASES", "Memory", "ModelState", "memory", "memory_grid", "model_state"]

DEVICES = ("cpu", "cuda")
STEPS = ("steady", "first")


def memory(run: Run, *, device: str = "cuda", step: str = "steady") -> Memory:
    """Peak memory of a training step and what it is made of, in bytes, on the fullest GPU.

    Phases: "forward", its end; "loss", backward through loss and head; "layers", backward through
    the layers; "embedding", the embeddings' gradient; "optimizer", the update.

    Args:
        run: the training run. On several GPUs the phases are those of one GPU divided by
            `sharding.Share`, which says what each degree divides and adds.
        device: whose operators: "cuda", or "cpu" to hold it against steps and traces there. The
            CPU keeps dropout masks in the activations' dtype, CUDA as bytes; their lists of
            autocast operators differ for GPT-2's activation and softmax. "flash" attention is
            FlashAttention-2 on CUDA, and memory-efficient attention for fp32 and for masks, with
            grouped keys and values repeated first; transformers alone falls back to s x s scores
            for fp32 with grouped heads. What CUDA's kernels allocate is in `kernels`.
        step: "steady", or "first": the optimizer's moments do not exist before its first update,
            so that forward and backward pass are lighter and a run can fail at that update.

    Raises:
        ValueError: an activation function that the formula does not know, an unknown device,
            degrees that do not divide the model (see `parallel.check_degrees`).
    """
    if run.objective != "lm":
        run = as_one_batch(run)
    plan, batch, sequence = _plan_of(run, device, step), run.micro_batch, run.sequence
    if run.gpus == 1 and "parameters" not in run.offload:
        found = plan.evaluate(batch, sequence)
    else:
        if run.quantization is not None and run.zero == 3:
            raise ValueError(
                f"zero: 3 given with quantization {run.quantization!r}; allowed: 0 to 2 (FSDP runs "
                "it with bitsandbytes' bnb_4bit_quant_storage, as fsdp_qlora does; packed weights "
                "that are gathered layer by layer are not sized here)"
            )
        check_degrees(run)
        found = divided_moments_of(run, plan).evaluate(batch, sequence)
    if run.offload or plan.beside.host.optimizer:
        return _with_host(found, run, plan)
    return found


def _with_host(found: Memory, run: Run, plan: Moments) -> Memory:
    """With what lies on the host, of the GPU's largest stage."""
    share, tokens = 1.0, 1.0
    if run.gpus > 1:
        largest = max(divided_moments_of(run, plan).shares, key=lambda one: one.whole)
        share, tokens = largest.whole, largest.layers * largest.tokens * (1 + largest.others)
    saved = value(plan.beside.saved, run.micro_batch, run.sequence) * tokens
    host, bus = traffic(run, plan.beside, share, saved)
    return replace(found, host=host, bus=bus)


def memory_grid(run: Run, micro_batch, sequence, *, device: str = "cuda") -> np.ndarray:
    """`memory(run).total` for many micro-batches and sequence lengths at once.

    Args:
        run: what all points share.
        micro_batch, sequence: arrays of whole numbers >= 1 that broadcast against each other, such
            as shapes (50, 1) and (50,).
        device: as in `memory`.

    Returns:
        Bytes, int64, of the broadcast shape; equal to `memory` at each point.

    Raises:
        ValueError: as `memory` and `Run` at any of the points.
    """
    batches, sequences = np.broadcast_arrays(
        _whole_numbers("micro_batch", micro_batch), _whole_numbers("sequence", sequence)
    )
    if isinstance(run.objective, Dpo):
        batches = 2 * batches
    totals = np.zeros(batches.shape, np.int64)
    if not totals.size:
        return totals
    forms = {int(s): form_of(run.model, int(s)) for s in np.unique(sequences)}
    numbers = {form: number for number, form in enumerate(dict.fromkeys(forms.values()))}
    which = np.array([numbers[form] for form in forms.values()])
    kinds = 2 * which[np.searchsorted(list(forms), sequences)] + (batches > 1)
    if device == "cuda" or chunks_preferences(run):
        points = turning_points(run.model, run.loss_kernel == "chunked")
        if chunks_preferences(run):
            points = tuple(sorted({*points, CHUNK_OF_TOKENS}))
        kinds = kinds * (len(points) + 1) + np.searchsorted(points, batches * sequences)
    for length in np.unique(sequences):
        check_degrees(replace(run, sequence=int(length)))
    for kind in np.unique(kinds):
        here = kinds == kind
        b, s = batches[here], sequences[here]
        at = replace(run, micro_batch=int(b[0]), sequence=int(s[0]))
        plan = _plan_of(at, device)
        if run.gpus > 1 or "parameters" in run.offload:
            plan = divided_moments_of(at, plan)
        totals[here] = plan.totals_of(b, s)
    return totals


def model_state(run: Run) -> ModelState:
    """Bytes of parameters, gradients and optimizer state of the whole model, divided by nothing.

    Mixed-precision Adam ("bf16-master") has 2 + 2 + 12 bytes a parameter (Rajbhandari et al.,
    arXiv:1910.02054, section 3.1).
    """
    return ModelState(**state_of(run))


def _whole_numbers(field: str, values) -> np.ndarray:
    numbers = np.asarray(values)
    if numbers.size and (numbers.dtype.kind not in "iu" or numbers.min() < 1):
        raise ValueError(f"{field}: {values!r} given; allowed: whole numbers >= 1")
    return numbers.astype(np.int64)


def _plan_of(run: Run, device: str, step: str = "steady") -> Moments:
    if device not in DEVICES:
        raise ValueError(f"device: {device!r} given; allowed: {', '.join(map(repr, DEVICES))}")
    if step not in STEPS:
        raise ValueError(f"step: {step!r} given; allowed: {', '.join(map(repr, STEPS))}")
    sequence = run.sequence
    return moments_of(
        run.model,
        "bf16" if run.gathers_products else SAME_BYTES.get(run.precision, run.precision),
        "fp32" if run.gathers_products else _gradients_kept(run),
        run.optimizer,
        run.recompute,
        run.attention,
        run.accumulation > 1,
        run.micro_batch > 1,
        form_of(run.model, sequence),
        run.lora,
        run.quantization,
        run.kernels,
        run.loss,
        # accelerate casts the model's outputs for TRL, under autocast and FSDP's policy alike
        "fp32" if isinstance(run.objective, Dpo) and run.recipe.autocast else run.outputs,
        device,
        step,
        representative(run, run.micro_batch * sequence)
        if device == "cuda" or chunks_preferences(run)
        else 1,
        run.gathers_products,
        run.objective,
        run.offload,
        run.optimizer_in_backward,
        run.zero >= 2 and (run.gpus > 1 or gathers(run)),
        leaves_at_once(run) and not (run.zero >= 2 and (run.gpus > 1 or gathers(run))),
    )


def _gradients_kept(run: Run) -> str:
    """`Run.gradients`, or "both": DeepSpeed's pipeline adds 16-bit gradients to the fp32 ones after
    each backward pass and clears them before the next one, so they stay (deepspeed/runtime/pipe/
    engine.py, update_hp_grads(clear_lp_grads=False))."""
    both = run.engine == "megatron-deepspeed" and run.gradients == "fp32"
    return "both" if both and run.lora is None else run.gradients
