"""A ring's reduce-scatter and all-gather, round by round."""

from ...calculators.style import BLUE, GREEN, ORANGE
from ...parallel import ring_factor
from .drawing import Drawing, Step
from .svg import GRID, Panel, on


def rounds(ranks: int) -> list[list[list[frozenset[int]]]]:
    """Whose contributions each chunk of each GPU holds, before the first and after each round.

    ``state[rank][chunk]``. The first ``ranks - 1`` rounds add (reduce-scatter: rank r ends with the
    whole sum of chunk r + 1), the others pass the sums on (all-gather).
    """
    state = [[frozenset({rank}) for _ in range(ranks)] for rank in range(ranks)]
    states = [state]
    for number in range(2 * (ranks - 1)):
        new = [row[:] for row in state]
        for rank in range(ranks):
            chunk, right = sent(rank, number, ranks), (rank + 1) % ranks
            adds = number < ranks - 1
            arrives = state[rank][chunk]
            new[right][chunk] = state[right][chunk] | arrives if adds else arrives
        state = new
        states.append(state)
    return states


def sent(rank: int, number: int, ranks: int) -> int:
    """The chunk that a rank sends to its right neighbour in a round, counted from 0."""
    return (
        (rank - number) % ranks if number < ranks - 1 else (rank + 1 - (number - ranks + 1)) % ranks
    )


def ring(ranks: int = 4) -> Drawing:
    """All-reduce on a ring of GPUs; ValueError unless 2 to 8."""
    if ranks not in range(2, 9):
        raise ValueError(f"ranks: {ranks!r} given; allowed: 2 to 8")
    steps = []
    for number, state in enumerate(rounds(ranks)):
        words = _words(number, ranks)
        steps.append(Step(_picture(state, number, ranks, words), words))
    return Drawing(f"All-reduce on a ring of {ranks} GPUs", tuple(steps), "round")


def _words(number: int, ranks: int) -> str:
    half = ranks - 1
    if number == 0:
        return (
            f"Each of {ranks} GPUs has its own gradients, cut into {ranks} chunks. Nothing is sent "
            "yet."
        )
    passes = number / ranks
    what = "adds what arrives" if number <= half else "keeps the sum that arrives"
    name = "Reduce-scatter" if number <= half else "All-gather"
    text = (
        f"{name}, round {number} of {2 * half}: each GPU sends one chunk of 1/{ranks} to its right "
        f"neighbour and {what}. Sent so far per GPU: {number}/{ranks} = {passes:.2f} of the "
        "gradients."
    )
    if number == half:
        text += (
            f" Each GPU now holds the whole sum of one chunk: ZeRO stops here, at {half}/{ranks}."
        )
    if number == 2 * half:
        whole = ring_factor("all_reduce", ranks)
        text += f" All hold all sums: 2(N - 1)/N = {whole:.2f} for N = {ranks}."
    return text


def _picture(state, number: int, ranks: int, words: str) -> str:
    cell, gap, top = 46, 44, 54
    column = 118
    panel = Panel(max(140 + ranks * column, 660), top + ranks * cell + 44)
    for rank in range(ranks):
        x = 116 + rank * column
        panel.text(x + 35, top - 14, f"GPU {rank}", bold=True)
        for chunk in range(ranks):
            y = top + chunk * cell
            held = len(state[rank][chunk])
            fill = GREEN if held == ranks else ORANGE if held > 1 else "#e8eef5"
            panel.box(x, y, 70, cell - 8, fill=fill, edge=GRID)
            label = "sum" if held == ranks else "+".join(map(str, sorted(state[rank][chunk])))
            panel.text(x + 35, y + 24, label, fill=on(fill), size=12)
    for chunk in range(ranks):
        panel.text(84, top + chunk * cell + 24, f"chunk {chunk}", anchor="end")
    if number:
        for rank in range(ranks):
            chunk = sent(rank, number - 1, ranks)
            y = top + chunk * cell + 19
            x = 116 + rank * column + 70
            if rank < ranks - 1:
                panel.line((x, y), (x + gap, y), edge=BLUE, thick=2.6, arrow=True)
            else:  # round to the first
                panel.line((x, y), (x + 14, y), edge=BLUE, thick=2.6)
                panel.line((92, y), (115, y), edge=BLUE, thick=2.6, arrow=True)
    panel.text(
        116,
        top + ranks * cell + 22,
        "numbers: whose gradients it holds; arrows: sent in this round (the last to GPU 0)",
        size=11,
        anchor="start",
        fill="#555555",
    )
    return panel.svg(words)
