"""The questions under lesson 05's calculator."""

from ..finding import Finding, at

NO_FIT = {"model": "llama-3.1-8b", "sequence": 512, "micro_batch": 1, "gpu": "h100-sxm"}
SMALL = {"model": "llama-3.2-1b", "sequence": 1024, "micro_batch": 1, "gpu": "h100-sxm"}


def single_changes(calculator, **settings) -> list[tuple[str, ...]]:
    """(change, peak, of now, phase, verdict, cost) of each single change at a setting."""
    return list(at(calculator, **settings).rows[1:-1])


def _saves(calculator) -> str:
    rows = single_changes(calculator)
    best = min(rows, key=lambda row: float(row[1].split()[0]))
    fused = next(row for row in rows if row[0] == "AdamW fused")
    return (
        f"'{best[0]}': {best[1]}, {best[2]}. The logits of 262,144 words are most of this peak. "
        f"AdamW fused leaves it at {fused[1]}: it saves temporaries of the update, and the peak "
        f"is in {fused[3]}."
    )


def _phase(calculator) -> str:
    before = at(calculator).rows[0][3]
    moved = [row for row in single_changes(calculator) if row[3] != before]
    words = ", ".join(f"'{row[0]}' ({row[3]})" for row in moved)
    return f"{before}. It is another one after {words}."


def _fits(calculator) -> str:
    rows = single_changes(calculator)
    fits, tight = (
        ", ".join(f"'{row[0]}' ({row[1]})" for row in rows if row[4] == word)
        for word in ("fits", "tight")
    )
    return (
        f"Fits: {fits}. They give up full training, or time on the bus. Only tight: {tight}; they "
        "give up precision, or take a second GPU. With recompute or half the length nothing moves: "
        "state is the peak."
    )


FINDINGS = {
    "05.memory": (
        Finding(_saves, {"model": "gemma-3-270m", "sequence": 256, "micro_batch": 16}),
        Finding(_phase, SMALL),
        Finding(_fits, NO_FIT),
    ),
}
