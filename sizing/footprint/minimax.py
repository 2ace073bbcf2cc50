"""A layer of MiniMax-Text-01, on a tape: lightning or softmax attention, then experts.

Lay modeling_minimax.py of transformers 5.23 beside it: `MiniMaxDecoderLayer` and
`MiniMaxLightningAttention`. Lightning attention loops over blocks of tokens; all blocks between the
first and the last are alike, so that one of them is recorded and what the others keep is added.
"""

from __future__ import annotations

from .decoder import attention, gated_mlp
from .experts import mixture
from .tape import NEW, SAME, VIEW, Tensor, plus


def minimax(f, x: Tensor) -> Tensor:
    """Residuals start at the norms' outputs, and both terms are weighted."""
    x = f.norm(x, "input_layernorm")
    mixer = _lightning if f.block.linear else attention
    x = _weighted_sum(f, x, mixer(f, x))
    x = f.norm(x, "post_attention_layernorm")
    f.frame = (x,)
    return _weighted_sum(f, x, mixture(f, x, gated_mlp))


def _weighted_sum(f, x: Tensor, y: Tensor) -> Tensor:
    t = f.tape
    return t.add(t.scale(x, "weighted residual"), t.scale(y, "weighted output"), "residual")


def _lightning(f, x: Tensor) -> Tensor:
    t, heads, width = f.tape, f.block.heads, f.block.query_dim
    inner = heads * width
    states = f.activation(f.linear(x, "self_attn.qkv_proj"))
    q, k, v = t.split(states, [("b", heads, "s", width)] * 3)
    out = _by_blocks(f, q, k, v)
    out = t.copy(out, ("b", "s", inner), "attention output")
    out = f.norm(out, "self_attn.norm")
    gate = t.unary("sigmoid", f.linear(x, "self_attn.output_gate"), keeps="output")
    out = t.mul(gate, out, "gated output", "factor of the gate")
    return f.linear(out, "self_attn.out_proj")


def _blocks_of(sequence: int, size: int) -> list[int]:
    """The tokens of each block of a sequence: all `size` but the last."""
    whole, rest = divmod(sequence, size)
    return [size] * whole + [rest] * (rest > 0)


def _by_blocks(f, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Every block of the sequence, joined."""
    t, tokens = f.tape, _blocks_of(f.run.sequence, f.block.linear)
    sums = _Sizes(f, 0).sums(v.dtype, "sums of keys x values")
    sums.grad = False  # zeros
    outs = []
    for number, count in enumerate(tokens):
        if 1 < number < len(tokens) - 1:
            continue  # like the one before it
        more = len(tokens) - 3 if number == 1 and len(tokens) > 3 else 0
        place = len(t.nodes)
        if more:
            sums = t.emit("others", Tensor(sums.shape, sums.dtype, storage=sums), [(sums, VIEW)])
        out, sums = _block(f, count, q, k, v, sums, last=number == len(tokens) - 1)
        if more:
            known = {q.storage, sums.storage}
            t.nodes[place].saved += _times(more, t.nodes[place + 1 :], known)
        outs.append(out)
    return t.cat(outs, q.shape, "attention output") if len(outs) > 1 else outs[0]


def _times(count: int, nodes: list, known: set) -> list[tuple[Tensor, str]]:
    """What `count` more of the same operations keep."""
    kept = dict.fromkeys(tensor.storage for node in nodes for tensor, _ in node.saved)
    return [
        (Tensor((*x.shape[:-1], x.shape[-1] * count), x.dtype, x.name), "kept by other blocks")
        for x in kept
        if x.part != "parameters" and x not in known
    ]


class _Sizes:
    """Tensors of a block of `count` tokens, written as so many elements for each token of the
    sequence: sizes are polynomials in batch and length."""

    def __init__(self, f, count: int):
        self.length, self.heads, self.count = f.run.sequence, f.block.heads, count
        self.width = f.block.query_dim

    def _of(self, elements: int, dtype: str, name: str) -> Tensor:
        return Tensor(("b", "s", -(-self.heads * elements // self.length)), dtype, name)

    def rows(self, dtype: str, name: str) -> Tensor:
        """(b, heads, count, width)"""
        return self._of(self.count * self.width, dtype, name)

    def scores(self, dtype: str, name: str) -> Tensor:
        """(b, heads, count, count)"""
        return self._of(self.count**2, dtype, name)

    def sums(self, dtype: str, name: str) -> Tensor:
        """(b, heads, width, width)"""
        return self._of(self.width**2, dtype, name)


def _block(f, count: int, q, k, v, sums: Tensor, last: bool) -> tuple[Tensor, Tensor]:
    """One block's output, and the sums of keys x values that the next one reads."""
    t, made = f.tape, _Sizes(f, count)
    q, k, v = (_slice(t, x, made.rows(x.dtype, f"{x.name} of a block")) for x in (q, k, v))
    scores = _product(t, _gathered(t, q), _gathered(t, k), made.scores(q.dtype, "scores"))
    scores = t.lower(_decayed(f, scores))
    inside = _product(t, scores, _gathered(t, v), made.rows(scores.dtype, "output inside"))
    decayed = _gathered(t, t.lower(_decayed(f, q)))
    before = _product(t, decayed, t.lower(sums), made.rows(decayed.dtype, "output before"))
    out = t.add(_returned(t, before), _returned(t, inside), "output of a block")
    if last:
        return out, sums
    keys = _gathered(t, t.lower(_decayed(f, k)))
    new = _product(t, keys, _gathered(t, v), made.sums(keys.dtype, "new sums"))
    return out, _added(t, _decayed(f, sums), new)


def _slice(t, x: Tensor, out: Tensor) -> Tensor:
    """A view of a block; its gradient comes in zeros for the whole sequence."""
    out.storage = x.storage
    return t.emit("slice", out, [(x, NEW)])


def _gathered(t, x: Tensor) -> Tensor:
    """Heads of several sequences are copied to lie one after the other."""
    return t.copy(x, x.shape) if t.batched else x


def _returned(t, x: Tensor) -> Tensor:
    """A product's output; several sequences' gradient must be copied to reach it."""
    return (
        t.emit("reshape", Tensor(x.shape, x.dtype, x.name, storage=x), [(x, NEW)])
        if t.batched
        else x
    )


def _product(t, x: Tensor, y: Tensor, out: Tensor) -> Tensor:
    saved = [(x, f"factor of {out.name}")] if y.grad else []
    saved += [(y, f"factor of {out.name}")] if x.grad else []
    return t.emit(out.name, out, [(x, NEW), (y, NEW)], saved)


def _decayed(f, x: Tensor) -> Tensor:
    """Times factors that are no weights, in the weights' dtype."""
    dtype = "fp32" if "fp32" in (x.dtype, f.dtype) else "bf16"
    out = Tensor(x.shape, dtype, f"decayed {x.name}")
    extra = out.size if dtype == x.dtype else plus(out.size, x.size)
    return f.tape.emit("mul", out, [(x, NEW)], extra=extra)


def _added(t, x: Tensor, y: Tensor) -> Tensor:
    dtype = "fp32" if "fp32" in (x.dtype, y.dtype) else "bf16"
    out = Tensor(x.shape, dtype, "sums of keys x values")
    return t.emit("add", out, [(z, SAME if z.dtype == dtype else NEW) for z in (x, y)])
