"""The questions under lesson 02's calculator."""

from ...architecture.model import Model
from ...compute import flops, six_nd
from ...planning.costs import training_time
from ...run import Run
from ..finding import Finding, at

TWICE, MONTH = "llama-3.2-1b", 30 * 86400


def _twice(_calculator) -> str:
    model = Model(TWICE)

    def ratio(s: int) -> float:
        return flops(Run(model, sequence=s)).total / six_nd(model.parameters.total, s)

    s = next(s for s in range(1024, 131072, 256) if ratio(s) >= 2)
    return (
        f"At about {s:,} tokens. The row 6ND in the table says what 6ND counts; the slider's stops "
        f"around it give {ratio(16384):.2f} and {ratio(32768):.2f} times, and the field beside the "
        f"slider takes {s}."
    )


def gpus_needed(gpu: str) -> int:
    """The fewest of a GPU that train 8 B on 15 T tokens in 30 days at 40 %, all pairs at 4096."""
    model = Model("llama-3.1-8b")
    work = flops(Run(model, sequence=4096)).total / 4096 * 15e12
    return -int(-training_time(work, gpu, count=1, mfu=0.4) // MONTH)


def _month(_calculator) -> str:
    h100, a100 = gpus_needed("h100-sxm"), gpus_needed("a100-sxm-80gb")
    return (
        f"{h100:,} H100, and {a100:,} A100: {a100 / h100:.2f} times as many, the ratio of their "
        "dense peaks. Type the number into the field beside the slider."
    )


def _fall(calculator) -> str:
    slow, fast = (at(calculator, mfu=mfu).value for mfu in (0.35, 0.45))
    small = [at(calculator, mfu=mfu, model="llama-3.2-1b").value for mfu in (0.35, 0.45)]
    return (
        f"{slow / fast - 1:.0%} more hours: 45 / 35. It is the same for every model "
        f"({small[0] / small[1] - 1:.0%} for llama-3.2-1b): the MFU divides all of it."
    )


FINDINGS = {
    "02.compute": (
        Finding(_twice, {"model": TWICE, "sequence": 18944}),
        Finding(
            _month,
            {
                "model": "llama-3.1-8b",
                "tokens": 1.5e13,
                "mfu": 0.4,
                "count": gpus_needed("h100-sxm"),
            },
        ),
        Finding(_fall, {"mfu": 0.35}),
    ),
}
