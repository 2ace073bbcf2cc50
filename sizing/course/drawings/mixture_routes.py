"""Tokens dispatched to experts on several GPUs, and combined again."""

from dataclasses import replace
from random import Random

from ...calculators.style import ORANGE, SERIES
from ...parallel import communication
from ...run import Run
from ...units import gb
from .drawing import Drawing, Step
from .svg import GRID, Panel, on

TOKENS = 4  # per GPU, in the picture


def routes(ranks: int, experts: int, chosen: int, seed: int = 1) -> list[list[int]]:
    """The experts of each drawn token, as a router at random picks them; tokens in GPU order."""
    random = Random(seed)
    return [sorted(random.sample(range(experts), chosen)) for _ in range(ranks * TOKENS)]


def load(picks: list[list[int]], ranks: int, experts: int) -> list[int]:
    """Copies of tokens that each GPU's experts get."""
    counts = [0] * ranks
    for expert in (expert for pick in picks for expert in pick):
        counts[expert * ranks // experts] += 1
    return counts


def experts(model: str = "mixtral-8x7b", ranks: int = 4, sequence: int = 4096) -> Drawing:
    """A layer of experts dealt out to GPUs, token by token.

    ValueError for a model without experts, or unless 2 to 4 GPUs that divide them.
    """
    run = Run(model, sequence=sequence, precision="bf16")
    number, chosen = mixture(run)
    if ranks not in range(2, 5) or not number or number % ranks:
        raise ValueError(
            f"ranks: {ranks!r} given for {number} experts; allowed: 2 to 4, a divisor of them"
        )
    picks = routes(ranks, number, chosen)
    steps = []
    for place, words in enumerate(_words(run, ranks, picks)):
        steps.append(Step(_picture(place, picks, ranks, number, words), words))
    return Drawing(f"Tokens and experts of {run.model.name} on {ranks} GPUs", tuple(steps), "step")


def mixture(run: Run) -> tuple[int, int]:
    """(experts of a layer, experts that a token meets); (0, 0) without."""
    routed = [w for block in run.model.blocks for w in block.weights if w.chosen is not None]
    return (routed[0].shape[0], routed[0].chosen) if routed else (0, 0)


def sent(run: Run, ranks: int) -> float:
    """Bytes that a GPU sends per layer of experts, forward and backward (`communication`)."""
    dealt = replace(run, data=ranks, expert=ranks)
    layers = sum(block.count for block in run.model.blocks if any(w.chosen for w in block.weights))
    return communication(dealt).by_purpose["tokens to experts and back"] / layers


def _words(run: Run, ranks: int, picks: list[list[int]]) -> tuple[str, ...]:
    number, chosen = mixture(run)
    counts = load(picks, ranks, number)
    mean = sum(counts) / ranks
    stay = sum(
        expert * ranks // number == token // TOKENS
        for token, pick in enumerate(picks)
        for expert in pick
    )
    copies = len(picks) * chosen
    return (
        f"Each of {ranks} GPUs has tokens of its own and {number // ranks} of "
        f"{number} experts. The router gives each token {chosen} of them.",
        f"Dispatch, an all-to-all: every token's vector goes to the GPUs of its experts, "
        f"{chosen} copies each. Of {copies} copies drawn, {copies - stay} leave their GPU.",
        f"The experts work. The busiest GPU has {max(counts)} copies, the mean is {mean:g}: the "
        f"layer takes {max(counts) / mean:.2f} times as long as with an even router.",
        f"Combine, an all-to-all back: each token adds up its {chosen} results. Two "
        f"forward, two backward: {gb(sent(run, ranks))} per GPU and layer for {run.sequence:,} "
        "tokens each.",
    )


def _picture(place: int, picks: list[list[int]], ranks: int, number: int, words: str) -> str:
    width, each = 860 / ranks, number // ranks
    panel = Panel(900, 330)
    counts = load(picks, ranks, number)
    for rank in range(ranks):
        x, colour = 20 + rank * width, SERIES[rank]
        busiest = place == 2 and counts[rank] == max(counts)
        edge = ORANGE if busiest else GRID
        panel.box(x, 34, width - 12, 286, fill="#f7f7f7", edge=edge, thick=4 if busiest else 1)
        panel.text(x + width / 2 - 6, 24, f"GPU {rank}", bold=True)
        for token in range(TOKENS):
            left = x + 8 + token * (width - 28) / TOKENS
            panel.box(left, 46, (width - 60) / TOKENS, 24, fill=colour, edge=GRID)
            middle = left + (width - 60) / TOKENS / 2
            label = ",".join(map(str, picks[rank * TOKENS + token]))
            panel.text(middle, 62, label, size=10, fill=on(colour))
        for slot in range(each):
            expert = rank * each + slot
            left, wide = x + 8 + slot * (width - 28) / each, (width - 28) / each - 4
            panel.box(left, 246, wide, 44, fill="#ffffff", edge="#555555")
            panel.text(left + wide / 2, 272, f"E{expert}", size=11)
            if place in (1, 2):
                _copies(panel, picks, expert, left, wide)
        if place == 2:
            panel.text(x + width / 2 - 6, 312, f"{counts[rank]} copies", bold=busiest)
    if place in (1, 3):
        _arrows(panel, picks, ranks, each, width, back=place == 3)
    return panel.svg(words)


def _place(expert: int, each: int, width: float) -> float:
    """The middle of an expert's box, from the left."""
    rank, slot = divmod(expert, each)
    return 28 + rank * width + (slot + 0.5) * (width - 28) / each - 2


def _copies(panel: Panel, picks: list[list[int]], expert: int, left: float, wide: float) -> None:
    """Small squares above an expert: the tokens that it has, in the colours of their GPUs."""
    have = [token for token, pick in enumerate(picks) if expert in pick]
    for place, token in enumerate(have):
        row, column = divmod(place, 4)
        size = min(12, wide / 4 - 2)
        x, y = left + column * (size + 2), 230 - row * (size + 3)
        panel.box(x, y, size, size, fill=SERIES[token // TOKENS], edge="#ffffff", round_=1)


def _arrows(panel, picks, ranks, each, width, back: bool) -> None:
    """From every token to its experts, or back."""
    for token, pick in enumerate(picks):
        rank, slot = divmod(token, TOKENS)
        x = 28 + rank * width + slot * (width - 28) / TOKENS + (width - 60) / TOKENS / 2
        for expert in pick:
            low = (_place(expert, each, width), 244 if back else 200)
            ends = (low, (x, 74)) if back else ((x, 72), low)
            panel.line(*ends, edge=SERIES[rank], thick=1.2, arrow=True)
