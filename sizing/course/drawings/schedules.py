"""Pipeline schedules as a Gantt picture: GPipe, 1F1B and interleaved 1F1B."""

from ...calculators.style import BLUE, ORANGE
from .drawing import Drawing, Step
from .svg import GRID, Panel, on

SCHEDULES = ("gpipe", "1f1b", "interleaved")
SKY, SAND = "#56B4E9", "#F2C66D"  # the second chunk of a stage, forward and backward


def orders(schedule: str, stages: int, micro: int) -> list[list[tuple[str, int, int]]]:
    """What each stage does, in order: (F or B, micro-batch, chunk).

    1F1B: Narayanan et al. (2104.04473), section 2.2. Interleaved: the same section, with two
    chunks per stage in Megatron-LM's order: chunks change every ``stages`` micro-batches.
    ValueError for another schedule, or interleaved where the stages do not divide the
    micro-batches.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule: {schedule!r} given; allowed: {', '.join(SCHEDULES)}")
    chunks = 2 if schedule == "interleaved" else 1
    if chunks == 2 and micro % stages:
        raise ValueError(f"micro: {micro} given; allowed: a multiple of the {stages} stages")
    ahead = _sequence(stages, micro, chunks)
    back = [("B", i, chunks - 1 - c) for _, i, c in ahead]
    found = []
    for stage in range(stages):
        if schedule == "gpipe":
            warm = micro
        elif schedule == "1f1b":
            warm = min(stages - 1 - stage, micro)
        else:
            warm = min(2 * (stages - 1 - stage) + (chunks - 1) * stages, len(ahead))
        order = ahead[:warm]
        for one, other in zip(ahead[warm:], back, strict=False):
            order += [one, other]
        found.append(order + back[len(ahead) - warm :])
    return found


def _sequence(stages: int, micro: int, chunks: int) -> list[tuple[str, int, int]]:
    if chunks == 1:
        return [("F", i, 0) for i in range(micro)]
    return [
        ("F", i, chunk)
        for first in range(0, micro, stages)
        for chunk in range(chunks)
        for i in range(first, first + stages)
    ]


def timeline(schedule: str, stages: int, micro: int) -> dict[tuple[str, int, int, int], float]:
    """{(F or B, micro-batch, chunk, stage): end}; a forward of a whole stage takes 1, backward 2.

    With two chunks per stage each takes half. Sending takes no time.
    """
    work = [list(order) for order in orders(schedule, stages, micro)]
    chunks = 2 if schedule == "interleaved" else 1
    ends: dict[tuple[str, int, int, int], float] = {}
    free = [0.0] * stages
    while any(work):
        moved = False
        for stage in range(stages):
            while work[stage]:
                kind, i, chunk = work[stage][0]
                before = needed(kind, i, chunk, stage, stages, chunks)
                if before is not None and before not in ends:
                    break
                begin = max(free[stage], ends.get(before, 0.0))
                free[stage] = begin + (1 if kind == "F" else 2) / chunks
                ends[kind, i, chunk, stage] = free[stage]
                work[stage].pop(0)
                moved = True
        if not moved:
            raise RuntimeError(f"{schedule} with {stages} stages waits for itself")
    return ends


def needed(kind, i, chunk, stage, stages, chunks):
    """What must have ended before this may begin; None for a first forward."""
    place = chunk * stages + stage  # along the model
    last = stages * chunks - 1
    if kind == "F":
        place -= 1
        return ("F", i, place // stages, place % stages) if place >= 0 else None
    if place == last:
        return ("F", i, chunk, stage)
    place += 1
    return ("B", i, place // stages, place % stages)


def bubble(schedule: str, stages: int, micro: int) -> float:
    """The idle part of the stages' time until the last backward."""
    ends = timeline(schedule, stages, micro)
    return 1 - 3 * micro / max(ends.values())


def in_flight(schedule: str, stages: int, micro: int, stage: int = 0) -> int:
    """The most forwards that a stage holds at once, in chunks."""
    held = most = 0
    for kind, *_ in orders(schedule, stages, micro)[stage]:
        held += 1 if kind == "F" else -1
        most = max(most, held)
    return most


def pipeline(stages: int = 4, micro: int = 8) -> Drawing:
    """Three schedules of the same pipeline, one per step. ValueError unless 2 to 8 stages."""
    if stages not in range(2, 9):
        raise ValueError(f"stages: {stages!r} given; allowed: 2 to 8")
    steps = []
    longest = max(max(timeline(s, stages, micro).values()) for s in SCHEDULES)
    for schedule in SCHEDULES:
        held = in_flight(schedule, stages, micro)
        unit = "half stages" if schedule == "interleaved" else "micro-batches"
        idle = bubble(schedule, stages, micro)
        words = (
            f"{schedule}: {stages} stages, {micro} micro-batches. {idle:.0%} of the time "
            f"is idle, and the first stage holds the activations of {held} {unit} at most."
            " Blue: forward; orange: backward, twice as long; paler: the second half of the "
            "model's layers in an interleaved stage."
        )
        steps.append(Step(_picture(schedule, stages, micro, longest, words), words))
    return Drawing(
        f"A pipeline of {stages} stages, {micro} micro-batches", tuple(steps), "schedule"
    )


def _picture(schedule, stages, micro, longest, words) -> str:
    chunks = 2 if schedule == "interleaved" else 1
    scale, row = 800 / longest, 34
    panel = Panel(900, 40 + stages * row + 30)
    panel.text(80, 20, schedule, anchor="start", bold=True, size=13)
    for stage in range(stages):
        y = 30 + stage * row
        panel.text(72, y + 20, f"stage {stage}", anchor="end")
        panel.box(80, y, 800, row - 6, fill="#f4f4f4", edge=GRID, round_=0)
    for (kind, i, chunk, stage), end in timeline(schedule, stages, micro).items():
        long = (1 if kind == "F" else 2) / chunks
        fill = {"F": (BLUE, SKY), "B": (ORANGE, SAND)}[kind][chunk]
        x, y = 80 + scale * (end - long), 30 + stage * row
        panel.box(x, y, scale * long, row - 6, fill=fill, edge="#ffffff", round_=0)
        if scale * long > 12:
            panel.text(x + scale * long / 2, y + 18, i, size=10.5, fill=on(fill))
    panel.text(880, 30 + stages * row + 16, "time", anchor="end", fill="#555555")
    return panel.svg(words)
