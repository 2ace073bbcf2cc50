"""The questions under lesson 04's calculator."""

from ...architecture.model import Model
from ...calculators.sequence import layer_bytes
from ..finding import Finding, at


def share(calculator, **settings) -> float:
    """Attention's share of a token's FLOPs at a setting."""
    rows = at(calculator, **settings).rows
    return float(rows[1][2].rstrip("%")) / 100


def _ninety(calculator) -> str:
    s = next(s for s in range(8192, 131072, 1024) if share(calculator, sequence=s) >= 0.9)
    return f"From about {s:,} tokens on, all pairs counted."


def _later(_calculator) -> str:
    one, two = (
        sum(w.active for w in Model(name).blocks[0].weights if w.kind == "matrix")
        for name in ("llama-3.1-8b", "mixtral-8x7b")
    )
    return (
        "mixtral-8x7b: its heads are the same, and a token meets "
        f"{two / one:.2f} times the weights per layer, two experts of the eight. So its crossover "
        "lies that much further."
    )


def _bends(_calculator) -> str:
    growth = {
        name: layer_bytes(Model(name), 32768, "flash") / layer_bytes(Model(name), 8192, "flash")
        for name in ("llama-3.1-8b", "gemma-3-4b")
    }
    bent = max(growth, key=growth.get)
    return (
        f"{bent}'s: from 8,192 to 32,768 tokens its flash line grows {growth[bent]:.1f} times, "
        f"the other's {min(growth.values()):.1f}. A window reaches torch's kernel as an s × s mask."
    )


FINDINGS = {
    "04.sequence": (
        Finding(_ninety, {"model": "qwen3-0.6b", "pairs": "full"}),
        Finding(_later, {"model": "mixtral-8x7b"}),
        Finding(_bends, {"model": "gemma-3-4b", "sequence": 32768, "attention": "flash"}),
    ),
}
