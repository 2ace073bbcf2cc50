"""The questions under lesson 12's calculator."""

from ...units import gb
from ..finding import Finding, at

START = {
    "model": "llama-3.1-8b",
    "objective": "lm",
    "sequence": 2048,
    "micro_batch": 1,
    "precision": "bf16-mixed",
    "recompute": "none",
    "lora": 16,
    "offload": (),
    "gpu": "rtx-4090",
}


def _cures(calculator) -> str:
    rows = at(calculator).rows[1:-1]  # without "nothing" and "all of them"
    cures = [what for what, _, _, _, verdict, _ in rows if verdict != "does not fit"]
    return (
        f"{len(cures)} of {len(rows)}: {', '.join(cures)}. Both act on the activations; weights in "
        "four bits alone are not enough."
    )


def _rank(calculator) -> str:
    low, high = (at(calculator, lora=rank).data.memory for rank in (8, 64))
    before, after = (held.phases[held.peak_phase] for held in (low, high))
    grown = {part: size - before[part] for part, size in after.items() if size > before[part]}
    return (
        f"By {gb(high.total - low.total)}, {high.total / low.total - 1:.0%}: "
        f"{', '.join(f'{part} {gb(size)}' for part, size in grown.items())}. Gradients grow too, "
        f"but there are none yet at the peak ({high.peak_phase}). The rank is not what fills a "
        "card."
    )


def _preferences(calculator) -> str:
    plain, pair = (at(calculator, objective=kind).data.memory for kind in ("lm", "dpo"))
    return (
        f"{gb(pair.total - plain.total)} more, {gb(pair.total)} in all, now in {pair.peak_phase}: "
        "two sequences for each pair, while the reference is the same weights with the adapters "
        "off."
    )


FINDINGS = {
    "12.memory": (
        Finding(_cures, START),
        Finding(_rank, START | {"lora": 64}),
        Finding(_preferences, START | {"recompute": "full", "objective": "dpo"}),
    ),
}
