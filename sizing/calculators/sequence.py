"""SequenceCalculator: what sequence length costs, in FLOPs and in memory kept for backward."""

from __future__ import annotations

from bisect import bisect_left
from functools import lru_cache

from ..architecture.model import Model, presets
from ..compute import matmuls
from ..footprint.backward import kept
from ..footprint.forward import Forward
from ..footprint.tape import MONOMIALS
from ..run import CHOICES, Run
from ..units import si
from . import style
from .anatomy import accuracy
from .base import Calculator, Result, dropdown, powers_of_two, scale

PAIRS = {"all query-key pairs": "full", "causal pairs": "causal"}
KERNELS = CHOICES["attention"]
LENGTHS = powers_of_two(256, 2**20)
FAR = 2**40  # tokens: where attention has not overtaken the weights by then, it never does
BOTTOM, TOP = 1e6, 1e14  # FLOP per token in the picture


def token_flops(model: Model, sequence: int, pairs: str = "full") -> tuple[float, float]:
    """(weights, attention): model FLOPs of training on one token of a sequence, forward and
    backward: products with weights, head included, and those of queries, keys and values.

    Args:
        pairs: "full" or "causal", as the argument `attention` of `sizing.flops`.
    """
    products = matmuls(model, sequence, pairs)
    total = sum(product.flops for product in products)
    attention = sum(product.flops for product in products if product.part == "scores")
    return 3 * (total - attention) / sequence, 3 * attention / sequence


def crossover(model: Model, pairs: str = "full") -> int | None:
    """The first length, in tokens, at which attention costs as much as all weights.

    A layer of a GPT multiplies 12 h^2 weights and 2 s h scores per token, equal at s = 6h. None
    where sliding windows keep attention below the weights at any length.
    """
    weights, _ = token_flops(model, 1, pairs)
    if token_flops(model, FAR, pairs)[1] < weights:
        return None
    return bisect_left(range(FAR), weights, lo=1, key=lambda s: token_flops(model, s, pairs)[1])


def layer_bytes(model: Model, sequence: int, attention: str) -> float:
    """Bytes that one layer keeps for its backward pass on a GPU under bf16 autocast, one sequence
    at a time; the mean where a model's layers differ."""
    reached = max((w for w in _windows(model) if w <= sequence), default=1)
    size = _layer_size(model, reached, attention)
    return sum(c * sequence**power for c, (_, power) in zip(size, MONOMIALS, strict=True))


@lru_cache(maxsize=512)
def _windows(model: Model) -> tuple[int, ...]:
    return tuple(block.window for block in model.blocks if block.window)


@lru_cache(maxsize=512)
def _layer_size(model: Model, sequence: int, attention: str) -> tuple[float, ...]:
    """Coefficients of `tape.MONOMIALS`; they change only where a sliding window is reached."""
    layers = Forward(Run(model, sequence=sequence, attention=attention)).layers
    sizes = [(block.count, kept(nodes)["activations"]) for block, nodes in layers.items()]
    return tuple(
        sum(count * size[i] for count, size in sizes) / model.layers for i in range(len(MONOMIALS))
    )


@lru_cache(maxsize=64)
def _work(model: Model, pairs: str) -> tuple[list[float], list[float], int | None]:
    """The picture's lines: weights and attention at each of LENGTHS, and where they are equal."""
    weights, scores = zip(*(token_flops(model, s, pairs) for s in LENGTHS), strict=True)
    return weights, scores, crossover(model, pairs)


@lru_cache(maxsize=64)
def _memory(model: Model) -> dict[str, list[float]]:
    """The picture's lines: bytes of a layer at each of LENGTHS, by kernel."""
    return {kernel: [layer_bytes(model, s, kernel) for s in LENGTHS] for kernel in KERNELS}


class SequenceCalculator(Calculator):
    """FLOPs of a token and memory of a layer against sequence length. Settings: model, sequence
    (in tokens), attention ("flash", "eager"), pairs ("full", "causal")."""

    title = "Sequence cost"
    size = (8.8, 3.6)

    def make_controls(self):
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "sequence": scale("sequence", LENGTHS, 8192, lambda v: f"{v:,} tokens"),
            "attention": dropdown("attention", list(KERNELS), "flash"),
            "pairs": dropdown("FLOPs counted", list(PAIRS.items()), "full"),
        }

    def result(self, model, sequence, attention, pairs) -> Result:
        chosen = Run(Model(model), sequence=sequence).model  # refuses what its positions forbid
        weights, scores = token_flops(chosen, sequence, pairs)
        total, crossing = weights + scores, _work(chosen, pairs)[2]
        layer = {kernel: layer_bytes(chosen, sequence, kernel) for kernel in KERNELS}
        all_layers = (
            f"All {chosen.layers} keep {si(chosen.layers * layer[attention], 'B')}, {attention}."
        )
        rows = [
            ("weights, head included", si(weights, "FLOP"), f"{weights / total:.1%}"),
            ("queries x keys, scores x values", si(scores, "FLOP"), f"{scores / total:.1%}"),
            ("a token, forward and backward", si(total, "FLOP"), "100.0%"),
        ]
        if attention == "flash":
            again = _scores_alone(chosen, sequence, pairs)
            share = f"{again / total:+.1%}"
            rows.append(("multiplied again by flash, not counted", si(again, "FLOP"), share))
        rows += [
            (f"a layer keeps, {kernel}", si(size, "B"), f"{size / layer['eager']:.1%} of eager")
            for kernel, size in layer.items()
        ]
        return Result(
            value=total,
            headline=(
                f"{si(total, 'FLOP')} per token, {scores / total:.0%} in attention; a layer keeps "
                f"{si(layer[attention], 'B')}"
            ),
            formula=(
                "3 x (2 x weights + 4 x pairs per token x heads x width) = "
                f"{si(weights, 'FLOP')} + {si(scores, 'FLOP')} = {si(total, 'FLOP')}"
            ),
            columns=(f"{chosen.name} at {sequence:,} tokens", "", "share"),
            rows=tuple(rows),
            caption=(
                "Left: FLOPs of a token by what is multiplied; weights stay level, attention rises "
                "with the length. Right: what one layer keeps for its backward pass, one sequence "
                "at a time, bf16 autocast."
            ),
            notes=(_crossing(chosen, crossing, sequence), all_layers),
            accuracy=(
                "FLOPs exact: tests hold them equal to a count of the real model. Memory: peaks of "
                f"steps, made of the same layers, are off by {accuracy()}"
            ),
            data=(chosen, sequence, attention, pairs),
        )

    def prepare(self, figure):
        work, memory = figure.subplots(1, 2)
        for axes in (work, memory):
            axes.set(xscale="log", yscale="log", xlim=(LENGTHS[0], LENGTHS[-1]))
            axes.set(xlabel="sequence length, tokens")
        work.set(ylim=(BOTTOM, TOP), ylabel="FLOP per token", title="Work")
        memory.set(ylim=(1e5, 1e15), ylabel="bytes", title="One layer's activations")
        (self._weights,) = work.plot([], [], color=style.ORANGE, label="weights")
        (self._scores,) = work.plot([], [], color=style.BLUE, label="attention")
        (self._equal,) = work.plot([], [], ":", color="#555555", label="equal")
        (self._both,) = work.plot([], [], "o", color=style.RED, label="both, here")
        self._kernels = {
            kernel: memory.plot([], [], color=colour, label=kernel)[0]
            for kernel, colour in zip(KERNELS, (style.PINK, style.GREEN), strict=True)
        }
        (self._kept,) = memory.plot([], [], "o", color=style.RED, label="here")
        work.legend(loc="upper left", ncols=2, fontsize=9)
        memory.legend(loc="upper left", fontsize=9)
        lines = [self._weights, self._scores, self._equal, *self._kernels.values()]
        return [*lines, self._both, self._kept]

    def update(self, result):
        model, sequence, attention, pairs = result.data
        weights, scores, crossing = _work(model, pairs)
        self._weights.set_data(LENGTHS, weights)
        self._scores.set_data(LENGTHS, scores)
        self._equal.set_data(*(([crossing] * 2, [BOTTOM, TOP]) if crossing else ([], [])))
        self._both.set_data([sequence], [result.value])
        layers = _memory(model)
        for kernel, line in self._kernels.items():
            line.set_data(LENGTHS, layers[kernel])
        self._kept.set_data([sequence], [layer_bytes(model, sequence, attention)])


def _scores_alone(model: Model, sequence: int, pairs: str) -> float:
    """FLOPs of a token's queries x keys, which flash attention multiplies again in its backward
    pass: a seventh product beside six (FlashAttention-2, arXiv:2307.08691, section 4.1)."""
    products = matmuls(model, sequence, pairs)
    return sum(p.flops for p in products if p.name == "queries x keys") / sequence


def _crossing(model: Model, crossing: int | None, sequence: int) -> str:
    if crossing is None:
        return "Attention never costs as much as the weights: its windows stop growing."
    side = "below" if sequence < crossing else "above"
    return (
        f"Attention costs as much as the weights at {crossing:,} tokens, "
        f"{crossing / model.hidden:.1f} h; {sequence:,} is {side}."
    )
