"""The questions under lesson 06's calculator."""

from ..finding import Finding, at


def totals(calculator, **settings) -> dict[str, float]:
    """Bytes per parameter of each optimizer at a setting, weights and gradients included."""
    return {row[0]: float(row[5]) for row in at(calculator, **settings).rows}


def _fit(calculator) -> str:
    rows = at(calculator, precision="bf16-master").rows
    fits = ", ".join(f"{row[0]} ({row[6]})" for row in rows if row[7] == "fits")
    return (
        f"{fits}, of 85.52 GB on an H100. That is state alone: activations, logits and what the "
        "driver takes come on top, so the ones near the limit leave no room to train."
    )


def muon_saves(calculator, model: str) -> float:
    """Bytes per parameter that Muon keeps less than AdamW."""
    found = totals(calculator, model=model)
    return found["adamw"] - found["muon"]


def _muon(calculator) -> str:
    large, small = (muon_saves(calculator, m) for m in ("llama-3.1-8b", "gemma-3-270m"))
    return (
        f"{large:.2f} bytes per parameter against {small:.2f}: Muon saves 4 on matrices inside the "
        "layers, and most of gemma-3-270m is the token table, which keeps AdamW's 8."
    )


def _rank(calculator) -> str:
    found = totals(calculator, lora=16)
    return (
        f"Hardly: from {min(found.values()):.3g} ({min(found, key=found.get)}) to "
        f"{max(found.values()):.3g} bytes per parameter of the model. The frozen weights are "
        "nearly all of it."
    )


FINDINGS = {
    "06.optimizer": (
        Finding(_fit, {"model": "llama-3.1-8b", "precision": "bf16-master"}),
        Finding(_muon, {"model": "gemma-3-270m", "optimizer": "muon"}),
        Finding(_rank, {"lora": 16}),
    ),
}
