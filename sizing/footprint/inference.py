"""What a forward pass without gradients holds: each tensor from its operation to its last use."""

from __future__ import annotations

from ..run import Run
from .forward import Forward
from .tape import NONE, Node, Size, Tensor, plus, size_of, times


def moments(run: Run, device: str, keeps_casts: bool, head: Size) -> list[Size]:
    """Bytes beside the weights at each operation of the layers, and with the head at work.

    A layer's input and what its code refers to are held while it runs; two layers of each kind are
    enough, for all are alike.

    Args:
        run: of the model that is asked, trained by nothing.
        device: as in `memory`.
        keeps_casts: whether autocast's copies of the weights stay until the pass is over, as they
            do where the weights could be trained; of others a product's is gone with it.
        head: bytes of the head at work.
    """
    forward = Forward(run, device)
    casts = NONE
    if keeps_casts and run.recipe.autocast:
        for block, nodes in forward.layers.items():
            casts = plus(casts, times(block.count, _casts(nodes)))
    found = {plus(casts, head): None}
    for nodes in forward.layers.values():
        found |= dict.fromkeys(plus(casts, size) for size in _alive(nodes, keeps_casts))
    return list(found)


def _alive(nodes: list, keeps_casts: bool) -> list[Size]:
    """Bytes alive at each of a layer's operations, its results included."""
    nodes = [node for node in nodes if isinstance(node, Node)]
    last: dict[Tensor, int] = {}
    for place, node in enumerate(nodes):
        for tensor in (*(t for t, _ in node.grads), *node.outputs, *node.frame):
            last[tensor.storage] = place
    made = {tensor.storage: None for node in nodes for tensor in node.outputs}
    alive = {tensor: None for tensor in last if tensor not in made}  # there from the beginning
    sizes = []
    for place, node in enumerate(nodes):
        alive |= {tensor.storage: None for tensor in node.outputs}
        total = NONE
        for tensor in alive:
            weight = tensor.part == "parameters" or (keeps_casts and tensor.part == "temporary")
            if not weight and not tensor.shared:
                total = plus(total, tensor.size)
        sizes.append(total)
        alive = {tensor: None for tensor in alive if last[tensor] > place}
    return sizes


def _casts(nodes: list) -> Size:
    """Autocast's copies of a layer's weights."""
    copies = {
        tensor: None
        for node in nodes
        if isinstance(node, Node)
        for tensor in node.outputs
        if tensor.part == "temporary"
    }
    total = NONE
    for tensor in copies:
        total = plus(total, size_of(tensor.shape, tensor.dtype))
    return total
