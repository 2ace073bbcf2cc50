"""What to change to make a step fit: each single change that can save memory, cheapest first."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..footprint.step import memory
from ..run import Run
from ..settings import Dpo

# What a change costs, in the order in which one would pay.
NOTHING, TIME, ROUNDING, ANOTHER, BUS, GPUS = (
    "nothing",
    "time",
    "coarser rounding",
    "another training",
    "the bus",
    "more GPUs",
)
SAME_TRAINING = (NOTHING, TIME, BUS, GPUS)  # the loss falls as it did


@dataclass(frozen=True)
class Cure:
    """One change: what it is called, what it costs, and the run after it."""

    what: str
    costs: str
    run: Run

    @property
    def same_training(self) -> bool:
        """Whether the loss falls as it did before."""
        return self.costs in SAME_TRAINING


def cures(run: Run) -> list[Cure]:
    """Each single change that can save memory and that an engine runs, cheapest first."""
    found = []
    for what, costs, possible, fields in _tried(run):
        if not possible:
            continue
        try:
            after = replace(run, **fields)
            memory(after)
        except ValueError:  # no engine runs it
            continue
        found.append(Cure(what, costs, after))
    return found


def _tried(run: Run) -> tuple[tuple[str, str, bool, dict], ...]:
    """(what, its cost, whether there is something to change, the fields)."""
    half = {"micro_batch": run.micro_batch // 2, "accumulation": 2 * run.accumulation}
    wide = run.optimizer in ("adamw", "adamw-fused")
    core = run.attention == "eager"
    selective = "recompute of the attention core" if core else "selective recompute, per operation"
    narrow = {"precision": "bf16", "gradients": "same"}
    quantised = {"lora": run.lora or 16, "quantization": "nf4"}
    ranks = 2 * run.data
    loss = "chunked" if isinstance(run.objective, Dpo) else "fused"  # of pairs no kernel is known
    full, lora = run.recompute == "full", run.lora is not None
    return (
        (f"{loss} loss", NOTHING, run.loss_kernel not in ("fused", "chunked"), {"loss": loss}),
        ("compiled", NOTHING, run.kernels == "eager", {"kernels": "compiled"}),
        ("outputs released", NOTHING, run.outputs != "released", {"outputs": "released"}),
        ("flash attention", NOTHING, core, {"attention": "flash"}),
        ("AdamW fused", NOTHING, run.optimizer == "adamw", {"optimizer": "adamw-fused"}),
        ("half the micro-batch, twice the accumulation", TIME, run.micro_batch > 1, half),
        (selective, TIME, run.recompute == "none", {"recompute": "selective"}),
        ("full recompute", TIME, not full, {"recompute": "full"}),
        ("autocast to bf16", ROUNDING, run.precision == "fp32", {"precision": "bf16-mixed"}),
        ("LoRA, rank 16", ANOTHER, not lora, {"lora": 16}),
        ("AdamW in 8 bits", ROUNDING, wide, {"optimizer": "adamw-8bit"}),
        ("bf16 weights, gradients and moments", ROUNDING, run.precision != "bf16", narrow),
        ("QLoRA, rank 16", ANOTHER, run.quantization is None, quantised),
        ("half the sequence length", ANOTHER, run.sequence > 1, {"sequence": run.sequence // 2}),
        *(
            (f"{what} on the host", BUS, what not in run.offload, {"offload": (*run.offload, what)})
            for what in ("activations", "optimizer", "parameters")
        ),
        (f"ZeRO-3 over {ranks} GPUs", GPUS, True, {"data": ranks, "zero": 3}),
    )


def everything(run: Run) -> Run:
    """The least that single changes reach together at this sequence length, on these GPUs and in
    this way of training; the run itself where no engine runs them together."""
    least = {
        "micro_batch": 1,
        "accumulation": 1,
        "precision": "bf16",
        "gradients": "same",
        "optimizer": "adamw-8bit",
        "recompute": "full",
        "attention": "flash",
        "loss": "chunked" if isinstance(run.objective, Dpo) else "fused",
        "outputs": "released",
        "offload": tuple(name for name in run.offload if name != "optimizer"),
    }
    try:
        together = replace(run, **least)
        memory(together)
    except ValueError:
        return run
    return together
