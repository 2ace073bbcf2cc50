"""Unusual runs, drawn at random: seconds that could be, and more work never takes less of them."""

import math
import random
import warnings
from dataclasses import replace

import pytest

from sizing import Run, flops, step_time
from sizing.choices import CHOICES, ENGINES
from sizing.hardware import gpu, gpus

MODELS = (
    *("llama-3-8b", "llama-3.1-405b", "gpt2", "mixtral-8x7b", "deepseek-v3", "qwen3-30b-a3b"),
    *("gpt-oss-120b", "tinyllama-1.1b"),
)
DRAWN = 400  # of which half are refused in words


def _values(draw: random.Random) -> dict:
    """Fields of a run; rare ones are left out of most."""
    powers = [2**n for n in range(15)]
    usual = {
        "model": MODELS,
        "sequence": (512, 2048, 8192, 32_768, 131_072, 1_048_576),
        "micro_batch": powers[:4],
        "accumulation": powers[:7],
        "precision": CHOICES["precision"],
        "optimizer": CHOICES["optimizer"],
        "recompute": ("none", "selective", "full", "every-2"),
        "attention": ("flash", "eager", "flash-1", "flash-3"),
        "kernels": CHOICES["kernels"],
        "engine": ENGINES,
        "data": powers[:12:2],
        "zero": CHOICES["zero"],
        "tensor": powers[:4],
        "pipeline": powers[:5],
        "context": (1, 1, 2, 8),
        "sequence_parallel": (True, False),
    }
    rare = {
        "expert": (2, 8, 64),
        "interleave": (2, 4),
        "replicate": (2, 8),
        "lora": (8, 64),
        "document": (256,),
        "dispatch": CHOICES["dispatch"],
        "overlap_dispatch": (True,),
        "objective": ("dpo", "distillation"),
        "offload": ("optimizer", ("optimizer", "parameters"), "activations"),
        "scaling": CHOICES["scaling"],
    }
    found = {name: draw.choice(values) for name, values in usual.items()}
    found |= {name: draw.choice(v) for name, v in rare.items() if draw.random() < 0.15}
    return found


def _drawn(seed: int) -> tuple[dict, dict]:
    draw = random.Random(seed)
    cards = (*gpus(), *("h100-sxm", "a100-sxm-80gb", "gb300", "b200-sxm") * 10)
    where = {
        "gpu": draw.choice(cards),
        "node": draw.choice((1, 4, 8, 8, 72)),
        "network": draw.choice((1e9, 12.5e9, 50e9)),
    }
    return _values(draw), where


def _seconds(run: Run, where: dict, **changes) -> float | None:
    """None where the changed run is refused."""
    try:
        return step_time(replace(run, **changes), **where).total
    except ValueError:
        return None


def _floor(run: Run, where: dict) -> float:
    """Seconds of the model's FLOPs at the peak, where both are known."""
    try:
        peak = gpu(where["gpu"]).peak_flops(run.recipe.products)
        return flops(run, attention="causal").model / run.gpus / peak
    except ValueError:
        return 0.0


def test_unusual_runs():
    """What is refused is refused by a field's name; of the rest no part is negative, none is faster
    than its FLOPs, longer sequences and larger batches never take less, and no better network or
    host more."""
    warnings.simplefilter("ignore")
    ran = 0
    for seed in range(DRAWN):
        values, where = _drawn(seed)
        try:
            run = Run(**values)
            found = step_time(run, **where)
        except ValueError as error:
            name = str(error).partition(":")[0]
            assert name.isidentifier() and " given" in str(error), (values, where, error)
            continue
        ran += 1
        case = (seed, values, where)
        assert all(0 <= part < math.inf for part in found.parts.values()), case
        assert sum(found.parts.values()) == pytest.approx(found.total), case
        assert found.total >= _floor(run, where), case
        assert found.band[0] <= found.total <= found.band[1] and str(found.trust), case
        for field in ("sequence", "micro_batch", "accumulation"):
            more = _seconds(run, where, **{field: 2 * getattr(run, field)})
            assert more is None or more >= found.total * (1 - 1e-9), (field, case)
        for better in ({"network": 2 * where["network"]}, {"host": 0.5}):
            less = step_time(run, **(where | better)).total
            assert less <= found.total * (1 + 1e-9), (better, case)
    assert ran > DRAWN / 5
