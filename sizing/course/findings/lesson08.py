"""The questions under lesson 08's calculator."""

from dataclasses import replace

from ...footprint import memory
from ...units import GB, gb
from ..finding import Finding, at

LARGE = {"model": "llama-3.1-8b", "sequence": 4096, "gpu": "h100-sxm", "network": 400}
SMALL = {"model": "gpt2", "sequence": 1024, "data": 64, "micro_batch": 1}


def _stages(calculator, **settings):
    """ZeRO 0 to 3 at a setting, and what the card says of each."""
    tried, *_, card = at(calculator, **settings).data
    return [(each, each.memory.on(card).verdict) for each in tried]


def _lowest(calculator) -> str:
    words = []
    for gpus in (64, 8):
        stages = _stages(calculator, data=gpus)
        stage, (found, verdict) = next(
            (n, one) for n, one in enumerate(stages) if one[1] != "does not fit"
        )
        words.append(
            f"{gpus} GPUs: stage {stage} is the lowest that goes in ({gb(found.memory.total)} "
            f"of tensors: {verdict})"
        )
    return (
        f"{words[0]}; {words[1]}. With 16-bit gradients and one micro-batch no higher stage sends "
        "less."
    )


def _no_number(calculator) -> str:
    (found, verdict) = _stages(calculator, data=4096, zero=3)[3]
    helped = replace(found.run, data=64, recompute="full")
    return (
        f"None: stage 3 on 4096 GPUs still holds {gb(found.memory.total)}: {verdict}. Full "
        f"recompute makes it {gb(memory(helped).total)} on 64."
    )


def _small(calculator) -> str:
    (one, _), (three, _) = (_stages(calculator)[n] for n in (1, 3))
    saved = (one.memory.total - three.memory.total) / GB
    more = three.communication.total / one.communication.total
    slow = _stages(calculator, network=10)[3][0]
    return (
        f"It saves {saved:.1f} GB that nobody needed and sends {more:.1f} times as much. At "
        f"10 Gbit/s its bytes are on their way {slow.moving / slow.computing:.0f} times as long "
        "as the GPU computes."
    )


FINDINGS = {
    "08.zero": (
        Finding(_lowest, LARGE | {"data": 8, "zero": 1, "micro_batch": 1}),
        Finding(_no_number, LARGE | {"data": 64, "zero": 3, "micro_batch": 4}),
        Finding(_small, SMALL | {"zero": 3, "network": 10}),
    ),
}
