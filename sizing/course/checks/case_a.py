"""Case lab A, the batch that "uses" the GPU: answers and what each known mistake leads to."""

from ...architecture.model import Model
from ...experiments import load
from ...units import GB, GIB
from ..exercise import Exercise
from ..memos import exercise

TRAINED = 18 * 3 * 1000 * (640 + 2048)
FROZEN = Model("gemma-3-270m").parameters.total


def line(one=14, three=43):
    """(GB of a sample, GB left at batch 0) through the memo's two readings."""
    slope = (three - one) / 2
    return slope, one - slope


def state(trained=16, frozen=2, unit=GB, count=TRAINED):
    return (trained * count + frozen * FROZEN) / unit


def speeds(rows, size="micro_batch", time="seconds"):
    """Samples per second by micro-batch."""
    return {row["micro_batch"]: row[size] / row[time] for row in rows}


def first_with(share, speed, best):
    """The smallest micro-batch whose speed is at least `share` of the best one, or None."""
    return min(
        (batch for batch in speed if speed[batch] >= share * max(best.values())), default=None
    )


def knee(share=0.75, size="micro_batch"):
    """(smallest micro-batch at `share` of the best samples per second, memory of the largest over
    its memory), from the rows that `run("batch")` just returned or wrote."""
    rows = load("batch").ok
    speed = speeds(rows, size)
    memory = {row["micro_batch"]: row["peak_bytes"] for row in rows}
    found = first_with(share, speed, speed)
    return found, memory[max(memory)] / memory[found]


def doubt(rows, share=0.75):
    """Why the knee of these rows may be noise, or "".

    A knee needs rows beyond it that stay fast, and it must not move by more than one doubling when
    each time is anywhere between its tenth fastest and its tenth slowest sample."""
    speed = speeds(rows)
    found = first_with(share, speed, speed)
    if found == max(speed):
        return "samples per second still rise at the largest micro-batch, so no knee is in the rows"
    fast, slow = (speeds(rows, time=f"seconds_{end}") for end in ("p10", "p90"))
    fallen = [
        batch for batch in speed if batch > found and fast[batch] < share * max(speed.values())
    ]
    if fallen:
        return f"micro-batch {min(fallen)}, beyond the knee, is slow again"
    least, most = first_with(share, fast, slow), first_with(share, slow, fast)
    if most is None or most > 2 * found or found > 2 * least:
        return "the samples of one point differ so much that the knee could lie elsewhere"
    return ""


def beyond(rows=None):
    """What the rows say beyond the knee, or that their knee is not to be trusted."""
    rows = rows or load("batch").ok
    if why := doubt(rows):
        return (
            f"But do not trust this knee: {why}. Other work on the machine does that. Measure "
            "again when it is idle, or take a recording: SIZING_RECORDED=1 and restart the kernel."
        )
    speed, memory = speeds(rows), {row["micro_batch"]: row["peak_bytes"] for row in rows}
    found, last = first_with(0.75, speed, speed), max(speed)
    return (
        "From the knee to the largest micro-batch memory grows "
        f"{memory[last] / memory[found]:.1f} times, samples per second "
        f"{speed[last] / speed[found]:.2f} times."
    )


def fastest_step():
    """Mistakes the shortest step for the most work."""
    rows = load("batch").ok
    memory = {row["micro_batch"]: row["peak_bytes"] for row in rows}
    found = min(rows, key=lambda row: row["seconds"])["micro_batch"]
    return found, memory[max(memory)] / memory[found]


EXERCISES = (
    Exercise(
        "line",
        answer=line,
        unit="GB",
        mistakes=(
            (
                (14, 0),
                "This takes the 14 GB for one sample alone. Then three would need 42, and the "
                "memo reads 43: solve for both parts.",
            ),
            (
                (43 / 3, 0),
                "This divides by the samples as if nothing were fixed. Use the difference of the "
                "two readings.",
            ),
            (
                (14.5, 0.5),
                "The sample is right. 14 - 14.5 is less than zero: that is the finding.",
            ),
            (
                (29, -15),
                "29 GB is what two samples add.",
            ),
        ),
        because="State of less than nothing: at least one reading is not what it says.",
    ),
    Exercise(
        "state",
        answer=state,
        unit="GB",
        mistakes=(
            (
                lambda: state(unit=GIB),
                "That is in GiB. A GB is 1e9 bytes.",
            ),
            (
                lambda: state(trained=16, frozen=16),
                "Frozen weights have no gradient and no moments: 2 bytes each.",
            ),
            (
                lambda: state(trained=12),
                "The trained part lacks its gradients or one moment: weight, gradient and two "
                "moments are 4 x 4 bytes.",
            ),
            (
                lambda: state(frozen=0),
                "The frozen model is in memory too, 2 bytes per parameter.",
            ),
            (
                lambda: state(count=TRAINED // 3),
                "There are three projections in a layer: up, gate and down.",
            ),
        ),
        because="So the fixed part is near 3 GB, and the two readings do not fit it.",
    ),
    Exercise(
        "run",
        answer=(3, 1, 3),
        mistakes=(
            (
                (3, 1, 1),
                "The cost of an hour is the same, that of the run is steps x time of a step. A "
                "GPU that was busy at batch 3 takes three times as long.",
            ),
            (
                (3, 1 / 3, 1),
                "The steps are fixed at 30,000, so fewer hours are not possible: at best a step "
                "takes as long as before.",
            ),
            (
                (9, 1, 9),
                "Compare with batch 3, not with one sample.",
            ),
        ),
        because="Never cheaper per run; perhaps cheaper per sample.",
    ),
    Exercise(
        "knee",
        answer=knee,
        mistakes=(
            (
                lambda: knee(share=1.0),
                "This is the fastest micro-batch. The knee comes before it: the smallest with 75 % "
                "of its speed.",
            ),
            (
                fastest_step,
                "This has the shortest step, but a step of few samples. Divide the micro-batch by "
                "the seconds.",
            ),
        ),
        because=beyond,
    ),
    Exercise(
        "split",
        answer=(2, 9.6),
        unit="dollars",
        mistakes=(
            (
                (3, 0),
                "Two samples cannot be shared by three GPUs as whole samples.",
            ),
            (
                (2, 28.8),
                "$28.80 is the whole pod for a day. Only one of its three GPUs idles.",
            ),
            (
                (2, 19.2),
                "That is what the two working GPUs cost.",
            ),
        ),
        because="A third of the pod was idle: the better reason for batch 3.",
    ),
    Exercise(
        "noise",
        answer="less noise",
        mistakes=(
            (
                "same",
                "A step of nine samples is another step: its gradient is less noisy, and the run "
                "sees three times the data.",
            ),
            (
                "more steps",
                "The steps are 30,000 in both.",
            ),
        ),
        because="Batch 9 is another experiment.",
    ),
    exercise("case_a"),
)
