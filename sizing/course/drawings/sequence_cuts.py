"""Three ways to cut a sequence over GPUs: a ring, an all-gather, an all-to-all."""

from dataclasses import replace

from ...calculators.style import ORANGE, SERIES
from ...parallel import communication
from ...run import Run
from ...units import gb
from .drawing import Drawing, Step
from .svg import GRID, Panel, on

WAYS = ("ring", "all-gather", "all-to-all")
DONE = "#cfe3f3"


def arrives(rank: int, hop: int, ranks: int) -> int:
    """Whose keys and values a rank of the ring holds after so many hops; its own before the first.

    Blocks travel to the right, so they come from the left: Liu et al., arXiv:2310.01889, section 3.
    """
    return (rank - hop) % ranks


def sent(run: Run, way: str) -> float:
    """Bytes that a GPU sends per step for attention over its `run.context` ranks.

    A ring and an all-gather move every other rank's keys and values, forward, and backward again
    with their gradients (`communication`: three blocks per hop in all). All-to-all (Jacobs et al.,
    arXiv:2309.14509, section 3.2) moves a rank's own tokens: queries, keys, values and outputs,
    each once forward and once backward; (c - 1)/c of them leave the GPU.

    ValueError for another way, or where all-to-all has more ranks than heads to deal out. With more
    ranks than key/value heads these are copied, so that each rank has one.
    """
    if way not in WAYS:
        raise ValueError(f"way: {way!r} given; allowed: {', '.join(WAYS)}")
    if way != "all-to-all":
        return communication(run).by_purpose.get("ring attention", 0.0)
    model, ranks = run.model, run.context
    if model.heads % ranks:
        raise ValueError(f"context: {ranks} given; allowed: a divisor of the {model.heads} heads")
    tokens = run.micro_batch * run.sequence / ranks
    heads = 2 * model.heads + 2 * max(model.kv_heads, ranks)
    one_way = tokens * heads * model.head_dim * run.recipe.activation_bytes
    return 2 * model.layers * run.accumulation * (ranks - 1) / ranks * one_way


def context(run: Run | None = None, ranks: int = 4) -> Drawing:
    """Attention of one sequence over several GPUs; by default 131,072 tokens of llama-3.1-8b.

    ValueError unless 2 to 6 ranks that divide the heads.
    """
    run = run or Run("llama-3.1-8b", sequence=131072, precision="bf16")
    if ranks not in range(2, 7) or run.model.heads % ranks:
        raise ValueError(f"ranks: {ranks!r} given; allowed: 2 to 6, a divisor of the heads")
    run = replace(run, context=ranks)
    steps = []
    for number in range(ranks + 4):
        words = _words(run, number)
        steps.append(Step(_picture(number, ranks, words), words))
    title = f"{run.sequence:,} tokens of {run.model.name} on {ranks} GPUs"
    return Drawing(title, tuple(steps), "step")


def _words(run: Run, number: int) -> str:
    ranks, part = run.context, run.sequence // run.context
    if number == 0:
        return (
            f"Each of {ranks} GPUs has {part:,} tokens: their queries, keys and values. Everything "
            "but attention can go on alone."
        )
    if number <= ranks:
        if number == 1:
            return "Ring: each GPU first lets its queries meet its own keys and values."
        text = (
            f"Ring, hop {number - 1} of {ranks - 1}: every GPU passes its block of keys and values "
            "on and works on the one that arrives, meanwhile fetching the next."
        )
        if number == ranks:
            text += f" Sent per GPU and step, backward too: {gb(sent(run, 'ring'))}."
        return text
    if number == ranks + 1:
        return (
            "All-gather: every GPU first fetches all keys and values, then works without a break. "
            f"The same {gb(sent(run, 'all-gather'))}, but attention waits for them, and they need "
            "memory."
        )
    moved = f"{gb(sent(run, 'all-to-all'))} per GPU and step"
    if number == ranks + 2:
        return (
            f"All-to-all, before attention. Each GPU has its tokens (rows) for all "
            f"{run.model.heads} heads (columns) and sends every other GPU the heads it works on."
        )
    return (
        f"All-to-all, in attention. Each GPU has all tokens for {run.model.heads // ranks} of "
        f"{run.model.heads} heads, attends alone, and sends the outputs back: {moved}. More ranks "
        f"than heads cannot be."
    )


def _picture(number: int, ranks: int, words: str) -> str:
    panel = Panel(820, 340)
    if number >= ranks + 2:
        _owners(panel, ranks, by_heads=number > ranks + 2)
    else:
        _pairs(panel, number, ranks)
    return panel.svg(words)


def _cell(panel, row, column, side, fill, label="") -> None:
    x, y = 190 + column * side, 60 + row * side
    panel.box(x, y, side - 4, side - 4, fill=fill, edge=GRID, round_=2)
    if label != "":
        panel.text(x + side / 2 - 2, y + side / 2 + 3, label, fill=on(fill))


def _pairs(panel: Panel, number: int, ranks: int) -> None:
    """Queries down, keys across: which blocks of pairs are done, and which now."""
    side, gathered = 240 / ranks, number == ranks + 1
    panel.text(190 + 120, 28, "keys and values of GPU", bold=True)
    panel.text(60, 44, "queries of", anchor="start", bold=True)
    for rank in range(ranks):
        panel.text(190 + rank * side + side / 2 - 2, 50, rank)
        panel.text(60, 60 + rank * side + side / 2, f"GPU {rank}", anchor="start")
        blocks = [arrives(rank, hop, ranks) for hop in range(number)] if not gathered else []
        for column in range(ranks):
            now = gathered or (blocks and column == blocks[-1])
            fill = ORANGE if now else DONE if column in blocks else "#ffffff"
            _cell(panel, rank, column, side, fill)
        holds = "0 to " + str(ranks - 1) if gathered else arrives(rank, max(number - 1, 0), ranks)
        panel.text(480, 60 + rank * side + side / 2, f"holds block {holds}", anchor="start")
        if 1 < number <= ranks:
            y = 60 + rank * side + side / 2 - 4
            panel.line((620, y), (690, y), arrow=True, thick=2)
            panel.text(700, y + 4, f"to GPU {(rank + 1) % ranks}", anchor="start")
    note = (
        "orange: now; blue: done; a causal mask leaves the blocks above the diagonal without work"
    )
    panel.text(60, 328, note, size=11, anchor="start", fill="#555555")


def _owners(panel: Panel, ranks: int, by_heads: bool) -> None:
    """Tokens down, heads across: which GPU holds what."""
    side = 240 / ranks
    panel.text(190 + 120, 28, "heads, in as many groups", bold=True)
    panel.text(60, 44, "tokens", anchor="start", bold=True)
    for row in range(ranks):
        panel.text(60, 60 + row * side + side / 2, f"part {row}", anchor="start")
        for column in range(ranks):
            owner = column if by_heads else row
            _cell(panel, row, column, side, SERIES[owner], f"GPU {owner}")
    what = "all tokens of some heads" if by_heads else "all heads of some tokens"
    panel.text(480, 180, f"each GPU holds {what}", anchor="start")
