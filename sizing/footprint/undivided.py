"""What tensor parallelism alone leaves whole on every rank: the tensors between its matmuls.

A matmul whose input is whole is split by columns, and its output with it; one whose input is split
is split by rows, and its output is summed up, whole again (Shoeybi et al., arXiv:1909.08053,
section 3). Everything in between keeps what came in: heads and the MLP's width are divided, norms,
residuals and the inputs of the column-split matmuls are not: Korthikanti et al.
(arXiv:2205.05198), section 4.2.1, count 10 of the 34 bytes.
"""

from __future__ import annotations

import numpy as np

from .backward import saved
from .forward import Forward
from .sharding import Whole
from .tape import NONE, Node, Size, Tensor, plus


def undivided(forward: Forward) -> Whole:
    """Which share of a layer's saved tensors is whole, mean over the model's layers."""
    kept, inside = _Sum(), _Sum()
    for block, nodes in forward.layers.items():
        whole = _whole(nodes, {w.name for w in block.weights if w.part == "router"})
        for total, of_region in ((kept, False), (inside, True)):
            tensors = {t: None for t, _ in saved(nodes, of_region)}
            for tensor in tensors:
                if tensor.part == "activations" and not tensor.shared:
                    total.add(tensor, whole.get(tensor, True), block.count)
    return Whole(kept.share(), inside.share())


class _Sum:
    """Bytes of tensors, and of those that are whole."""

    def __init__(self):
        self.all, self.whole = NONE, NONE

    def add(self, tensor: Tensor, whole: bool, count: int) -> None:
        size: Size = tuple(count * n for n in tensor.size)
        self.all = plus(self.all, size)
        self.whole = plus(self.whole, size) if whole else self.whole

    def share(self) -> np.ndarray:
        pairs = zip(self.whole, self.all, strict=True)
        return np.array([part / total if total else 0.0 for part, total in pairs])


def _whole(nodes: list, routers: set[str]) -> dict[Tensor, bool]:
    """Whether each tensor of a layer, by its storage, is whole on every rank."""
    whole: dict[Tensor, bool] = {}
    for node in nodes:
        if not isinstance(node, Node):
            continue
        inputs = [t.storage for t, _ in node.grads if t.part not in ("parameters", "temporary")]
        divided = any(not whole.get(tensor, True) for tensor in inputs)
        for tensor, _ in node.saved:
            whole.setdefault(tensor.storage, not divided)
        matrix = _matrix(node)
        if matrix is not None and not _named(matrix, routers):
            divided = not divided
        for tensor in node.outputs:
            whole[tensor.storage] = not divided
    return whole


def _named(matrix: Tensor, names: set[str]) -> bool:
    plain = matrix.name.split(" in ")[0]  # without autocast's dtype
    return any(name.endswith(plain) for name in names)


def _matrix(node: Node) -> Tensor | None:
    """The weight that the operation multiplies with, if it is a matrix product."""
    for tensor, why in node.saved:
        if why == f"weight of {node.name}":
            return tensor
    return None
