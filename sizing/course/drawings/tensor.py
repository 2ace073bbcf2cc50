"""Tensor parallelism: a layer's MLP with columns of one matrix and rows of the next per GPU."""

from ...architecture import Model
from ...calculators.style import SERIES
from ...units import si
from .drawing import Drawing, Step
from .svg import GRID, Panel, on


def splits(model: str = "llama-3.1-8b", gpus: int = 4) -> Drawing:
    """Up by columns, down by rows, then one all-reduce (Megatron-LM, 1909.08053, section 3).

    ValueError unless 2, 4 or 8 GPUs that divide the MLP's width.
    """
    made = Model(model)
    if gpus not in (2, 4, 8) or made.ffn % gpus:
        raise ValueError(f"gpus: {gpus!r} given; allowed: 2, 4 or 8 that divide {made.ffn}")
    h, f, part = made.hidden, made.ffn, made.ffn // gpus
    sentences = (
        f"Every GPU holds the whole input: a row of {h} numbers per token.",
        f"Up (and gate), {h} × {f}, is cut by columns: each GPU holds {h} × {part}, "
        f"{si(h * part, '')} of its weights, and makes {part} numbers per token. Nothing is sent.",
        f"Down, {f} × {h}, is cut by rows: each GPU multiplies its own {part} numbers with its own "
        f"rows. It gets all {h} outputs, but only its part of each sum.",
        f"One all-reduce adds the {gpus} partial sums: {h} numbers per token, forward; one more, "
        "backward. Attention is cut the same way, by heads.",
    )
    steps = tuple(
        Step(_picture(h, f, part, gpus, number, words), words)
        for number, words in enumerate(sentences)
    )
    return Drawing(f"The MLP of {made.name} on {gpus} GPUs", steps, "part")


def _picture(h, f, part, gpus, number, words) -> str:
    panel, slot = Panel(880, 260), 200 / gpus
    colours = (SERIES * 2)[:gpus]
    panel.text(60, 24, f"input, {h}", bold=True)
    panel.box(40, 40, 40, 200, fill="#e8eef5", edge=GRID, round_=0)
    panel.text(250, 24, f"up: {h} × {f}", bold=True)
    panel.text(400, 24, str(f), bold=True)
    panel.text(550, 24, f"down: {f} × {h}", bold=True)
    panel.text(780, 24, f"output, {h}", bold=True)
    for rank, colour in enumerate(colours):
        up = colour if number >= 1 else "#eeeeee"
        panel.box(150 + rank * slot, 40, slot - 3, 200, fill=up, edge=GRID, round_=0)
        if number >= 1:
            panel.text(150 + rank * slot + slot / 2, 144, rank, fill=on(colour))
        panel.box(390, 40 + rank * slot, 20, slot - 3, fill=up, edge=GRID, round_=0)
        down = colour if number >= 2 else "#eeeeee"
        panel.box(450, 40 + rank * slot, 200, slot - 3, fill=down, edge=GRID, round_=0)
        if number >= 2:
            panel.text(550, 40 + rank * slot + slot / 2 + 4, rank, fill=on(colour))
            shift = 700 + rank * 110 / gpus
            shown = colour if number == 2 else "#cccccc"
            panel.box(shift, 40, 80 / gpus, 200, fill=shown, edge=GRID, round_=0)
    if number == 3:
        panel.text(820, 144, "=", size=20)
        panel.box(832, 40, 36, 200, fill="#e8eef5", round_=0)
    panel.text(440, 256, "numbers: the GPU", size=11, fill="#555555")
    return panel.svg(words)
