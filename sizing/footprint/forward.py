"""The training forward pass of a model on a tape: what stands around and inside its layers."""

from __future__ import annotations

from functools import lru_cache

from ..architecture.model import Model
from ..architecture.weights import Block
from ..run import Run
from . import kernels
from .backward import kept
from .layers import LAYERS, llama_like
from .tape import NONE, Size, Skipped, Tape, Tensor, plus, size_of, times

# What an activation function keeps: torch's own functions one tensor, those written out more.
_ACTIVATIONS = {
    "silu": "input",
    "gelu": "input",
    "gelu_pytorch_tanh": "input",
    "relu": "output",
    "gelu_new": "written out",
    "tanh": "output",
}
_DEFAULT_ACTIVATION = {
    "gpt2": ("activation_function", "gelu_new"),
    "gpt_neox": ("hidden_act", "gelu"),
    "opt": ("activation_function", "relu"),
    "gemma2": ("hidden_activation", "gelu_pytorch_tanh"),
    "gemma3_text": ("hidden_activation", "gelu_pytorch_tanh"),
}


class Forward:
    """Records one training forward pass of a run's model.

    Args:
        run: the run; its micro-batch only says whether it is above one, its sequence only whether
            it is beyond a sliding window.
        device: "cpu" or "cuda", for the few operators that differ.
        tokens: of a micro-batch, or others between the same `turning_points`; of the run if None.

    Attributes:
        tape: the operations.
        end: bytes by part alive at the end of the forward pass only.
        layers, weights: {block: operations}, {block: parameters} of one layer of each kind.
    """

    def __init__(self, run: Run, device: str = "cuda", tokens: int | None = None):
        self.run, self.model, self.config = run, run.model, run.model.config
        self.family = run.model.family
        self.rank = run.lora.rank if run.lora else 0
        self.tokens = run.micro_batch * run.sequence if tokens is None else tokens
        self.dtype = run.recipe.weights
        self.tape = Tape(
            autocast=run.recipe.autocast,
            device=device,
            batched=run.micro_batch > 1,
            tokens=self.tokens,
        )
        self.outer = {w.name.removesuffix(".weight"): w for w in self.model.outer}
        self.tables: dict[str, Tensor] = {}
        self.layers: dict[Block, list] = {}
        self.weights: dict[Block, list[Tensor]] = {}
        self.end: dict[str, Size] = {}
        self.uncast: Size = NONE
        self._record()

    # -- the model around its layers

    def _record(self) -> None:
        t = self.tape
        x = self._embed()
        self._shared()
        for block, skipped in self._representatives():
            if skipped:
                t.nodes.append(self._skipped(block, skipped))
            else:
                x = self._layer(block, x)
        x = self._final(x)
        self._loss(x)

    def _embed(self) -> Tensor:
        t = self.tape
        if self.family == "gpt2":
            table, positions, span = "wte", "wpe", (1, "s")
        elif self.family == "opt":
            table, positions, span = "embed_tokens", "embed_positions", ("b", "s")
        else:
            table, positions, span = _embedding_name(self.outer), None, None
        x = self._lookup(table, ("b", "s"))
        if self.family in ("gemma2", "gemma3_text"):
            x = t.scale(x, "scaled embedding")
        t.phase = "layers"
        if "project_in" in self.outer:
            x = self._outer_linear(x, "project_in", self.model.hidden)
        if positions:
            x = t.add(x, self._lookup(positions, span), "embedding + position")
        if self.family == "gpt2":
            x = t.dropout(x, self.config["embd_pdrop"])
        if self.family == "gpt_neox":
            x = t.dropout(x, self.config["hidden_dropout"])
        return x

    def _lookup(self, name: str, span: tuple) -> Tensor:
        table = self._outer_tensor(name)
        out = Tensor((*span, self.outer[name].shape[1]), self.dtype, f"rows of {name}")
        scratch = NONE
        if self.tape.device == "cuda":
            read = self.tokens if "b" in span else self.run.sequence
            per_row, once = kernels.embedding(read, *self.outer[name].shape)
            each = size_of((*span, 1), "bool")  # a byte a row that is read
            scratch = tuple(
                -int(-per_row * n // 1) + (once if i == 0 else 0) for i, n in enumerate(each)
            )
        return self.tape.emit(name, out, [(table, False)], scratch=scratch)

    def _final(self, x: Tensor) -> Tensor:
        t = self.tape
        for name in ("ln_f", "final_layer_norm"):
            if name in self.outer:
                weight = self._outer_tensor(name)
                x = t.layer_norm(x, weight, self._vector(weight.shape), name)
        if "norm" in self.outer:
            x = self._rms_norm(x, self._outer_tensor("norm"), "norm")
        t.phase = "loss"
        if "project_out" in self.outer:
            x = self._outer_linear(x, "project_out", self.outer["project_out"].shape[0])
        return x

    def _loss(self, x: Tensor) -> None:
        t = self.tape
        head = "lm_head" if "lm_head" in self.outer else _embedding_name(self.outer)
        logits = self._outer_linear(x, head, self.model.vocab, "logits")
        logits.part = "logits"
        cap = self.config.get("final_logit_softcapping")
        held = [logits]
        if cap is not None:
            logits = t.unary("tanh", t.scale(logits, "logits / cap"), keeps="output")
            logits = t.scale(logits, "capped logits")
            held = [logits]
        wide = t.cast(logits, "fp32")
        if wide is not logits:
            held.append(wide)
        log_probabilities = t.log_softmax(wide)
        labels = Tensor(("b", "s"), "int64", "labels", grad=False)
        loss = Tensor((1,), "fp32", "loss")
        t.emit("nll_loss", loss, [(log_probabilities, False)], [(labels, "targets")])
        # The forward pass ends with these alive beside what is saved: the logits, the last hidden
        # state if the head did not save it, autocast's copies of weights to be recomputed.
        sizes = NONE
        for tensor in held:
            sizes = plus(sizes, tensor.size)
        own_copy = t.autocast and x.dtype == "fp32"
        last = x.size if own_copy or self.rank else NONE
        self.end = {"logits": sizes, "temporary": self.uncast, "activations": last}

    def _outer_tensor(self, name: str) -> Tensor:
        if name not in self.tables:
            self.tables[name] = self._parameter(self.outer[name].shape, name, not self.rank)
        return self.tables[name]

    def _outer_linear(self, x: Tensor, name: str, out: int, part="activations") -> Tensor:
        result = self.tape.linear(x, self._outer_tensor(name), None, out, name)
        result.part = part
        return result

    def _parameter(self, shape, name, grad=True, dtype=None) -> Tensor:
        return Tensor(tuple(shape), dtype or self.dtype, name, "parameters", grad=grad)

    def _vector(self, shape, name="bias") -> Tensor:
        return self._parameter(shape, name, not self.rank)

    def _shared(self) -> None:
        """Tensors made once and used by every layer: masks, and rotary cosines and sines."""
        self.rope: dict[int | None, list[Tensor]] = {}
        self.masks: dict[int | None, Tensor | None] = {}
        eager = self.run.attention == "eager"
        for window in {block.window for block in self.model.blocks}:
            beyond = window is not None and self.run.sequence >= window
            if eager:
                span = "b" if self.tape.batched else 1
                mask = Tensor((span, 1, "s", "s"), self.dtype, "mask", grad=False, shared=True)
            elif beyond and self.family != "gemma2":
                mask = Tensor((1, 1, "s", "s"), "bool", "mask", grad=False, shared=True)
            else:
                mask = None
            self.masks[window] = mask
        width = self._rotary_width()
        if width:
            dtype = "fp32" if self.family == "olmo2" else self.dtype
            kinds = (
                {block.window for block in self.model.blocks}
                if self.family == "gemma3_text"
                else {None}
            )
            for kind in kinds:
                shape = (1, "s", width)
                pair = [Tensor(shape, dtype, n, grad=False, shared=True) for n in ("cos", "sin")]
                self.rope[kind] = pair

    def _rotary_width(self) -> int:
        if self.family in ("gpt2", "opt"):
            return 0
        if self.family == "gpt_neox":
            rope = self.config.get("rope_parameters") or {}
            share = rope.get("partial_rotary_factor", self.config.get("rotary_pct", 0.25))
            return int(self.model.head_dim * share)
        if self.family == "deepseek_v3":
            return self.config["qk_rope_head_dim"]
        return self.model.head_dim

    def _representatives(self):
        """(block, skipped): a layer to record, or how many to skip that equal the last recorded.

        The first and the last of each kind are recorded, since a peak is at one end. With frozen
        embeddings the model's first layer keeps less than others: a second one stands for those.
        """
        lead = 2 if self.rank else 1
        blocks = self.model.blocks
        order = [(block, 0) for block in blocks for _ in range(min(lead, block.count))]
        order += [(b, b.count - lead - 1) for b in blocks if b.count > lead + 1]
        return order + [(block, 0) for block in blocks if block.count > lead]

    def _skipped(self, block: Block, count: int) -> Skipped:
        sizes = {part: times(count, size) for part, size in kept(self.layers[block]).items()}
        gradients = NONE
        for tensor in self.weights[block]:
            if tensor.grad:
                gradients = plus(gradients, tensor.size)
        if self.run.recompute == "full":
            self.uncast = plus(self.uncast, times(count, self._casts(block)))
        return Skipped(count, sizes, times(count, gradients))

    def _casts(self, block: Block) -> Size:
        """Autocast's copies of a layer's weights."""
        if self.rank:  # only weights that are trained stay in autocast's cache
            return NONE
        return kept(self.layers[block], of_region=True).get("temporary", NONE)

    # -- one layer

    def _layer(self, block: Block, x: Tensor) -> Tensor:
        t = self.tape
        start = len(t.nodes)
        self.block = block
        self.weights[block] = []
        self.named = {w.name.split("*.", 1)[1]: w for w in block.weights}
        if self.run.recompute == "full":
            mask = self.masks[block.window]
            t.begin_recompute([x, *self.rotary(), *([mask] if mask is not None else [])])
        x = LAYERS.get(self.family, llama_like)(self, x)
        t.end_recompute()
        self.layers[block] = t.nodes[start:]
        if self.run.recompute == "full":
            self.uncast = plus(self.uncast, self._casts(block))
        return x

    def weight(self, name: str) -> Tensor | None:
        """The layer's weight or bias of that name, None where the model has none."""
        if name not in self.named:
            return None
        tensor = self._parameter(self.named[name].shape, name, not self.rank)
        self.weights[self.block].append(tensor)
        return tensor

    def linear(self, x: Tensor, name: str) -> Tensor:
        t = self.tape
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        transposed = self.family == "gpt2"
        out_dim = weight.shape[1] if transposed else weight.shape[0]
        out = t.linear(x, weight, bias, out_dim, name)
        if not self.rank:
            return out
        down = self._parameter((self.rank, x.shape[-1]), f"{name}.lora_A", dtype="fp32")
        up = self._parameter((out_dim, self.rank), f"{name}.lora_B", dtype="fp32")
        self.weights[self.block] += [down, up]
        low = t.linear(t.cast(x, "fp32"), down, None, self.rank, f"{name}.lora_A")
        high = t.scale(t.linear(low, up, None, out_dim, f"{name}.lora_B"))
        return t.cast(t.add(out, high), out.dtype)

    def layer_norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")
        return self.tape.layer_norm(x, weight, bias, name)

    def norm(self, x: Tensor, name: str) -> Tensor:
        return self._rms_norm(x, self.weight(f"{name}.weight"), name)

    def _rms_norm(self, x: Tensor, weight: Tensor, name: str) -> Tensor:
        """Computed in fp32. Families differ in when they return to the input's dtype."""
        t = self.tape
        given = x.dtype
        x = t.cast(x, "fp32")
        normal = t.mul(x, t.inverse_rms(x), f"normalised input of {name}", f"factor in {name}")
        scaled = (f"output of {name}", f"scaling in {name}")
        if self.family in ("gemma2", "gemma3_text"):
            weight = t.copy(t.cast(weight, "fp32"), weight.shape, f"1 + weight of {name}")
            weight.part = "activations"
            return t.cast(t.mul(normal, weight, *scaled), given)
        if self.family == "olmo2":
            return t.cast(t.mul(weight, normal, *scaled), given)
        return t.mul(weight, t.cast(normal, given), *scaled)

    def activation(self, x: Tensor) -> Tensor:
        t = self.tape
        key, default = _DEFAULT_ACTIVATION.get(self.family, ("hidden_act", "silu"))
        name = self.config.get(key) or default
        kind = _ACTIVATIONS.get(name)
        if kind is None:
            raise ValueError(f"{key}: {name!r} given; allowed: {', '.join(sorted(_ACTIVATIONS))}")
        if kind != "written out":
            return t.unary(name, x, keeps=kind)
        half = t.scale(x, "0.5 x")
        cubic = t.add(x, t.scale(t.power(x), "0.044715 x³"))
        tanh = t.unary("tanh", t.scale(cubic, "x + 0.044715 x³"), keeps="output")
        one_plus = t.copy(tanh, tanh.shape, "1 + tanh")
        return t.mul(half, one_plus, "output of gelu_new", "factor in gelu_new")

    def rotary(self) -> list[Tensor]:
        """Cosines and sines of the layer; Gemma 3 has two sets, the others one."""
        return self.rope.get(self.block.window) or self.rope.get(None, [])


@lru_cache(maxsize=512)
def turning_points(model: Model) -> tuple[int, ...]:
    """Numbers of tokens at which a CUDA kernel of the model's step works another way."""
    columns = {w.elements for block in model.blocks for w in block.weights if len(w.shape) == 1}
    tables = {w.shape[0] for w in model.outer if len(w.shape) == 2}
    return kernels.turning_points(columns, tables)


def _embedding_name(outer: dict) -> str:
    return next(name for name in ("wte", "embed_tokens", "embed_in") if name in outer)
