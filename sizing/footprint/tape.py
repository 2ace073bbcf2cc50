"""What PyTorch's autograd keeps and allocates, operation by operation, for shapes left symbolic.

A `Tape` records a forward pass as autograd does: one node an operation, with the tensors that the
operation saves for its backward pass. `peaks` then walks the nodes backward and adds up what is
alive: tensors still saved, gradients on their way, gradients of parameters, the temporaries of the
operation itself. Every size is a polynomial in the micro-batch b and the sequence length s, so one
walk serves all batches and lengths of a model.

The rules are those of torch/tools/autograd/derivatives.yaml and of the engine: saved tensors and
incoming gradients are released when a node has run; the second gradient of a tensor is added into
the first where nothing else looks at that one, otherwise into a third tensor; a gradient that
reaches a parameter stays.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from math import prod

from ..units import BYTES
from . import kernels

# A tape is written for bf16: fp16 takes as many bytes, operation by operation.
SAME_BYTES = {"fp16": "bf16", "fp16-mixed": "bf16-mixed"}

# The monomials that sizes are made of, as powers of (b, s).
MONOMIALS = ((0, 0), (0, 1), (1, 1), (0, 2), (1, 2))
Size = tuple[int, int, int, int, int]  # one coefficient a monomial, in bytes
NONE: Size = (0, 0, 0, 0, 0)


# What the gradient of an operation's input is: a tensor of its own; one seen through a view; the
# incoming gradient itself; a view of that. Autograd adds in place into the first and the third
# alone, and only while nobody else holds them: a view keeps the tensor that it looks at.
NEW, NEW_VIEW, SAME, VIEW = False, "new view", "same", True


@lru_cache(maxsize=65536)
def size_of(shape: tuple, dtype: str) -> Size:
    """Bytes of a tensor whose dimensions are integers, "b" or "s"."""
    powers = (shape.count("b"), shape.count("s"))
    coefficient = prod(n for n in shape if not isinstance(n, str)) * BYTES[dtype]
    return tuple(coefficient if powers == monomial else 0 for monomial in MONOMIALS)


def plus(a: Size, b: Size) -> Size:
    return (a[0] + b[0], a[1] + b[1], a[2] + b[2], a[3] + b[3], a[4] + b[4])  # it is in every loop


def times(factor: int, a: Size) -> Size:
    return tuple(factor * x for x in a)


def value(size: Size, b: int, s: int) -> int:
    """The polynomial's value; in bytes, at a micro-batch and sequence length."""
    constant, per_s, per_bs, per_ss, per_bss = size
    return constant + s * (per_s + b * per_bs + s * (per_ss + b * per_bss))


@dataclass(eq=False)
class Tensor:
    """A symbolic tensor; views share the `storage` of what they look at.

    `part` is where its bytes count: "activations", "logits", "temporary" (autocast's copies of
    weights), "parameters" (held anyway, never counted here). `shared` tensors serve all layers.
    """

    shape: tuple
    dtype: str
    name: str = ""
    part: str = "activations"
    grad: bool = True
    shared: bool = False
    storage: Tensor | None = None

    def __post_init__(self):
        self.storage = self.storage.storage if self.storage else self

    @property
    def size(self) -> Size:
        return size_of(self.shape, self.dtype)


@dataclass(eq=False)
class Node:
    """One operation: what it saved, and what its backward pass makes.

    `grads` lists (input, kind): NEW, NEW_VIEW, SAME or VIEW. `extra` is what the backward pass
    allocates at once, results included; `late`, what autograd casts or sums of them when it is
    done: by then a region that was run again has let go of what it saved. `during` are tensors that
    exist while the operation runs forward, for the few operations where that can be the step's
    worst moment, and `first` beside them only the first time. `held` is kept in a way that
    autograd does not see: from the first forward pass on until the backward pass is over, since
    the loss refers to all operations.
    """

    name: str
    phase: str
    outputs: tuple[Tensor, ...]
    grads: list[tuple[Tensor, bool | str]]
    saved: list[tuple[Tensor, str]]
    extra: Size
    part: str
    region: Region | None = None
    during: tuple[Tensor, ...] = ()
    first: tuple[Tensor, ...] = ()
    held: tuple[Tensor, ...] = ()
    again: tuple[Tensor, ...] = ()  # what is held while the operation's region is run again
    frame: tuple[Tensor, ...] = ()  # what the code refers to meanwhile
    late: Size = NONE


@dataclass(eq=False)
class Region:
    """Operations that are run again in the backward pass, and the inputs kept for that.

    With `chooses` not all are: attention's output and every second matrix product's are `kept`, as
    torchtitan's policy for torch.utils.checkpoint.create_selective_checkpoint_contexts says. `lent`
    are tensors that the code keeps in a dictionary for other layers, until all regions are done.
    """

    inputs: list[Tensor]
    chooses: bool = False
    lent: tuple[Tensor, ...] = ()
    kept: list[Tensor] = field(default_factory=list)
    products: int = 0
    firsts: dict[Tensor, Tensor] = field(default_factory=dict)  # what it made the first time

    def product(self, out: Tensor) -> None:
        """Count a matrix product and keep it if it is the first, third, ..."""
        self.products += 1
        if self.chooses and self.products % 2:
            self.kept.append(out)


@dataclass(eq=False)
class Skipped:
    """Layers left out of a tape because they equal one on it: what they keep until their backward
    pass, what they hold until all of it is over, what they leave."""

    count: int
    saved: dict[str, Size]
    gradients: Size
    packed: Size = NONE  # of what they keep, a copy for each operation that saved it
    held: dict[str, Size] = field(default_factory=dict)


@dataclass(eq=False)
class Tape:
    """Records operations. `autocast` is torch.autocast to bf16; `device` chooses its operator list.

    `batched` says whether the micro-batch is above one: a transposed batch of heads must then be
    copied before a batched matmul. `tokens`, those of the micro-batch, decide how CUDA sums over
    them. `fp8`: the layers' linears are torchao's Float8Linear. `frame_of` gives the tensors
    that the code refers to, kept or not.
    """

    autocast: bool = False
    device: str = "cpu"
    batched: bool = True
    tokens: int = 1
    fp8: bool = False
    phase: str = "embedding"
    nodes: list = field(default_factory=list)
    casts: dict = field(default_factory=dict)
    region: Region | None = None
    frame_of: Callable[[], tuple] = tuple
    outside: tuple[Tensor, ...] = ()  # of a module that is run again apart, what is around it

    def emit(self, name, out, grads, saved=(), extra=None, scratch=NONE, late=NONE):
        """Record an operation; it exists for autograd only if some input needs a gradient.

        Its backward pass allocates the new gradients at once, or `extra`, and `scratch`; and then
        `late`.
        """
        outputs = out if isinstance(out, tuple) else (out,)
        grads = [(tensor, kind) for tensor, kind in grads if tensor.grad]
        if not grads:
            for tensor in outputs:
                tensor.grad = False
            return out
        if extra is None:
            extra = NONE
            for tensor, kind in grads:
                extra = plus(extra, tensor.size) if kind in (NEW, NEW_VIEW) else extra
        saved = [(tensor, why) for tensor, why in saved if tensor is not None]
        part = "logits" if grads[0][0].part == "logits" else "temporary"
        extra = plus(extra, scratch)
        node = Node(name, self.phase, outputs, grads, saved, extra, part, self.region)
        node.frame, node.late = self.frame_of(), late
        self.nodes.append(node)
        return out

    def rows(self, per_token: float, once: int = 0) -> Size:
        """Bytes that grow with the tokens of a micro-batch, and bytes that do not."""
        return (once, 0, -int(-per_token // 1), 0, 0)

    def _summed(self, parameter: Tensor | None) -> Size:
        """What CUDA allocates to sum a parameter's gradient over the tokens."""
        if self.device != "cuda" or parameter is None or not parameter.grad:
            return NONE
        return self.rows(*kernels.summed(self.tokens, prod(parameter.shape)))

    def during(self, *tensors: Tensor, first: tuple[Tensor, ...] = ()) -> None:
        """Of the last operation: these exist while it runs, whether or not they are kept; `first`
        when it runs forward, and not when its region is run again."""
        if self.nodes and isinstance(self.nodes[-1], Node):
            self.nodes[-1].during += tensors
            self.nodes[-1].first += (*first, *self.outside)

    def hold(self, x: Tensor) -> None:
        """The last operation holds on to x by itself, not through autograd: a region that is run
        again makes another x, and both are there."""
        node = self.nodes[-1]
        if self.region is None:
            node.held += (x.storage,)
            return
        first = self.region.firsts.setdefault(x.storage, Tensor(x.shape, x.dtype, x.name, x.part))
        node.again += (x.storage,)
        node.held += (x if x.storage in self.region.inputs else first,)

    # -- views and copies

    def view(self, x: Tensor, shape: tuple, name="view") -> Tensor:
        out = Tensor(shape, x.dtype, x.name, x.part, storage=x)
        return self.emit(name, out, [(x, True)])

    def copy(self, x: Tensor, shape: tuple, name="copy") -> Tensor:
        """A reshape that must copy; its gradient is a view."""
        out = Tensor(shape, x.dtype, f"{name} of {x.name}", x.part)
        return self.emit(name, out, [(x, True)])

    def to_heads(self, x: Tensor, shape: tuple, copied: bool) -> Tensor:
        """(b, s, heads * width) seen as (b, heads, s, width); `copied` if the gradient returns
        in another order of dimensions and must be copied to pass the view."""
        out = Tensor(shape, x.dtype, x.name, storage=x)
        return self.emit("to_heads", out, [(x, not copied)])

    def cast(self, x: Tensor, dtype: str) -> Tensor:
        if x.dtype == dtype:
            return x
        out = Tensor(x.shape, dtype, f"{x.name} in {dtype}", x.part)
        if x.part == "parameters":
            out.part = "temporary"
        return self.emit("cast", out, [(x, False)])

    def slice(self, x: Tensor, shape: tuple) -> Tensor:
        out = Tensor(shape, x.dtype, x.name, storage=x)
        return self.emit("slice", out, [(x, False)])

    def split(self, x: Tensor, shapes: list[tuple]) -> tuple[Tensor, ...]:
        outs = tuple(Tensor(shape, x.dtype, x.name, storage=x) for shape in shapes)
        return self.emit("split", outs, [(x, False)])

    def cat(self, parts: list[Tensor], shape: tuple, name="cat") -> Tensor:
        dtype = _promote(*parts)
        out = Tensor(shape, dtype, name)
        # each part's gradient is a slice of the incoming one, cast where the part was promoted
        return self.emit(name, out, [(part, part.dtype == dtype) for part in parts])

    def expand_heads(self, x: Tensor, shape: tuple, copied: bool = True) -> Tensor:
        """Key or value heads repeated for each query head; the gradient is summed over them."""
        out = Tensor(
            shape, x.dtype, f"{x.name} for every query head", storage=None if copied else x
        )
        return self.emit("repeat", out, [(x, False)])

    # -- elementwise

    def add(self, x: Tensor, y: Tensor, name="sum") -> Tensor:
        shape = x.shape if len(x.shape) >= len(y.shape) and "b" in x.shape else y.shape
        out = Tensor(shape, _promote(x, y), name)
        grads = [(t, SAME if (t.dtype, t.shape) == (out.dtype, shape) else NEW) for t in (x, y)]
        return self.emit("add", out, grads)

    def scale(self, x: Tensor, name="") -> Tensor:
        """Times or divided by a number: saves nothing."""
        out = Tensor(x.shape, x.dtype, name or x.name, x.part)
        return self.emit("scale", out, [(x, False)])

    def mul(self, x: Tensor, y: Tensor, name="product", why="factor") -> Tensor:
        """Elementwise product with broadcasting: each factor is saved for the other's gradient."""
        big = x if _rank(x) >= _rank(y) else y
        out = Tensor(big.shape, _promote(x, y), name)
        saved = [(x, why)] if y.grad else []
        saved += [(y, why)] if x.grad else []
        weight = next((t for t in (x, y) if t.part == "parameters"), None)
        extra, late = NONE, self._summed(weight)
        for t in (x, y):  # computed at the product's size and dtype, then summed or cast
            if t.grad:
                extra = plus(extra, out.size)
                late = plus(late, t.size) if t.dtype != out.dtype else late
        return self.emit("mul", out, [(x, False), (y, False)], saved, extra, late=late)

    def unary(self, name, x: Tensor, keeps="input", temporaries=1) -> Tensor:
        """An elementwise function; `keeps` its "input" or its "output" for the gradient."""
        out = Tensor(x.shape, x.dtype, f"{name} of {x.name}", x.part)
        kept = x if keeps == "input" else out
        saved = [(kept, f"{keeps} of {name}")]
        return self.emit(name, out, [(x, False)], saved, times(temporaries, x.size))

    def listed(self, x: Tensor) -> Tensor:
        """The input of an operator that autocast runs in fp32 on CUDA, and on the CPU does not."""
        return self.cast(x, "fp32") if self.autocast and self.device == "cuda" else x

    def power(self, x: Tensor) -> Tensor:
        return self.unary("pow", self.listed(x), temporaries=3)

    def dropout(self, x: Tensor, rate: float) -> Tensor:
        if not rate:
            return x
        dtype = "bool" if self.device == "cuda" else x.dtype  # the CPU keeps scaled noise
        mask = Tensor(x.shape, dtype, f"dropout mask of {x.name}", grad=False)
        out = Tensor(x.shape, x.dtype, f"{x.name} after dropout")
        return self.emit("dropout", out, [(x, False)], [(mask, "dropped elements")])

    # -- reductions and norms

    def softmax(self, x: Tensor) -> Tensor:
        """On CUDA the backward pass writes gradient x output down before it sums its rows."""
        return self.unary("softmax", x, "output", temporaries=2 if self.device == "cuda" else 1)

    def log_softmax(self, x: Tensor) -> Tensor:
        return self.unary("log_softmax", x, "output")

    def inverse_rms(self, x: Tensor) -> Tensor:
        """1 / sqrt(mean(x²) + eps) over the last dimension."""
        squares = self.unary("pow", x, temporaries=3)
        mean = self.emit("mean", Tensor((*x.shape[:-1], 1), x.dtype, "mean"), [(squares, False)])
        return self.unary("rsqrt", mean, keeps="output", temporaries=3)

    def layer_norm(self, x: Tensor, weight: Tensor | None, bias: Tensor | None, name) -> Tensor:
        x = self.listed(x)
        out = Tensor(x.shape, x.dtype, f"output of {name}")
        dtype = "fp32" if self.device == "cuda" else x.dtype
        statistic = Tensor((*x.shape[:-1], 1), dtype, f"mean of {name}", grad=False)
        deviation = Tensor((*x.shape[:-1], 1), dtype, f"1/deviation of {name}", grad=False)
        saved = [(x, f"input of {name}"), (statistic, "statistics"), (deviation, "statistics")]
        grads = [(x, False)] + [(p, False) for p in (weight, bias) if p is not None]
        return self.emit(name, out, grads, saved)

    # -- matrix products

    def linear(self, x: Tensor, weight: Tensor, bias: Tensor | None, out_dim: int, name) -> Tensor:
        """x @ weight (+ bias): keeps x for the weight's gradient, the weight for x's.

        torchao's Float8Linear (0.18, tensorwise) keeps the 16-bit input and the weight itself, and
        makes their fp8 copies anew where it multiplies; the weight's gradient comes in 16 bits.
        """
        scratch = NONE
        if self.fp8 and self.phase == "layers" and x.shape[-1] != 1:
            x = self.cast(x, "bf16")
            narrow = [(*x.shape[:-1], out_dim), x.shape]
            scratch = size_of(weight.shape, "bf16")
            for shape in narrow:
                scratch = plus(scratch, size_of(shape, "fp8"))
        elif self.autocast:
            weight = self._cast_weight(weight)
            x = self.cast(x, "bf16")
            bias = self._cast_weight(bias) if bias is not None else None
        out = Tensor((*x.shape[:-1], out_dim), x.dtype, f"output of {name}")
        saved = [(x, f"input of {name}")] if weight.grad else []
        saved += [(weight, f"weight of {name}")] if x.grad else []
        # the product is of two dimensions: gradients come back through reshape and transpose
        grads = [(x, NEW_VIEW), (weight, NEW_VIEW)] + ([(bias, NEW)] if bias is not None else [])
        if self.region:
            self.region.product(out)
        return self.emit(name, out, grads, saved, scratch=scratch, late=self._summed(bias))

    def matmul(self, x: Tensor, y: Tensor, shape: tuple, name) -> Tensor:
        out = Tensor(shape, x.dtype, name)
        saved = [(x, f"factor of {name}")] if y.grad else []
        saved += [(y, f"factor of {name}")] if x.grad else []
        return self.emit(name, out, [(x, NEW_VIEW), (y, NEW_VIEW)], saved)

    def gather(self, x: Tensor, shape: tuple, name, index_shape: tuple) -> Tensor:
        """Rows of x by an index tensor, which is kept; the gradient is scattered into zeros."""
        index = Tensor(index_shape, "int64", f"index of {name}", grad=False)
        out = Tensor(shape, x.dtype, name)
        return self.emit("index", out, [(x, False)], [(index, "rows taken")])

    def grouped_linear(self, x: Tensor, weight: Tensor, shape: tuple, name) -> Tensor:
        """Each row times its expert's matrix, in the weights' dtype: autocast leaves it alone."""
        x = self.cast(x, weight.dtype)
        out = Tensor(shape, x.dtype, f"output of {name}")
        saved = [(x, f"input of {name}")] if weight.grad else []
        saved += [(weight, f"weight of {name}")] if x.grad else []
        return self.emit(name, out, [(x, False), (weight, False)], saved)

    def lower(self, x: Tensor) -> Tensor:
        """What autocast does to the inputs of a matrix product."""
        return self.cast(x, "bf16") if self.autocast else x

    def _cast_weight(self, weight: Tensor) -> Tensor:
        """Autocast copies each weight once a forward pass."""
        if weight.dtype == "bf16":
            return weight
        if weight not in self.casts or self.casts[weight][1] is not self.region:
            self.casts[weight] = (self.cast(weight, "bf16"), self.region)
        return self.casts[weight][0]

    # -- recompute

    def begin_recompute(self, inputs: list[Tensor], chooses: bool = False) -> None:
        self.region = Region(inputs, chooses)

    def end_recompute(self) -> None:
        self.region = None


def _promote(*tensors: Tensor) -> str:
    return "fp32" if any(t.dtype == "fp32" for t in tensors) else "bf16"


def _rank(x: Tensor) -> tuple:
    """Orders operands by size: the larger shape is the product's."""
    return len(x.shape), sum(isinstance(n, str) for n in x.shape), prod(_sizes(x))


def _sizes(x: Tensor) -> list[int]:
    return [n for n in x.shape if not isinstance(n, str)]
