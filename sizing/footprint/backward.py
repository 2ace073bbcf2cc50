"""Walks a tape backward and notes what is alive at every moment that could be a peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from .lent import behind, own_input
from .tape import (
    NEW_VIEW,
    NONE,
    SAME,
    VIEW,
    Node,
    Region,
    Size,
    Skipped,
    Tape,
    Tensor,
    plus,
    times,
)

PARTS = ("gradients", "activations", "logits", "temporary")


@dataclass(frozen=True)
class Point:
    """A moment of a step: its phase and what is alive beyond weights and optimizer state."""

    phase: str
    parts: dict[str, Size]

    @cached_property
    def total(self) -> Size:
        total = NONE
        for size in self.parts.values():
            total = plus(total, size)
        return total


@dataclass(eq=False)
class _Gradient:
    """The memory of a gradient on its way: views of it count as further users."""

    size: Size
    part: str
    users: int = 0


@dataclass(frozen=True, eq=False)
class _Arrived:
    """A gradient that waits for its operation, as the memory itself or as a view of it."""

    gradient: _Gradient
    view: bool = False

    @property
    def reusable(self) -> bool:
        """Whether autograd adds a further gradient into it: it has it to itself, and whole."""
        return self.gradient.users == 1 and not self.view


@dataclass(frozen=True)
class Away:
    """What does not stay on the GPU.

    Attributes:
        gradients: whether a gradient goes as soon as it is complete: to the host, or into its
            weight's update.
        update: bytes that the update of a gradient allocates, from its bytes and its weight.
        activations: whether what the layers save lies in the host's memory until its operation's
            backward pass; what the loss saves stays, and so do weights.
    """

    gradients: bool = False
    update: Callable[[Size, Tensor], Size] = lambda size, weight: NONE
    activations: bool = False


HERE = Away()


def points(
    tape: Tape,
    end: dict[str, Size],
    resident: bool,
    away: Away = HERE,
    outputs: tuple[Tensor, ...] = (),
) -> list[Point]:
    """What is alive at the end of the forward pass and at each operation of the backward pass.

    Args:
        tape: the recorded forward pass, loss last.
        end: bytes by part that the forward pass holds at its end and the backward does not.
        resident: whether parameters already have gradients, into which new ones are added.
        away: what leaves the GPU on the way.
        outputs: what somebody else keeps all along.
    """
    walk = _Walk(tape, resident, away)
    for tensor in outputs:
        walk._hold(tensor.storage)
    return walk.run(end)


def packed(nodes: list) -> Size:
    """Bytes that the layers hand over to the host: each operation's own copy of what it saves."""
    total = NONE
    for node in nodes:
        if isinstance(node, Skipped):
            total = plus(total, node.packed)
    plain = [node for node in nodes if isinstance(node, Node) and node.phase != "loss"]
    for tensor, _ in saved(plain):
        if tensor.part != "parameters":
            total = plus(total, tensor.size)
    return total


def kept(nodes: list, of_region: bool = False) -> dict[str, Size]:
    """Bytes by part that the operations keep for the backward pass, shared tensors left out, and
    those that are held apart."""
    hold = {tensor.storage for node in nodes for tensor in node.held}
    return _sizes(t for t, _ in saved(nodes, of_region) if t not in hold)


def held(nodes: list) -> dict[str, Size]:
    """Bytes by part that the operations hold until the backward pass is over."""
    return _sizes(tensor.storage for node in nodes for tensor in node.held)


def _sizes(tensors: Iterable[Tensor]) -> dict[str, Size]:
    sizes: dict[str, Size] = {}
    for tensor in dict.fromkeys(tensors):
        if not tensor.shared and tensor.part != "parameters":
            sizes[tensor.part] = plus(sizes.get(tensor.part, NONE), tensor.size)
    return sizes


def saved(nodes: list, of_region: bool = False):
    """(storage, why) of everything saved, in order; of recomputed operations only the inputs."""
    regions = set()
    for node in nodes:
        if not isinstance(node, Node):
            continue
        if node.region is not None and not of_region:
            if node.region not in regions:
                regions.add(node.region)
                yield from ((t.storage, "input of recompute") for t in node.region.inputs)
                yield from ((t.storage, "kept from recompute") for t in node.region.kept)
            continue
        yield from ((tensor.storage, why) for tensor, why in node.saved)


class _Walk:
    def __init__(self, tape: Tape, resident: bool, away: Away):
        self.tape, self.resident, self.away = tape, resident, away
        self.live = dict.fromkeys(PARTS, NONE)
        self.users: dict[Tensor, int] = {}
        self.buffers: dict[Tensor, _Arrived] = {}
        self.waiting: dict[Tensor, int] = {}  # gradients that a parameter is still to receive
        self.lent: list[Tensor] = []  # what is in the dictionary, and what that keeps alive
        self.points: list[Point] = []

    def run(self, end: dict[str, Size]) -> list[Point]:
        nodes = self.tape.nodes
        self._hold_forward(nodes)
        self._note("forward", end)
        first_of = {}
        for node in reversed(nodes):
            if isinstance(node, Node) and node.region is not None:
                first_of[node.region] = node
        entered: set[Region] = set()
        first = _Arrived(_Gradient(NONE, "temporary", 1))
        self._deliver(nodes[-1].outputs[0], first, "loss")
        for node in reversed(nodes):
            if isinstance(node, Skipped):
                self._pass_over(node)
                continue
            region = node.region
            if region is not None and region not in entered and node.saved:
                entered.add(region)  # run again when the first tensor is asked for
                self._run_again(region, [n for n in nodes if _in(n, region)], node)
            self._step(node)
            if region is not None and first_of[region] is node:
                inputs = [] if self._elsewhere(node) else region.inputs
                for tensor in [*inputs, *_left_over(region, nodes)]:
                    self._drop(tensor.storage)
                self._lend(own_input(region, [n for n in nodes if _in(n, region)]))
                del first_of[region]
                if not first_of:  # with the last region goes the code's dictionary
                    for tensor in self.lent:
                        self._drop(tensor)
        return self.points

    def _hold_forward(self, nodes) -> None:
        regions = set()
        for node in nodes:
            if isinstance(node, Skipped):
                for part, size in node.saved.items():
                    if not self.away.activations:
                        self._change(part, size)
                for part, size in node.held.items():
                    self._change(part, size)
                continue
            region = node.region
            if region is None:
                tensors = [tensor for tensor, _ in node.saved]
            else:
                tensors = [] if region in regions else [*region.inputs, *region.kept]
                if region not in regions:
                    self._lend(region.lent)
                regions.add(region)
            if self._elsewhere(node):
                tensors = []
            for tensor in (*tensors, *node.held):
                self._hold(tensor.storage)
            self._note_during(node, "forward", node.first)
            for tensor, _ in node.grads:
                if tensor.part == "parameters":
                    self.waiting[tensor] = self.waiting.get(tensor, 0) + 1

    def _run_again(self, region: Region, nodes: list[Node], until: Node) -> None:
        """A region's forward pass, which stops where it has saved its last tensor."""
        if self._elsewhere(until):
            for tensor in [*region.inputs, *region.kept]:
                self._hold(tensor.storage)
        held: dict[Tensor, None] = {}
        left = _left_over(region, nodes)
        taken = [t.storage for t in region.kept if t.storage not in left]
        for node in nodes:
            for tensor, _ in node.saved:
                self._hold(tensor.storage)
            if node is until:
                break
            held |= dict.fromkeys(node.again)
            self._note_during(node, until.phase, held)
            for out in node.outputs:  # what was kept is taken instead of being computed again
                if out.storage in taken:
                    taken.remove(out.storage)
                    self._drop(out.storage)
        for tensor in taken:
            self._drop(tensor)
        x = region.inputs[0].storage
        self._lend(t for t in behind(region.lent, nodes) if t.storage is not x)
        if self._elsewhere(until):  # what was fetched is no longer needed
            for tensor in region.inputs:
                self._drop(tensor.storage)
        self._note(until.phase, {"temporary": self._beside(held)})

    def _lend(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._hold(tensor.storage)
            self.lent.append(tensor.storage)

    def _note_during(self, node: Node, phase: str, held: Iterable[Tensor] = ()) -> None:
        """The moment in which an operation runs forward, where it can be the worst."""
        if node.during:
            alive = (*(tensor.storage for tensor in node.during), *held)
            self._note(phase, {"temporary": self._beside(alive)})

    def _beside(self, tensors: Iterable[Tensor]) -> Size:
        """Bytes of those tensors that nothing keeps."""
        extra = NONE
        for tensor in dict.fromkeys(tensors):
            if not self.users.get(tensor):
                extra = plus(extra, tensor.size)
        return extra

    def _step(self, node: Node) -> None:
        """Run the backward pass of one operation."""
        if self._elsewhere(node) and node.region is None:
            for tensor, _ in node.saved:
                self._hold(tensor.storage)
        self._note(node.phase, {node.part: node.extra})
        if node.late != NONE:
            gone = self._alone(node) if node.region is not None else {}
            late = plus(node.extra, node.late)
            self._note(node.phase, gone | {node.part: plus(late, gone.get(node.part, NONE))})
        incoming = [self.buffers.pop(out) for out in node.outputs if out in self.buffers]
        gradients = []
        for tensor, kind in node.grads:
            passed_on = kind in (SAME, VIEW) and incoming
            gradient = incoming[0].gradient if passed_on else self._new(tensor)
            gradient.users += 1
            view = kind in (VIEW, NEW_VIEW) or (kind == SAME and incoming and incoming[0].view)
            gradients.append((tensor, _Arrived(gradient, bool(view))))
        for arrived in incoming:
            self._release(arrived.gradient)
        for tensor, _ in node.saved:
            self._drop(tensor.storage)
        for tensor, arrived in gradients:
            self._deliver(tensor, arrived, node.phase)

    def _alone(self, node: Node) -> dict[str, Size]:
        """What only this operation keeps, as bytes that go: by part, negative."""
        gone: dict[str, Size] = {}
        mine = Counter(tensor.storage for tensor, _ in node.saved)
        for tensor, count in mine.items():
            if tensor.part != "parameters" and self.users[tensor] == count:
                gone[tensor.part] = plus(gone.get(tensor.part, NONE), times(-1, tensor.size))
        return gone

    def _deliver(self, tensor: Tensor, arrived: _Arrived, phase: str) -> None:
        other = self.buffers.pop(tensor, None)
        if other is not None and other.reusable:  # the second is added into the first
            self._release(arrived.gradient)
            arrived = other
        elif other is not None:  # both are added into a third tensor
            total = self._new(tensor)
            total.users = 1
            self._note(phase)
            self._release(other.gradient)
            self._release(arrived.gradient)
            arrived = _Arrived(total)
        self.buffers[tensor] = arrived
        if tensor.part == "parameters":
            self.waiting[tensor] -= 1
            if not self.waiting[tensor]:
                self._finish(tensor, self.buffers.pop(tensor).gradient, phase)

    def _finish(self, weight: Tensor, gradient: _Gradient, phase: str) -> None:
        """The gradient of a parameter is complete."""
        if self.away.gradients:
            self._note(phase, {"temporary": self.away.update(gradient.size, weight)})
        self._release(gradient)
        if self.away.gradients:
            return
        if not self.resident:
            self._change("gradients", gradient.size)
            self._note(phase)

    def _pass_over(self, layers: Skipped) -> None:
        for part, size in layers.saved.items():
            if not self.away.activations:
                self._change(part, times(-1, size))
        if not self.resident and not self.away.gradients:
            self._change("gradients", layers.gradients)

    def _elsewhere(self, node) -> bool:
        """Whether what an operation saved has to be fetched from the host."""
        return self.away.activations and isinstance(node, Node) and node.phase != "loss"

    def _new(self, tensor: Tensor) -> _Gradient:
        part = "logits" if tensor.part == "logits" else "temporary"
        self._change(part, tensor.size)
        return _Gradient(tensor.size, part)

    def _release(self, gradient: _Gradient) -> None:
        gradient.users -= 1
        if gradient.users == 0:
            self._change(gradient.part, times(-1, gradient.size))

    def _hold(self, tensor: Tensor) -> None:
        self.users[tensor] = self.users.get(tensor, 0) + 1
        if self.users[tensor] == 1 and tensor.part != "parameters":
            self._change(tensor.part, tensor.size)

    def _drop(self, tensor: Tensor) -> None:
        self.users[tensor] -= 1
        if self.users[tensor] == 0 and tensor.part != "parameters":
            self._change(tensor.part, times(-1, tensor.size))

    def _change(self, part: str, size: Size) -> None:
        self.live[part] = plus(self.live[part], size)

    def _note(self, phase: str, more: dict[str, Size] | None = None) -> None:
        parts = dict(self.live)
        for part, size in (more or {}).items():
            parts[part] = plus(parts[part], size)
        self.points.append(Point(phase, parts))


def _left_over(region: Region, nodes: list) -> list[Tensor]:
    """Of what a region kept, that which it never asks for: recompute ends with the last tensor that
    the backward pass needs."""
    if not region.kept:
        return []
    inside = [node for node in nodes if _in(node, region)]
    needed = {tensor for tensor, _ in saved(inside, of_region=True)}
    last = max(
        (i for i, n in enumerate(inside) if any(out.storage in needed for out in n.outputs)),
        default=-1,
    )
    late = {out.storage for node in inside[last + 1 :] for out in node.outputs}
    return [t.storage for t in region.kept if t.storage in late and t.storage not in needed]


def _in(node, region: Region) -> bool:
    return isinstance(node, Node) and node.region is region
