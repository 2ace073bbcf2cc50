"""The questions under lesson 07's calculator."""

from dataclasses import replace

from ...architecture import Model
from ...calculators.batch import knee
from ...footprint import memory
from ...run import Run
from ..finding import Finding, at

H100 = {"model": "llama-3.2-1b", "sequence": 2048, "attention": "flash", "gpu": "h100-sxm"}


def choices(calculator, **settings) -> dict[str, tuple[str, ...]]:
    """The row of each way to recompute at a setting: peak, ..., largest that fits, its time."""
    return {row[0]: row for row in at(calculator, **settings).rows}


def _largest(calculator) -> str:
    result = at(calculator, recompute="none")
    turn = knee(result.data[0]["none"]).micro_batch
    most = int(choices(calculator)["none"][4])
    side = "past it" if most >= turn else "short of it"
    return f"{most}; the knee is at {turn}, within 10 % of the fastest: so {side}."


def _cheaper(calculator) -> str:
    said = []
    for attention in ("flash", "eager"):
        rows = choices(calculator, attention=attention)
        none, full = rows["none"], rows["full"]
        said.append(
            f"{attention}: {full[5]} per token at micro-batch {full[4]}, {none[5]} at {none[4]}"
        )
    return f"No: {'; '.join(said)}. By this formula of time recompute pays where nothing else fits."


def _eight(calculator) -> str:
    rows = choices(calculator, model="qwen3-8b")
    fits = [name for name, row in rows.items() if row[4] != "none"]
    run = Run(Model("qwen3-8b"), sequence=2048, recompute="full")
    narrow = {
        "8-bit AdamW": replace(run, optimizer="adamw-8bit"),
        "all in bf16 with 8-bit AdamW": replace(run, optimizer="adamw-8bit", precision="bf16"),
    }
    after = ", ".join(
        f"{what} {held.total / 1e9:.1f} GB ({held.on('h100-sxm').verdict})"
        for what, held in ((what, memory(each)) for what, each in narrow.items())
    )
    return (
        f"{', '.join(fits) or 'None'}, at no micro-batch: the state alone is over the card. The "
        f"optimizer and the precision come first. At micro-batch 1, full recompute: {after}."
    )


FINDINGS = {
    "07.batch": (
        Finding(_largest, H100 | {"recompute": "none"}),
        Finding(_cheaper, H100 | {"recompute": "full"}),
        Finding(_eight, H100 | {"model": "qwen3-8b", "recompute": "full"}),
    ),
}
