"""The tables of published throughput as printed: `python -m sizing.evidence published`."""

from __future__ import annotations

from collections.abc import Callable
from statistics import mean, median

from ..speed.trust import KINDS
from .bands import left_out
from .published_runs import CALIBRATION, Row, by, free_sources, judged, repeated, size


def _band(value: float, edges: tuple[float, ...], unit: str = "") -> str:
    for low, high in zip(edges, (*edges[1:], float("inf")), strict=True):
        if low <= value < high:
            return f"{low:g}{unit} up" if high == float("inf") else f"{low:g}-{high:g}{unit}"
    return f"under {edges[0]:g}{unit}"


FACTORS: dict[str, Callable[[Row], str]] = {
    "engine": lambda row: row.run.engine,
    "card": lambda row: row.gpu,
    "parameters": lambda row: _band(
        row.run.model.parameters.total / 1e9, (0, 2, 5, 10, 20, 50, 100), "B"
    ),
    "sequence": lambda row: _band(row.run.sequence / 1024, (0.25, 1, 2, 4, 8, 16), "k"),
    "GPUs": lambda row: _band(row.run.gpus, (1, 9, 33, 129, 513)),
    "tokens in a micro-batch": lambda row: _band(
        row.run.micro_batch * row.run.sequence / 1024, (0, 2, 4, 8, 16, 64), "k"
    ),
    "recompute": lambda row: str(row.run.recompute),
    "zero": lambda row: str(row.run.zero),
    "tensor": lambda row: str(row.run.tensor),
    "pipeline": lambda row: _band(row.run.pipeline, (1, 2, 5, 9)),
    "context": lambda row: str(row.run.context),
}


def _line(title: str, errors: list[float]) -> str:
    largest = sorted(map(abs, errors))[int(0.9 * (len(errors) - 1))]
    close = sum(abs(error) <= 0.2 for error in errors) / len(errors)
    return (
        f"  {title[:66]:66} {len(errors):4} {size(errors):7.1%} {median(errors):+8.1%} "
        f"{largest:7.1%} {close:8.0%}"
    )


# Why the worst groups miss, by a piece of their name: short, so that the table can print it.
WHY = {
    "float8nocompile": "model and batch are not printed; eager kernels of a prototype",
    "pytorch/ao": "as another source with the same settings, which is 17 % faster",
    "titan": "500 W cards; float8 with rows' scales, contexts of 32k and more, pipelines of 8",
    "pytorch.github.io": "micro-batch and recompute are not printed",
    "tzafon": "ZeRO and batch are not printed",
    "ms-swift": "packed documents, whose length is not printed",
    "granite": "rates over a whole train() of 20 steps, its start included",
    "fms-acceleration": "rates over a whole train() of 20 steps, its start included",
    "nanochat": "FlashAttention-3 with windows of 1024, said here as full attention",
    "modded-nanogpt": "windows and a head in fp8 that Run does not say",
    "OLMo-core": "GPUs and micro-batch are not printed",
    "Automodel": "a gate that deals tokens out in order, so that a token reaches a node or two",
    "b300": "GPT-OSS in 16 bits: 35 to 55 % off on each card, 5 % where graphs hold a whole step",
    "Megatron-Bridge": "experts launched one by one: fixed by captured graphs, else 20 to 50 % off",
}


def why(group: str) -> str:
    return next((reason for word, reason in WHY.items() if word in group), "")


def text() -> str:
    """The error tables as printed: by kind, then by source, worst first, then by factor."""
    rows = judged()
    header = f"  {'':66} {'runs':>4} {'median':>7} {'signed':>8} {'90th':>7} {'in 20 %':>8}"
    lines = [
        f"Throughput of published runs: {len(rows)} judged, {len(CALIBRATION)} calibrated with",
        header,
        _line("all", [c.error for c in rows]),
    ]
    for kind in KINDS:
        part = [c for c in rows if c.row.kind == kind]
        sources = by(lambda row: row.group, part)
        lines.append(_line(kind, [c.error for c in part]))
        middle = median(map(size, sources.values()))
        lines.append(f"    median over {len(sources)} sources {middle:.1%}")
    free = [error for _, error in free_sources()]
    lines.append(
        f"  {len(free)} sources of {KINDS[0]} that set no constant: median {median(free):.1%}"
    )
    held = left_out().values()
    of_rows = sum(map(sum, held)) / sum(map(len, held))
    lines.append(
        f"  bands that know nothing of a row's source hold {of_rows:.0%} of the rows, and "
        f"{mean(map(mean, held)):.0%} of those of a source picked at random"
    )
    spreads = repeated()
    lines.append(
        f"  {len(spreads)} layouts printed more than once: the fastest is {median(spreads):.2f} "
        f"times the slowest in the median, {max(spreads):.2f} times at most"
    )
    for kind in KINDS:
        lines.append(f"\n{kind}, by source, engine and card, the worst first")
        part = [c for c in rows if c.row.kind == kind]
        for group, errors in by(lambda row: row.group, part).items():
            lines.append(_line(group, errors))
            if size(errors) > 0.1 and why(group):
                lines.append(f"      {why(group)}")
    dense = [c for c in rows if c.row.kind == "16 bits, dense"]
    for factor, key in FACTORS.items():
        lines.append(f"\n16 bits, dense, by {factor}")
        lines += [_line(str(value), errors) for value, errors in by(key, dense).items()]
    return "\n".join(lines)
