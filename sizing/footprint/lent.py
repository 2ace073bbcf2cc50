"""What keys and values that later layers read keep alive when their own layer is run again.

transformers holds them in a dictionary (`shared_kv_states`) until the step's last layer is done;
the layer that is run again puts new ones there, whose graph reaches back to the layer's input.
"""

from __future__ import annotations

from collections.abc import Iterable

from .tape import Node, Region, Tensor


def behind(lent: Iterable[Tensor], nodes: list[Node]) -> list[Tensor]:
    """What the operations saved that the lent tensors come from: made again, these bring their
    graph with them."""
    wanted, found = set(lent), []
    for node in reversed(nodes):
        if wanted & set(node.outputs):
            wanted |= {tensor for tensor, _ in node.grads}
            found += [tensor for tensor, _ in node.saved]
    return found


def own_input(region: Region, nodes: list[Node]) -> list[Tensor]:
    """The layer's input, which that graph keeps too; the layer before will make another one."""
    kept = {tensor.storage for tensor in behind(region.lent, nodes)}
    x = region.inputs[0].storage
    return [Tensor(x.shape, x.dtype, x.name, x.part)] if x in kept else []
