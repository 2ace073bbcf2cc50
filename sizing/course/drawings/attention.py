"""Flash attention's tiles, step by step, against the whole matrix of scores."""

from ...calculators.style import BLUE, GREEN, ORANGE
from .drawing import Drawing, Step
from .svg import GRID, Panel


def visits(tiles: int, causal: bool) -> list[tuple[int, int]]:
    """The tiles (row of queries, column of keys) in the order in which a kernel works them off."""
    return [(q, k) for q in range(tiles) for k in range(tiles) if not causal or k <= q]


def flash(tokens: int = 8192, tile: int = 2048, heads: int = 32, causal: bool = True) -> Drawing:
    """One head's scores, tile by tile. By default as long as lesson 04's, in large tiles.

    ValueError unless the tile divides the tokens into 2 to 8.
    """
    if tokens % tile or tokens // tile not in range(2, 9):
        raise ValueError(f"tile: {tile!r} given; allowed: a divisor that makes 2 to 8 tiles")
    tiles = tokens // tile
    order = visits(tiles, causal)
    steps = []
    for number in range(len(order) + 1):
        done = order[:number]
        words = _words(number, order, tiles, tokens, tile, heads, causal)
        steps.append(Step(_picture(done, tiles, tile, causal, words), words))
    return Drawing(f"Attention of {tokens:,} tokens in tiles of {tile:,}", tuple(steps), "tile")


def _words(number, order, tiles, tokens, tile, heads, causal) -> str:
    if number == 0:
        return (
            f"Queries down, keys across. Eager attention writes all {tokens:,} × {tokens:,} scores "
            f"of each of {heads} heads to memory. Flash works tile by tile."
        )
    q, k = order[number - 1]
    text = (
        f"Tile {number} of {len(order)}: queries {q * tile:,} to {(q + 1) * tile - 1:,} meet keys "
        f"{k * tile:,} to {(k + 1) * tile - 1:,}. Their scores live in fast memory only, and "
        "correct the row's maximum, sum and output."
    )
    if k == (q if causal else tiles - 1):
        text += f" Row {q} is finished: its output and one number per token are written."
    if number == len(order) and causal:
        text += f" {tiles * tiles - len(order)} of {tiles * tiles} tiles were never touched."
    return text


def _picture(done, tiles, tile, causal, words) -> str:
    side, left, top = 300 / tiles, 110, 50
    panel = Panel(560, top + 330)
    panel.text(left + 150, 22, "keys and values", bold=True)
    panel.text(left - 14, top + 150, "queries", anchor="end", bold=True)
    now = done[-1] if done else None
    for q in range(tiles):
        for k in range(tiles):
            x, y = left + k * side, top + q * side
            if (q, k) == now:
                fill = ORANGE
            elif (q, k) in done:
                fill = "#cfe3f3"
            else:
                fill = "#ffffff" if not causal or k <= q else "#e0e0e0"
            panel.box(x, y, side - 3, side - 3, fill=fill, edge=GRID, round_=2)
    if now:
        q, k = now
        panel.box(left + k * side, top - 18, side - 3, 10, fill=BLUE, edge=BLUE, round_=2)
        panel.box(left - 12, top + q * side, 8, side - 3, fill=BLUE, edge=BLUE, round_=2)
    for q in range(tiles):
        rows = [k for row, k in done if row == q]
        ready = len(rows) == (q + 1 if causal else tiles)
        fill = GREEN if ready else "#ffffff"
        panel.box(left + 330, top + q * side, 60, side - 3, fill=fill, edge=GRID, round_=2)
    panel.text(left + 360, 38, "output", bold=True)
    panel.text(
        left, top + 320, "orange: now; grey: never, the causal mask", size=11, anchor="start"
    )
    return panel.svg(words)
