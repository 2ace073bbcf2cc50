"""What ZeRO's stages leave on each GPU of weights, gradients and optimizer state."""

from dataclasses import replace

from ...architecture import Model
from ...calculators.style import COLOURS
from ...footprint import memory
from ...run import Run
from ...units import GB, gb
from .drawing import Drawing, Step
from .svg import GRID, Panel, on

PARTS = ("parameters", "gradients", "optimizer")
_LEFT = {
    0: "every GPU holds everything (DDP)",
    1: "the optimizer's state is divided",
    2: "gradients are divided as well",
    3: "weights are divided as well: a layer is gathered when it is needed",
}


def zero(run: Run | None = None, gpus: int = 8) -> Drawing:
    """Model state per GPU under ZeRO 0 to 3, by default of llama-3.2-3b in bf16-mixed.

    Activations are left out: no stage divides them. ValueError unless 2 to 8 GPUs.
    """
    if gpus not in range(2, 9):
        raise ValueError(f"gpus: {gpus!r} given; allowed: 2 to 8")
    run = run or Run(Model("llama-3.2-3b"), sequence=4096, precision="bf16-mixed")
    held = {stage: state(replace(run, data=gpus, zero=stage)) for stage in _LEFT}
    most = sum(held[0].values())
    steps = []
    for stage, parts in held.items():
        total = sum(parts.values())
        listed = ", ".join(f"{part} {gb(size)}" for part, size in parts.items())
        words = (
            f"ZeRO {stage}: {_LEFT[stage]}. Each of {gpus} GPUs holds {gb(total)} ({listed}), "
            f"{total / most:.0%} of stage 0."
        )
        steps.append(Step(_picture(parts, most, gpus, stage, words), words))
    title = f"Model state of {run.model.name} on {gpus} GPUs, {run.precision}, {run.optimizer}"
    return Drawing(title, tuple(steps), "ZeRO stage")


def state(run: Run) -> dict[str, float]:
    """Bytes of weights, gradients and optimizer state that one GPU holds."""
    found = memory(run)
    return {part: getattr(found, part) for part in PARTS}


def _picture(parts, most, gpus, stage, words) -> str:
    height, top, column = 220, 30, 96
    panel = Panel(70 + gpus * column, top + height + 60)
    for rank in range(gpus):
        x, y = 60 + rank * column, top + height
        panel.box(x, top, 78, height, fill="#fafafa", edge=GRID, dash="5 4")
        for part, size in parts.items():
            tall = height * size / most
            fill = COLOURS[part]
            y -= tall
            panel.box(x, y, 78, tall, fill=fill, edge="#ffffff", round_=2)
            if tall > 15:
                panel.text(x + 39, y + tall / 2 + 4, f"{size / GB:.1f} GB", size=11, fill=on(fill))
        panel.text(x + 39, top + height + 18, f"GPU {rank}", size=12)
    x = 60
    for part in PARTS:
        panel.box(x, top + height + 34, 14, 14, fill=COLOURS[part], edge=GRID)
        panel.text(x + 20, top + height + 46, part, anchor="start", size=12)
        x += 130
    panel.text(x + 10, top + height + 46, "dashed: what stage 0 holds", anchor="start", size=11)
    return panel.svg(words)
