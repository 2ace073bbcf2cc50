"""Lab 09, beyond one node: what is right, and what each known mistake leads to."""

from dataclasses import replace
from functools import cache

from ...architecture.model import Model
from ...footprint import in_flight, memory
from ...run import Run
from ...speed import step_time
from ..drawings.sequence_cuts import sent
from ..exercise import Exercise

# 405B in its last stage (arXiv:2407.21783, table 4)
GPUS, TENSOR, CONTEXT, PIPELINE, SEQUENCE, BATCH = 16384, 8, 16, 16, 131072, 16 * 2**20
IDLE, MICRO = 30.4, 16  # per cent of the step, micro-batches: the profile of exercise 2
PLAN = {"tensor": 16, "pipeline": 16, "data": 8}  # of exercise 3: 2,048 GPUs
SEQUENCES, NODE = 512, 8
DEALS = {"A": (7, 7, 7, 7), "B": (8, 8, 8, 4), "C": (9, 9, 9, 1), "D": (8, 8, 7, 5)}
PLANS = {  # tensor, pipeline, data, ZeRO stage, recompute
    "A": (1, 1, 64, 3, "none"),
    "B": (1, 1, 64, 3, "full"),
    "C": (8, 1, 8, 1, "none"),
    "D": (8, 2, 4, 1, "none"),
    "E": (4, 4, 4, 1, "full"),
    "F": (2, 8, 4, 1, "none"),
}
LONG = Run("llama-3.1-8b", sequence=131072, precision="bf16", context=8)


def llama(context=CONTEXT, batch=BATCH, tokens=SEQUENCE // CONTEXT):
    """(data degree, sequences per rank, tokens of a sequence on a GPU)."""
    data = GPUS / (TENSOR * context * PIPELINE)
    return data, batch / SEQUENCE / data, tokens


def idle(stages, pieces=1, micro=MICRO):
    """Per cent of a step that a GPU waits."""
    wait = (stages - 1) / pieces
    return 100 * wait / (micro + wait)


def profile(of=idle):
    """(stages, pieces, idle share left): the only pipeline within 0.1 points of the profile."""
    (stages,) = [p for p in range(2, 33) if abs(of(p) - IDLE) < 0.1] or [6]
    pieces = next(v for v in (1, 2, 4, 8) if idle(stages, v) <= 10)
    return stages, pieces, idle(stages, pieces)


@cache
def claims():
    """Which claims of the plan stand."""
    model, run = Model("llama-3.1-405b"), Run("llama-3.1-405b", sequence=8192, zero=1)
    micro, stages = SEQUENCES // PLAN["data"], PLAN["pipeline"]
    held = in_flight(replace(run, pipeline=stages, accumulation=micro), 0)
    return {
        "A": PLAN["tensor"] * stages * PLAN["data"] == 2048,
        "B": PLAN["tensor"] <= NODE,
        "C": micro == 64,
        "D": abs(idle(stages, micro=micro) / 100 - 15 / 64) < 0.005,
        "E": held == 1,
        "F": model.layers % stages == 0,
    }


def head():
    """How many layers of llama-3.2-3b work as much as its head, to the digit that is given."""
    model = Model("llama-3.2-3b")
    layer = sum(
        weight.active * block.count
        for block in model.blocks
        for weight in block.weights
        if weight.kind == "matrix"
    )
    return round(model.vocab * model.hidden * model.layers / layer, 1)


def work(deal, more=None, micro=MICRO):
    """Per cent of the GPUs' time that is work; `more` layers' worth on the last stage."""
    stages = (*deal[:-1], deal[-1] + (head() if more is None else more))
    step = sum(stages) + (micro - 1) * max(stages)
    return 100 * micro * sum(stages) / (len(stages) * step)


def dealt(more=None):
    """(letter of the fastest deal, per cent that is work)."""
    letter = max(DEALS, key=lambda name: work(DEALS[name], more))
    return letter, work(DEALS[letter], more)


@cache
def judged():
    """{letter: (verdict on an H100, tokens per second)}."""
    base = Run(
        "llama-3.1-70b", sequence=4096, precision="bf16-master", gradients="fp32",
        optimizer="adamw-fused", engine="megatron",
    )  # fmt: skip
    found = {}
    for letter, (tensor, pipeline, data, zero, recompute) in PLANS.items():
        run = replace(base, tensor=tensor, pipeline=pipeline, data=data, zero=zero)
        run = replace(run, recompute=recompute, accumulation=128 // data)
        found[letter] = memory(run).on("h100-sxm").verdict, run.tokens / step_time(run).total
    return found


def chosen(letter=None):
    """(fastest letter that fits, per cent by which it beats B)."""
    found = judged()
    safe = {name: speed for name, (verdict, speed) in found.items() if verdict == "fits"}
    letter = letter or max(safe, key=safe.get)
    return letter, 100 * (found[letter][1] / found["B"][1] - 1)


def cut(kv_heads=None, way="ring"):
    """(GB of the ring, GB of all-to-all, the one possible on 64 GPUs)."""
    ring, other = sent(LONG, "ring") / 1e9, sent(LONG, "all-to-all") / 1e9
    if kv_heads:  # all-to-all with as many key/value heads
        other *= (2 * LONG.model.heads + 2 * kv_heads) / (
            2 * LONG.model.heads + 2 * LONG.model.kv_heads
        )
    return ring, other, way


EXERCISES = (
    Exercise(
        "llama",
        answer=llama,
        tolerance=0,
        mistakes=(
            (
                lambda: llama(context=1),
                "Context parallelism takes GPUs too: 8 x 16 x 16 of them work on the same "
                "sequences.",
            ),
            (
                lambda: llama(batch=16e6),
                "16 Mi is 16 x 2^20, which is 128 sequences of 131,072.",
            ),
            (
                lambda: (*llama()[:2], SEQUENCE // CONTEXT // TENSOR),
                "Tensor ranks have the same tokens and divide the matrices: only context divides "
                "the sequence here.",
            ),
            (
                (128, ..., ...),
                "With data 128 the GPUs would be 16 times as many: context parallelism takes GPUs"
                " too.",
            ),
            (
                (..., 128, ...),
                "128 sequences are the whole batch. Each data-parallel rank gets its part.",
            ),
            (
                (..., ..., SEQUENCE),
                "131,072 tokens are the whole sequence, which 16 context ranks share.",
            ),
        ),
        because="8, 16 and 8192: with context 16 a GPU has as many tokens at once as in the runs "
        "on sequences of 8192.",
    ),
    Exercise(
        "profile",
        answer=profile,
        mistakes=(
            (
                lambda: (6, *profile()[1:]),
                "You took the bubble over the time of work, (p - 1)/m. A profile shows the share "
                "of the step: m + p - 1 stand below the line.",
            ),
            (
                lambda: (7, *profile()[1:]),
                "That is p - 1. The stages are one more.",
            ),
            (
                lambda: (profile()[0], 2, idle(profile()[0], 2)),
                "The stages are right. Two pieces leave more than 10 %: interleaving divides the "
                "waiting, not the share.",
            ),
            (
                lambda: (*profile()[:2], IDLE / profile()[1]),
                "Nearly: when the waiting gets shorter the step does too. Divide the new waiting "
                "by the new step.",
            ),
            (
                lambda: (..., 8, ...),
                "8 pieces do it, but a smaller power of two does as well.",
            ),
            (
                lambda: (..., 3, ...),
                "Three pieces are no power of two.",
            ),
            (
                lambda: (..., 2, ...),
                "Two pieces leave more than 10 %.",
            ),
            (
                lambda: (..., ..., profile()[2] / 100),
                "The last as a fraction. Per cent is asked for.",
            ),
            (
                lambda: (..., ..., 100 * (profile()[0] - 1) / profile()[1] / MICRO),
                "The last is waiting over work. The share of the step has both below the line.",
            ),
        ),
        because="What the batch cannot pay, interleaving can, in messages and memory.",
    ),
    Exercise(
        "claims",
        answer=claims,
        mistakes=(
            (
                lambda: claims() | {"B": True},
                "Look at B again: how many GPUs does NVLink join here, and how many are in a "
                "tensor group?",
            ),
            (
                lambda: claims() | {"C": False},
                "Look at C again: the batch is dealt out to the data-parallel ranks alone.",
            ),
            (
                lambda: claims() | {"D": True},
                "Look at D again: 15/64 is waiting over work. Which share of the *step* is it?",
            ),
            (
                lambda: claims() | {"E": True},
                "Look at E again: how many micro-batches has the first stage started before the "
                "first comes back?",
            ),
            (
                lambda: claims() | {"F": True},
                "Look at F again: divide 126 by 16.",
            ),
            (
                lambda: claims() | {"A": False},
                "Look at A again: multiply the three degrees.",
            ),
        ),
        because="A product that is right proves nothing about its factors.",
    ),
    Exercise(
        "deal",
        answer=dealt,
        mistakes=(
            (
                lambda: dealt(more=0),
                "You left out the head. It works as much as 3.9 layers, on the last stage.",
            ),
            (
                lambda: (dealt()[0], 100 * MICRO * 4 / (4 * (4 + MICRO - 1)) / 4),
                "The letter is right. All four GPUs work: count the work of each.",
            ),
            (
                lambda: ("A", work(DEALS["A"])),
                "A's last stage has 7 layers and the head: the slowest stage of all four deals.",
            ),
            (
                ("C", ...),
                "C's last stage is light now, but the others have 9 layers: everybody waits for "
                "them.",
            ),
            (
                ("D", ...),
                "D's slowest stage is the last, with 8.9 layers' worth. Which deal has a smaller "
                "slowest stage?",
            ),
            (
                lambda: (..., dealt()[1] / 100),
                "The second as a fraction. Per cent is asked for.",
            ),
            (
                lambda: (..., 100 - dealt()[1]),
                "The second is the share of waiting. The share of work is asked for.",
            ),
        ),
        choices=tuple(DEALS),
        because="Deal out work, not layers.",
    ),
    Exercise(
        "choice",
        answer=chosen,
        tolerance=0.05,
        mistakes=(
            (
                lambda: chosen("E"),
                "It fits and pays for recompute. Is there one that needs none?",
            ),
            (
                lambda: ("B", 0.0),
                "B fits. But it runs every forward pass twice: look at the tokens per second.",
            ),
            (
                ("A", ...),
                "A does not fit: its activations are whole on every GPU.",
            ),
            (
                ("B", ...),
                "B is the plan to compare with: it fits, and there are faster ones that fit.",
            ),
            (
                ("C", ...),
                "C does not fit. Its verdict comes before its speed.",
            ),
            (
                ("E", ...),
                "E fits, and pays for full recompute and a larger bubble.",
            ),
            (
                ("F", ...),
                "F does not fit: tensor 2 divides each layer's activations by 2 only.",
            ),
            (
                lambda: ("D", chosen()[1] / 100),
                "The plan is right; the second is asked for in per cent.",
            ),
            (
                lambda: ("D", 100 * (1 - 1 / (1 + chosen()[1] / 100))),
                "The plan is right. You gave by how much B is slower: asked is by how much the "
                "plan beats B.",
            ),
        ),
        choices=tuple(PLANS),
        because="What tensor parallelism costs inside a node is less than recompute.",
    ),
    Exercise(
        "cut",
        answer=cut,
        mistakes=(
            (
                lambda: cut(way="all-to-all"),
                "Both bytes are right. All-to-all deals out whole heads, and there are 32 of them "
                "for 64 GPUs.",
            ),
            (
                lambda: cut(kv_heads=LONG.model.heads),
                "You moved keys and values of 32 heads. This model has 8 of them.",
            ),
            (
                lambda: (cut()[0] / 3, *cut()[1:]),
                "One block per hop is the forward pass. Backward keys and values come round again, "
                "with their gradients: three in all.",
            ),
            (
                lambda: (cut()[0], cut()[1] / 2, cut()[2]),
                "That is the forward pass. Gradients travel the same way back: twice as much.",
            ),
            (
                lambda: (cut()[0], cut()[1] * 8 / 7, cut()[2]),
                "An eighth of its own tokens stays on the GPU: (c - 1)/c leave.",
            ),
            (
                lambda: (cut()[0] * 8 / 7, ..., ...),
                "The ring has c - 1 hops: a GPU has its own block already.",
            ),
            (
                lambda: (cut()[0] / 2, ..., ...),
                "A block has keys *and* values.",
            ),
            (
                lambda: (cut()[0] * 4, ..., ...),
                "You sent 32 heads. There are 8 key/value heads.",
            ),
            (
                lambda: (cut()[0] * 2 / 3, ..., ...),
                "Forward and backward are two rounds of keys and values. Their gradients are the "
                "third.",
            ),
            (
                lambda: (cut()[0] / 32, ..., ...),
                "That is one layer of 32.",
            ),
            (
                lambda: (cut()[0] * 1e9 / 2**30, ..., ...),
                "The first is in GiB. GB are asked for.",
            ),
            (
                lambda: (..., cut()[1] / 32, ...),
                "The second is one layer of 32.",
            ),
        ),
        because="The ring's bytes hardly depend on c, those of all-to-all fall with it.",
    ),
)
