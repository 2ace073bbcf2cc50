"""Two lanes per GPU, computing and communicating: DDP, FSDP with and without prefetch."""

from dataclasses import dataclass, replace

from ...architecture import Model
from ...calculators.style import BLUE, GREEN, ORANGE, PINK
from ...compute import flops
from ...hardware import gpu
from ...parallel import communication
from ...run import Run
from .drawing import Drawing, Step
from .svg import GRID, Panel, on

LAYERS = 4  # are drawn
ENGINES = {
    "DDP": "gradients are summed while earlier layers still go backward",
    "FSDP, no prefetch": "a layer is gathered when it is needed: computing waits each time",
    "FSDP, prefetch": "the next layer is gathered while this one computes",
}


@dataclass(frozen=True)
class Event:
    """Something on a lane, in seconds: lane is "compute" or "communicate"."""

    lane: str
    kind: str
    layer: int
    begin: float
    end: float


def schedule(engine: str, forward: float, sent: float, layers: int = LAYERS) -> list[Event]:
    """The events of a forward and a backward pass over equal layers.

    Args:
        engine: one of `ENGINES`.
        forward: seconds of a layer's forward pass; its backward pass takes twice as long.
        sent: seconds of one pass of a layer's weights or gradients over the link.
    """
    if engine not in ENGINES:
        raise ValueError(f"engine: {engine!r} given; allowed: {', '.join(ENGINES)}")
    events: list[Event] = []
    free = {"compute": 0.0, "communicate": 0.0}

    def put(lane: str, kind: str, layer: int, after: float, seconds: float) -> float:
        begin = max(free[lane], after)
        free[lane] = begin + seconds
        events.append(Event(lane, kind, layer, begin, free[lane]))
        return free[lane]

    if engine == "DDP":
        for layer in range(layers):
            put("compute", "forward", layer, 0, forward)
        for layer in reversed(range(layers)):
            done = put("compute", "backward", layer, 0, 2 * forward)
            put("communicate", "all-reduce", layer, done, 2 * sent)
        return events
    passes = [("forward", i, forward) for i in range(layers)]
    passes += [("backward", i, 2 * forward) for i in reversed(range(layers))]
    ready = put("communicate", "gather", 0, 0, sent)
    for number, (kind, layer, seconds) in enumerate(passes, 1):
        begin = max(free["compute"], ready)
        upcoming = passes[number][1] if number < len(passes) else None  # the last layer stays
        fetch = upcoming is not None and upcoming != layer
        if fetch and engine == "FSDP, prefetch":
            ready = put("communicate", "gather", upcoming, begin, sent)
        done = put("compute", kind, layer, begin, seconds)
        if fetch and engine != "FSDP, prefetch":
            ready = put("communicate", "gather", upcoming, done, sent)
        if kind == "backward":
            put("communicate", "scatter", layer, done, sent)
    return events


def layer_seconds(run: Run, card: str = "h100-sxm", rate: float = 0.6) -> tuple[float, float]:
    """(forward, one pass over the link) of a layer, in seconds, at a part of the card's peak."""
    found, layers = gpu(card), run.model.layers
    work = flops(replace(run, data=1, zero=0)).forward / layers
    moved = communication(replace(run, zero=3)).reduce_scatter / layers
    return work / (rate * found.peak_flops("bf16")), moved / found.link


def lanes(run: Run | None = None) -> Drawing:
    """One engine per step; by default llama-3.2-3b on 8 H100 in one node, few tokens per step."""
    run = run or Run(Model("llama-3.2-3b"), sequence=1024, precision="bf16", data=8, zero=3)
    forward, sent = layer_seconds(run)
    ends, steps = {}, []
    for engine in ENGINES:
        ends[engine] = max(event.end for event in schedule(engine, forward, sent))
    alone = 3 * LAYERS * forward
    for engine, why in ENGINES.items():
        words = (
            f"{engine}: {why}. {LAYERS} layers take {ends[engine] / alone:.2f} times as long as "
            f"computing alone. (A layer's forward {1e3 * forward:.2f} ms, one pass of its weights "
            f"{1e3 * sent:.2f} ms: {run.micro_batch} × {run.sequence} tokens per GPU.)"
        )
        picture = _picture(schedule(engine, forward, sent), max(ends.values()), engine, words)
        steps.append(Step(picture, words))
    title = f"Computing and communicating: {run.model.name} on {run.data} GPUs"
    return Drawing(title, tuple(steps), "engine")


_FILL = {
    "forward": BLUE,
    "backward": ORANGE,
    "gather": GREEN,
    "scatter": PINK,
    "all-reduce": PINK,
}


def _picture(events, longest, engine, words) -> str:
    panel, scale = Panel(900, 150), 770 / longest
    panel.text(110, 18, engine, anchor="start", bold=True, size=13)
    rows = {"compute": 30, "communicate": 74}
    for lane, y in rows.items():
        panel.text(102, y + 22, lane, anchor="end")
        panel.box(110, y, 770, 34, fill="#f4f4f4", edge=GRID, round_=0)
    for event in events:
        x, y, w = 110 + scale * event.begin, rows[event.lane], scale * (event.end - event.begin)
        fill = _FILL[event.kind]
        panel.box(x, y, w, 34, fill=fill, edge="#ffffff", round_=0)
        if w > 12:
            panel.text(x + w / 2, y + 22, event.layer, size=11, fill=on(fill))
    x = 110
    for kind in dict.fromkeys(event.kind for event in events):
        panel.box(x, 124, 14, 14, fill=_FILL[kind], edge=GRID)
        panel.text(x + 20, 136, kind, anchor="start", size=12)
        x += 120
    panel.text(880, 136, "numbers: the layer", anchor="end", size=11)
    return panel.svg(words)
