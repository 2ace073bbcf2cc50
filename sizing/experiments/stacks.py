"""The set-ups of finetune-stacks as points, and as runs: reading a recording needs no torch."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..architecture.model import Model
from ..evidence.finetuning import MODELS
from ..footprint.objectives import CHUNK_OF_TOKENS, CHUNK_OF_WORDS
from ..footprint.step import memory
from ..run import Lora, Run

TRAINER, SFT, DPO = "Trainer", "SFTTrainer", "DPOTrainer"
LORA, THIN = {"lora": 16}, {"lora": 16, "targets": "q_proj v_proj"}
FULL, NF4 = {"recompute": "full"}, {"quantization": "nf4"}
# (trainer, fields that differ from bf16 autocast of all weights with AdamW fused)
STACKS = (
    (TRAINER, {"precision": "fp32"}),
    (TRAINER, {}),
    (TRAINER, FULL),
    (TRAINER, LORA),
    (SFT, {}),
    (SFT, LORA),
    (SFT, THIN),
    (SFT, LORA | FULL),
    (SFT, LORA | NF4),
    (SFT, LORA | NF4 | FULL),
    (DPO, {}),
    (DPO, LORA),
)
# Kernels that are written for GPUs, and what transformers' switch for each one is.
KERNELS = (
    (TRAINER, {"kernels": "liger"}),
    (TRAINER, {"kernels": "compiled"}),
    (TRAINER, LORA | {"kernels": "liger"}),
)
FIELDS = {
    "precision": "bf16-mixed",
    "optimizer": "adamw-fused",
    "recompute": "none",
    "lora": None,
    "targets": None,
    "quantization": None,
    "objective": "lm",
    "kernels": "eager",
}


def points(model: str, sequence: int, micro_batch: int, kernels: bool) -> list[dict]:
    """A point for each stack."""
    shape = {"model": model, "sequence": sequence, "micro_batch": micro_batch}
    found = []
    for trainer, fields in (*STACKS, *(KERNELS if kernels else ())):
        objective = {"objective": "dpo"} if trainer == DPO else {}
        found.append({"trainer": trainer, **shape, **FIELDS, **fields, **objective})
    return found


def run_of(row: dict) -> Run:
    """The run that a point, or a row of the recording, describes."""
    name = row["model"]
    lora = None
    if row["lora"]:
        targets = row["targets"].split() if row["targets"] else "all-linear"
        # TRL makes adapters over quantised layers in 16 bits.
        narrow = row["quantization"] and row["trainer"] != TRAINER
        lora = Lora(row["lora"], targets, dtype="bf16" if narrow else "fp32")
    same = ("sequence", "micro_batch", "precision", "optimizer", "recompute", "objective")
    # TRL takes head and loss by chunks of tokens; Trainer leaves them to the model.
    loss = {"loss": "chunked"} if row["trainer"] != TRAINER else {}
    return Run(
        Model(MODELS[name], name=name) if name in MODELS else name,
        **{field: row[field] for field in (*same, "kernels", "quantization")},
        lora=lora,
        **loss,
    )


@dataclass(frozen=True)
class Said:
    """What the formula says of a step: bytes at the peak, its phase, and its parts."""

    total: int
    phase: str
    parts: dict[str, int]


def formula(row: dict, step: str = "steady", device: str = "cpu") -> Said:
    """What the formula says of a row's step."""
    run = run_of(row)
    held = memory(run, step=step, device=device)
    said = Said(held.total, held.peak_phase, held.phases[held.peak_phase])
    if row["trainer"] != SFT:
        return said
    # `Run`'s chunked loss is Liger's; TRL's chunks are larger. Autocast's copies are all there.
    plain = replace(run, loss="eager")
    casts = memory(plain, step=step, device=device).phases["loss"]["temporary"]
    parts = held.phases["loss"] | head_of_trl(run, device)
    parts["temporary"] += casts
    total = sum(parts.values())
    return Said(total, "loss", parts) if total > said.total else said


def head_of_trl(run: Run, device: str) -> dict[str, int]:
    """Bytes of TRL's head at work in the backward pass, tile by tile of tokens and words.

    A tile of logits is made again in the products' dtype. On a CPU torch turns it into its gradient
    with seven fp32 copies and a mask; on a GPU a kernel does so in place, on one. Gradients of
    hidden states and head are added up in fp32.
    """
    tokens, words, hidden = run.micro_batch * run.sequence, run.model.vocab, run.model.hidden
    rows, columns = min(tokens, CHUNK_OF_TOKENS), min(words, CHUNK_OF_WORDS)
    narrow = run.recipe.activation_bytes
    tile = rows * columns * (7 * 4 + 1 if device == "cpu" else 4) + rows * columns * narrow
    sums = 4 * tokens * hidden + (0 if run.lora else 4 * words * hidden)
    return {"logits": tile, "temporary": sums}
