"""The training forward pass of a model on a tape: what stands around and inside its layers."""

from __future__ import annotations

from functools import lru_cache

from ..architecture.model import Model
from ..architecture.weights import Block
from ..recomputing import check, every_layer, is_checkpointed
from ..run import Run
from . import adapters, kernels, masks, objectives, rotary
from .activations import activation
from .backward import held, kept, packed
from .decoder import decoder
from .families import BESIDE, ENTER, LEAVE, OWN_ATTENTION, layer_of
from .fused import LIGER, fuse
from .losses import LOSSES, chunk_ends
from .norms import NORMS
from .tape import NONE, Size, Skipped, Tape, Tensor, plus, size_of, times


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
        outputs: what the trainer keeps until the backward pass is over.
        leaf: the embedding's rows where they are a leaf of the graph, kept as long.
        layers, weights: {block: operations}, {block: parameters} of one layer of each kind.
    """

    def __init__(self, run: Run, device: str = "cuda", tokens: int | None = None):
        self.run, self.model, self.config = run, run.model, run.model.config
        self.family, self.traits = run.model.family, run.model.traits
        self.frozen = run.lora is not None
        if run.model.head != "language model":
            raise ValueError(
                f"architectures: a model with head {run.model.head!r} given; allowed: a causal "
                "language model, whose loss is over the vocabulary"
            )
        self.tokens = run.micro_batch * run.sequence if tokens is None else tokens
        self.eager = run.attention == "eager" or not self.traits.fused_attention
        if self.eager and run.recompute == "selective" and self.family in OWN_ATTENTION:
            raise ValueError(
                f"recompute: 'selective' given; allowed with {self.family!r}: 'none', 'full' (its "
                "attention is not apart from its layer)"
            )
        check(self.model, run.recompute, run.attention)
        self.per_operation = run.recompute == "selective" and not self.eager
        if not isinstance(run.recompute, str) and layer_of(self.family) is not decoder:
            raise ValueError(
                f"recompute: {run.recompute!r} given; allowed with {self.family!r}: 'none', "
                "'selective', 'full', 'every-2', ... (its layers are not made of modules here)"
            )
        if run.kernels == "liger" and self.family not in LIGER:
            raise ValueError(
                f"kernels: 'liger' given; allowed with {self.family!r}: 'eager', 'compiled' (Liger "
                f"has kernels for {', '.join(LIGER)})"
            )
        self.dtype = run.recipe.weights
        self.tape = Tape(
            autocast=run.recipe.autocast,
            device=device,
            batched=run.micro_batch > 1,
            tokens=self.tokens,
            fp8=run.recipe.products == "fp8",
            frame_of=lambda: (*self.around, *self.frame),
        )
        self.outer = {w.name.removesuffix(".weight"): w for w in self.model.outer}
        self.tables: dict[str, Tensor] = {}
        self.layers: dict[Block, list] = {}
        self.recorded: dict[tuple[Block, bool], list] = {}
        self.weights: dict[Block, list[Tensor]] = {}
        self.made: dict[str, Tensor] = {}  # parameters of the layer that is recorded
        self.shared_keys: dict[int | None, tuple[Tensor, Tensor]] = {}
        self.end: dict[str, Size] = {}
        self.outputs: tuple[Tensor, ...] = ()
        self.leaf: tuple[Tensor, ...] = ()
        self.uncast: Size = NONE
        self.around: tuple[Tensor, ...] = ()  # what the code refers to around a layer and in it
        self.frame: tuple[Tensor, ...] = ()
        # Moments of the forward pass beside its end, as bytes by part beside what is kept.
        self.moments: list[dict[str, Size]] = []
        self._record()

    # -- the model around its layers

    def _record(self) -> None:
        t = self.tape
        x = embedded = self._embed()
        self._shared()
        steps = self._representatives()
        for place, (block, skipped, again) in enumerate(steps, 1):
            if skipped:
                t.nodes.append(self._skipped(block, skipped, again))
                continue
            self.kept_for_others = self._lends(block, [step[0] for step in steps[place:]])
            self.around = (embedded, x)
            x = self._layer(block, x, again)
        x = self._final(x)
        self._loss(x)

    def _lends(self, block: Block, later: list[Block]) -> bool:
        """Whether others read a layer's keys and values: the last of its window before those."""
        own = [b for b in later if b.window == block.window and not b.shares_keys]
        return any(b.shares_keys for b in self.model.blocks) and not own

    def _embed(self) -> Tensor:
        t = self.tape
        x = self._lookup(_embedding_name(self.outer), ("b", "s"))
        if self.traits.scaled_embedding == "within":
            x = t.scale(x, "scaled embedding")
        checkpointed = is_checkpointed(self.run.recompute, "eager" if self.eager else "flash")
        if checkpointed and not x.grad:  # transformers then asks for its gradient: a leaf of the
            x.grad, self.leaf = True, (x,)  # graph, there until the backward pass is over
        if self.traits.scaled_embedding == "after":
            x = t.scale(x, "scaled embedding")
        t.phase = "layers"
        self.all_inputs = BESIDE[self.family](self, x) if self.family in BESIDE else None
        x = ENTER[self.family](self, x) if self.family in ENTER else x
        if "project_in" in self.outer:
            x = self.outer_linear(x, "project_in", self.model.hidden)
        for positions, span in (("wpe", (1, "s")), ("embed_positions", ("b", "s"))):
            if positions in self.outer:
                x = t.add(x, self._lookup(positions, span), "embedding + position")
        if "word_embeddings_layernorm" in self.outer:
            x = self._outer_norm(x, "word_embeddings_layernorm")
        return t.dropout(x, self.rate(self.traits.dropouts[2]))

    def rate(self, field: str | None) -> float:
        """A dropout rate of the config; 0 where the family has none."""
        return (self.config.get(field) or 0.0) if field else 0.0

    def switched(self, rule: bool | str) -> bool:
        """A rule of the traits: fixed, or a flag of the config."""
        return bool(self.config.get(rule)) if isinstance(rule, str) else rule

    def _lookup(self, name: str, span: tuple) -> Tensor:
        table = self.outer_tensor(name)
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
        x = LEAVE[self.family](self, x) if self.family in LEAVE else x
        for name in ("ln_f", "final_layer_norm", "norm_f", "final_layernorm", "norm"):
            if name in self.outer:
                x = self._outer_norm(x, name)
        if self.traits.norm == "layer, no weights" or self._opt_norm_without_weights():
            x = NORMS[self.traits.norm](t, x, None, None, "norm")
        t.phase = "loss"
        if "project_out" in self.outer:
            x = self.outer_linear(x, "project_out", self.outer["project_out"].shape[0])
        return x

    def _opt_norm_without_weights(self) -> bool:
        """OPT's final norm may have neither weight nor bias, and still keep its input."""
        c = self.config
        return (
            c.get("layer_norm_elementwise_affine") is False
            and c.get("do_layer_norm_before", True)
            and not c.get("_remove_final_layer_norm", False)
        )

    def _outer_norm(self, x: Tensor, name: str) -> Tensor:
        bias = f"{name}.bias" in self.outer
        weight = self.outer_tensor(name)
        bias = self.outer_tensor(f"{name}.bias") if bias else None
        return NORMS[self.traits.norm](self.tape, x, weight, bias, name)

    def _loss(self, x: Tensor) -> None:
        head = "lm_head" if "lm_head" in self.outer else _embedding_name(self.outer)
        if self.frozen and self.run.lora.embeddings:  # a copy of its own, tied or not
            head = "lm_head"
        if self.run.objective == "lm":
            LOSSES[self.run.loss_kernel](self, x, head)
        else:
            objectives.loss(self, x, head)

    def outer_tensor(self, name: str) -> Tensor:
        if name not in self.tables:
            trained = self.outer_trained(name)
            known = self.outer.get(name) or self.outer[_embedding_name(self.outer)]
            self.tables[name] = self._parameter(known.shape, name, trained)
        return self.tables[name]

    def outer_trained(self, name: str) -> bool:
        """Whether a weight outside the layers is trained: all of them, or those adapters name."""
        if not self.frozen:
            return True
        known = {"embed_tokens": _embedding_name(self.outer), "lm_head": "lm_head"}
        return name in [known[table] for table in self.run.lora.embeddings]

    def outer_linear(self, x: Tensor, name: str, out: int, part="activations") -> Tensor:
        bias = self.outer_tensor(f"{name}.bias") if f"{name}.bias" in self.outer else None
        result = self.tape.linear(x, self.outer_tensor(name), bias, out, name)
        result.part = part
        return result

    def _parameter(self, shape, name, grad=True, dtype=None) -> Tensor:
        return Tensor(tuple(shape), dtype or self.dtype, name, "parameters", grad=grad)

    def _shared(self) -> None:
        """Tensors made once and used by every layer: masks, and rotary cosines and sines."""
        self.masks = masks.of_layers(self)
        self.rope: dict[int | None, list[Tensor]] = {}
        if rotary.width(self.model):
            sets = {block.window: block.query_dim for block in self.model.blocks}
            for kind, head in (sets if self.traits.rotary_sets else {None: None}).items():
                self.rope[kind] = rotary.angles(self.model, self.dtype, head)

    @property
    def laid_out_by_head(self) -> bool:
        """Whether queries and keys are joined from parts, which leaves them head by head."""
        joined = self.traits.rotated_in_part or "kv_lora_rank" in self.config
        return self.block.rotated and (joined or self.traits.rotary == "two halves")

    def _representatives(self):
        """(block, how many to skip that equal the last recorded, whether it is run again).

        The first and the last of each kind are recorded, in the model's order: a peak is at an end.
        With frozen embeddings the first layer keeps less: a second one stands for the others. What
        is skipped comes before the next layer that is the last of its kind."""
        lead, order = (2 if self.frozen else 1), []
        for sharing in (False, True):  # layers that read others' keys come after those
            kinds = {k: at for k, at in self._places().items() if k[0].shares_keys == sharing}
            recorded = {n: k for k, at in kinds.items() for n in (*at[:lead], at[-1])}
            waiting = []
            for n, (block, again) in sorted(recorded.items(), key=lambda entry: entry[0]):
                at = kinds[block, again]
                if n == at[-1] and len(at) > lead:
                    order, waiting = order + waiting, []
                order.append((block, 0, again))
                if len(at) > lead + 1 and n == at[lead - 1]:
                    waiting.append((block, len(at) - lead - 1, again))
        return order

    def _places(self) -> dict[tuple[Block, bool], list[int]]:
        """{(kind, whether run again as a whole): numbers of its layers}."""
        every, places = every_layer(self.run.recompute), {}
        for n, block in enumerate(self.model.by_layer, 1):
            again = n % every == 0 if every else self.per_operation
            places.setdefault((block, again), []).append(n)
        return places

    def _skipped(self, block: Block, count: int, again: bool) -> Skipped:
        nodes = self.recorded[block, again]
        sizes = {part: times(count, size) for part, size in kept(nodes).items()}
        gradients = NONE
        for tensor in self.weights[block]:
            if tensor.grad:
                gradients = plus(gradients, tensor.size)
        self.uncast = plus(self.uncast, times(count, self._casts(nodes)))
        hold = {part: times(count, size) for part, size in held(nodes).items()}
        return Skipped(count, sizes, times(count, gradients), times(count, packed(nodes)), hold)

    def _casts(self, nodes: list) -> Size:
        """Autocast's copies of weights that a layer will cast again: cached until the forward pass
        ends."""
        if not self._cached:
            return NONE
        again = [node for node in nodes if node.region is not None]
        return kept(again, of_region=True).get("temporary", NONE)

    @property
    def _cached(self) -> bool:
        """Whether autocast keeps its copies of the layers' weights: of trained ones, and not of
        views of them, such as Falcon's weight.T."""
        return not self.frozen and self.family != "falcon"

    def copies_so_far(self) -> tuple[Tensor, ...]:
        """Autocast's copies of the weights of layers that will be run again, up to here."""
        if not self._cached or self.tape.region is None:
            return ()
        here = (copy for copy, region in self.tape.casts.values() if region is self.tape.region)
        before = Tensor((self.uncast[0],), "bool", "copies of layers before", "temporary")
        return (before, *here)

    # -- one layer

    def _layer(self, block: Block, x: Tensor, again: bool) -> Tensor:
        t = self.tape
        start = len(t.nodes)
        self.block, self.frame = block, ()
        self.weights[block], self.made = [], {}
        self.named = {w.name.split("*.", 1)[1]: w for w in block.weights}
        whole = self.all_inputs
        self.layer_input = whole and t.slice(whole, ("b", "s", whole.shape[-1]))
        if again:
            beside = [self.layer_input] if self.layer_input is not None else []
            t.begin_recompute([x, *self._around(), *beside], self.per_operation)
        entered = x
        x = layer_of(self.family)(self, x)
        if self.run.kernels != "eager":
            fuse([n for n in t.nodes[start:] if n.region is t.region], entered, self.run.kernels)
        t.end_recompute()
        nodes = t.nodes[start:]
        self.layers.setdefault(block, nodes)
        self.recorded[block, again] = nodes
        self.uncast = plus(self.uncast, self._casts(nodes))
        return x

    def _around(self) -> list[Tensor]:
        """What a layer is given beside its input: rotary angles, a mask, others' keys."""
        mask, block = self.masks[self.block.window], self.block
        keys = self.shared_keys[block.window] if block.shares_keys else ()
        return [*self.rotary(), *([mask] if mask is not None else []), *keys]

    def module(self, name: str, call, x: Tensor) -> Tensor:
        """A module of the layer, run again in the backward pass where the run names it."""
        if name not in self.run.recompute or isinstance(self.run.recompute, str):
            return call(self, x)
        attention = self._around() if name == "self_attn" else []
        self.tape.begin_recompute([x, *attention])
        # what is outside of the module is not there when it is run again
        outside = self.around, self.frame
        self.tape.outside, self.around, self.frame = (*self.around, *self.frame), (), ()
        out = call(self, x)
        self.tape.outside, (self.around, self.frame) = (), outside
        self.tape.end_recompute()
        return out

    def weight(self, name: str) -> Tensor | None:
        """The layer's weight or bias of that name, None where the model has none."""
        if name not in self.named:
            return None
        known = self.named[name]
        return self._own(known.shape, name, known.trained and not self.frozen, known.dtype)

    def _own(self, shape: tuple, name: str, grad: bool, dtype: str | None) -> Tensor:
        """A parameter of the layer, one tensor however often the layer uses it."""
        if name not in self.made:
            self.made[name] = self._parameter(shape, name, grad, dtype)
            self.weights[self.block].append(self.made[name])
        return self.made[name]

    def linear(self, x: Tensor, name: str, biased: bool = True) -> Tensor:
        t = self.tape
        weight = self.weight(f"{name}.weight")
        bias = self.weight(f"{name}.bias") if biased else None
        out_dim = weight.shape[1 if self.traits.input_first else 0]
        if self.frozen:
            return adapters.linear(self, x, name, weight, bias, out_dim)
        return t.linear(x, weight, bias, out_dim, name)

    def adapter(self, shape: tuple, name: str) -> Tensor:
        """A matrix of an adapter, which is trained."""
        return self._own(shape, name, True, self.run.lora.dtype)

    def norm(self, x: Tensor, name: str) -> Tensor:
        """The layer's norm of that name, as the family writes it."""
        weight, bias = self.weight(f"{name}.weight"), self.weight(f"{name}.bias")

        def call(f, x):
            return NORMS[f.traits.norm](f.tape, x, weight, bias, name)

        return self.module(name, call, x)

    def activation(self, x: Tensor) -> Tensor:
        field = self.traits.activation
        return activation(self.tape, x, self.config.get(field), field)

    def rotary(self) -> list[Tensor]:
        """Cosines and sines of the layer; Gemma 3 has two sets, the others one."""
        return self.rope.get(self.block.window) or self.rope.get(None, [])


@lru_cache(maxsize=512)
def turning_points(model: Model, chunked: bool = False) -> tuple[int, ...]:
    """Numbers of tokens at which a CUDA kernel of the model's step works another way, or chunks of
    the loss grow."""
    columns = {w.elements for block in model.blocks for w in block.weights if len(w.shape) == 1}
    tables = {w.shape[0] for w in model.outer if len(w.shape) == 2}
    points = kernels.turning_points(columns, tables)
    if not chunked:
        return points
    return tuple(sorted({*points, *chunk_ends(model.vocab, model.hidden)}))


def _embedding_name(outer: dict) -> str:
    return next(
        name for name in ("wte", "embed_tokens", "embed_in", "word_embeddings") if name in outer
    )
