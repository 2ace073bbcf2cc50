"""What a layer keeps when its elementwise operations are fused: torch.compile's or Liger's kernels.

torch.compile's min-cut partitioner keeps the results of matrix products and of attention, and
what the products of the backward pass need, and computes norms, rotations, gates and residuals
again from them. Liger's kernels (arXiv:2410.10989) keep a norm's input and a number a token, and
the two halves of a gate. For Llama's layer both come to 17.0 instead of 24.5 units of
tokens x hidden x 2 bytes in bf16; the first is held against the partitioner in
tests/test_finetuning.py.
"""

from __future__ import annotations

from .tape import NEW, NEW_VIEW, NONE, Node, Tensor, plus

# Of a tape's operations those that are no fused kernel's: products of matrices, attention.
ELEMENTWISE = {
    *("cast", "scale", "mul", "add", "copy", "view", "to_heads", "slice", "split", "cat", "pad"),
    *("pow", "mean", "rsqrt", "silu", "gelu", "gelu_pytorch_tanh", "swish", "relu", "sigmoid"),
    *("tanh", "square", "softplus", "clamp", "sub", "repeat", "fill", "complex mul", "dropout"),
    *("clone", "1 + weight"),
}
# Model types that Liger's own table names (liger-kernel 0.8), of those sized here.
LIGER = (
    *("llama", "mistral", "ministral3", "mixtral", "qwen2", "qwen3", "qwen3_moe", "gemma"),
    *("gemma2", "gemma3_text", "phi3", "olmo2", "smollm3", "gpt_oss", "llama4_text"),
)


def fuse(nodes: list[Node], entered: Tensor, kernels: str) -> None:
    """Replace what the elementwise operations of a layer keep by what they are computed from."""
    made = {out: node for node in nodes for out in node.outputs}
    copies: dict[tuple[Tensor, str], Tensor] = {}
    for node in nodes:
        if node.name in ELEMENTWISE:
            kept = {}
            for tensor, why in node.saved:
                kept |= dict.fromkeys(_sources(tensor, made, entered, kernels), why)
            node.saved = list(kept.items())
            node.extra = node.late = NONE  # no intermediate is written down: gradients alone
            for tensor, kind in node.grads:
                if kind in (NEW, NEW_VIEW):
                    node.extra = plus(node.extra, tensor.size)
        elif kernels == "compiled":
            node.saved = [(_one_copy(tensor, made, copies), why) for tensor, why in node.saved]


def _sources(tensor: Tensor, made: dict, entered: Tensor, kernels: str) -> list[Tensor]:
    """The tensors that are there anyway, or must be, from which this one is computed again."""
    node = made.get(tensor)
    if node is None or tensor is entered or node.name not in ELEMENTWISE:
        return [tensor]
    if tensor.shape[-1:] == (1,) or (kernels == "liger" and node.name == "add"):
        return [tensor]  # a number a token; a residual, which its norm keeps
    summed = _summands(tensor, made, entered)
    if sum(tensor.size) < sum(sum(product.size) for product in summed):
        return [tensor]  # such as a frozen layer's output with its adapter's in it
    inputs = dict.fromkeys(t for t, _ in node.grads)
    inputs |= dict.fromkeys(t for t, _ in node.saved if t is not tensor and not t.grad)
    return [s for t in inputs for s in _sources(t, made, entered, kernels)]


def _summands(tensor: Tensor, made: dict, entered: Tensor) -> list[Tensor]:
    """The products of which a tensor is the sum, if it is one: a sum's backward pass needs none."""
    node = made.get(tensor)
    if node is None or tensor is entered:
        return []
    if node.name not in ELEMENTWISE:
        return [tensor]
    if node.name not in ("add", "cast", "scale"):
        return []
    found = [_summands(t, made, entered) for t, _ in node.grads]
    return [product for products in found for product in products] if all(found) else []


def _one_copy(tensor: Tensor, made: dict, copies: dict) -> Tensor:
    """A compiler casts a tensor once, and not to another dtype and back."""
    if tensor.part == "parameters" or tensor.part == "temporary":
        return tensor
    root = tensor
    while (node := made.get(root)) is not None and node.name == "cast":
        root = node.grads[0][0]
        if root.dtype == tensor.dtype:
            return root
    if root is tensor:
        return tensor
    return copies.setdefault((root, tensor.dtype), tensor)
