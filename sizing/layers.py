"""The forward pass of each architecture on a tape, as transformers 5.23 writes it.

One function a family's layer, a line an operation: to check a formula against the model, lay
modeling_<family>.py beside it. What each operation keeps is in tape.py.
"""

from __future__ import annotations

from .backward import kept
from .families import Block
from .run import Run
from .tape import NONE, Region, Size, Skipped, Tape, Tensor, plus, size_of, times

WEIGHTS = {"fp32": "fp32", "bf16-mixed": "fp32", "bf16-master": "bf16", "bf16": "bf16"}

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
        lora: rank of the adapters on the linear layers inside the blocks, 0 for full training.

    Attributes:
        tape: the operations.
        forward: bytes by part alive at the end of the forward pass only.
        layers: {block: nodes} of one layer of each kind.
    """

    def __init__(self, run: Run, device: str = "cpu", lora: int = 0):
        self.run, self.model, self.config = run, run.model, run.model.config
        self.family, self.lora = run.model.family, lora
        self.dtype = WEIGHTS[run.precision]
        autocast = run.precision == "bf16-mixed"
        self.tape = Tape(autocast=autocast, device=device, batched=run.micro_batch > 1)
        self.outer = {w.name.removesuffix(".weight"): w for w in self.model.outer}
        self.tables: dict[str, Tensor] = {}
        self.layers: dict[Block, list] = {}
        self.weights: dict[str, tuple] = {}
        self.forward: dict[str, Size] = {}
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
        return self.tape.emit(name, out, [(table, False)])

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
        log_probabilities = t.softmax(wide, "log_softmax")
        labels = Tensor(("b", "s"), "int64", "labels", grad=False)
        loss = Tensor((1,), "fp32", "loss")
        t.emit("nll_loss", loss, [(log_probabilities, False)], [(labels, "targets")])
        # The forward pass ends with these alive beside what is saved: the logits, the last hidden
        # state if the head did not save it, autocast's copies of weights to be recomputed.
        sizes = NONE
        for tensor in held:
            sizes = plus(sizes, tensor.size)
        own_copy = t.autocast and x.dtype == "fp32"
        last = x.size if own_copy or self.lora else NONE
        self.forward = {"logits": sizes, "temporary": self.uncast, "activations": last}

    def _outer_tensor(self, name: str) -> Tensor:
        if name not in self.tables:
            self.tables[name] = self._parameter(self.outer[name].shape, name, not self.lora)
        return self.tables[name]

    def _outer_linear(self, x: Tensor, name: str, out: int, part="activations") -> Tensor:
        result = self.tape.linear(x, self._outer_tensor(name), None, out, name)
        result.part = part
        return result

    def _parameter(self, shape, name, grad=True, dtype=None) -> Tensor:
        return Tensor(tuple(shape), dtype or self.dtype, name, "parameters", grad=grad)

    def _vector(self, shape, name="bias") -> Tensor:
        return self._parameter(shape, name, not self.lora)

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
        lead = 2 if self.lora else 1
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
        if self.lora:  # only weights that are trained stay in autocast's cache
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
            t.begin_recompute([x, *self._rotary(), *([mask] if mask is not None else [])])
        x = _LAYERS.get(self.family, Forward._llama_layer)(self, x)
        t.end_recompute()
        self.layers[block] = t.nodes[start:]
        if self.run.recompute == "full":
            self.uncast = plus(self.uncast, self._casts(block))
        return x

    def _weight(self, name: str) -> Tensor | None:
        """The layer's weight or bias of that name, None where the model has none."""
        if name not in self.named:
            return None
        tensor = self._parameter(self.named[name].shape, name, not self.lora)
        self.weights[self.block].append(tensor)
        return tensor

    def _linear(self, x: Tensor, name: str) -> Tensor:
        t = self.tape
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        transposed = self.family == "gpt2"
        out_dim = weight.shape[1] if transposed else weight.shape[0]
        out = t.linear(x, weight, bias, out_dim, name)
        if not self.lora:
            return out
        down = self._parameter((self.lora, x.shape[-1]), f"{name}.lora_A", dtype="fp32")
        up = self._parameter((out_dim, self.lora), f"{name}.lora_B", dtype="fp32")
        self.weights[self.block] += [down, up]
        low = t.linear(t.cast(x, "fp32"), down, None, self.lora, f"{name}.lora_A")
        high = t.scale(t.linear(low, up, None, out_dim, f"{name}.lora_B"))
        return t.cast(t.add(out, high), out.dtype)

    def _layer_norm(self, x: Tensor, name: str) -> Tensor:
        weight, bias = self._weight(f"{name}.weight"), self._weight(f"{name}.bias")
        return self.tape.layer_norm(x, weight, bias, name)

    def _norm(self, x: Tensor, name: str) -> Tensor:
        return self._rms_norm(x, self._weight(f"{name}.weight"), name)

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

    def _activation(self, x: Tensor) -> Tensor:
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

    # -- attention

    def _rotary(self) -> list[Tensor]:
        """Cosines and sines of the layer; Gemma 3 has two sets, the others one."""
        return self.rope.get(self.block.window) or self.rope.get(None, [])

    def _rotate(self, x: Tensor) -> Tensor:
        """x cos + rotate_half(x) sin."""
        t = self.tape
        cos, sin = self._rotary()
        width, half = cos.shape[-1], cos.shape[-1] // 2
        heads = x.shape[:-1]
        turned = t.slice(x, (*heads, width)) if width < x.shape[-1] else x
        product = t.mul(turned, cos, "x cos", "rotary position")
        first, second = t.slice(turned, (*heads, half)), t.slice(turned, (*heads, half))
        swapped = t.cat([t.scale(second), first], (*heads, width))
        out = t.add(product, t.mul(swapped, sin, "x' sin", "rotary position"), "rotated")
        if width < x.shape[-1]:
            rest = t.slice(x, (*heads, x.shape[-1] - width))
            out = t.cat([out, rest], x.shape, "rotated")
        return t.cast(out, x.dtype) if self.family == "olmo2" else out

    def _attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """(b, heads, s, width) queries, keys and values to (b, s, heads * width)."""
        core = self._flash if self.run.attention == "flash" else self._eager
        t = self.tape
        mask = self.masks[self.block.window]
        if self.run.recompute == "selective" and self.run.attention == "eager":
            t.begin_recompute([q, k, v, mask])
            out = core(q, k, v, mask)
            t.end_recompute()
            return out
        return core(q, k, v, mask)

    def _flash(self, q, k, v, mask) -> Tensor:
        t = self.tape
        heads = self.block.heads
        if mask is not None and k.shape[1] != heads:
            k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1])) for x in (k, v))
        q, k, v = t.lower(q), t.lower(k), t.lower(v)
        width = v.shape[-1]
        if width < q.shape[-1]:  # fused kernels take heads of one width
            v = t.emit("pad", Tensor(q.shape, v.dtype, "padded values"), [(v, False)])
        saved = [(q, "queries"), (k, "keys"), (v, "values")]
        if mask is not None:
            span = "b" if t.batched else 1
            bias = Tensor((span, 1, "s", "s"), q.dtype, "mask as numbers", grad=False)
            saved.append((bias, "mask"))
        out = Tensor(("b", heads, "s", v.shape[-1]), q.dtype, "attention output")
        sums = Tensor(("b", heads, "s"), "fp32", "log-sum-exp of scores", grad=False)
        saved += [(out, "output"), (sums, "normalisation of each row")]
        out = t.emit("flash attention", out, [(q, False), (k, False), (v, False)], saved)
        # The kernel lays its output out as the queries, which concatenation left head by head.
        if width < q.shape[-1]:
            out = t.slice(out, ("b", heads, "s", width))
        reshape = t.copy if self.family in ("gpt_neox", "deepseek_v3") else t.view
        return reshape(out, ("b", "s", heads * width), "attention output")

    def _eager(self, q, k, v, mask) -> Tensor:
        t = self.tape
        heads, dtype = self.block.heads, q.dtype
        grouped = k.shape[1] != heads
        if grouped:
            k, v = (t.expand_heads(x, ("b", heads, "s", x.shape[-1])) for x in (k, v))
        scores = ("b", heads, "s", "s")
        q, k = t.lower(q), t.lower(k)
        if t.batched:
            q = t.copy(q, q.shape)
            k = k if grouped else t.copy(k, k.shape)
        weights = t.scale(t.matmul(q, k, scores, "scores"), "scaled scores")
        cap = self.config.get("attn_logit_softcapping")
        if self.family == "gemma2" and cap is not None:
            weights = t.scale(t.unary("tanh", t.scale(weights), keeps="output"), "capped scores")
        weights = t.add(weights, mask, "masked scores")
        if self.family != "gpt2" or (t.autocast and t.device == "cuda"):
            weights = t.cast(weights, "fp32")
        weights = t.softmax(weights)
        weights = t.cast(weights, v.dtype if self.family == "gpt2" else dtype)
        weights = t.dropout(weights, self._attention_dropout())
        weights, v = t.lower(weights), t.lower(v)
        if t.batched and not grouped:
            v = t.copy(v, v.shape)
        out = t.matmul(weights, v, ("b", heads, "s", v.shape[-1]), "attention output")
        return t.copy(out, ("b", "s", heads * v.shape[-1]), "attention output")

    def _attention_dropout(self) -> float:
        key = "attn_pdrop" if self.family == "gpt2" else "attention_dropout"
        return self.config.get(key, 0.0)

    def _projected(self, x: Tensor, name: str, heads: int, copied: bool) -> Tensor:
        return self._heads(self._linear(x, name), heads, copied)

    def _heads(self, x: Tensor, heads: int, copied: bool) -> Tensor:
        return self.tape.to_heads(x, ("b", heads, "s", x.shape[-1] // heads), copied)

    # -- the layers

    def _gpt2_layer(self, x: Tensor) -> Tensor:
        t, rate = self.tape, self.config["resid_pdrop"]
        heads, width = self.block.heads, self.model.hidden
        qkv = self._linear(self._layer_norm(x, "ln_1"), "attn.c_attn")
        parts = t.split(qkv, [("b", "s", width)] * 3)
        eager = self.run.attention == "eager"
        q, k, v = (self._heads(part, heads, eager) for part in parts)
        out = t.dropout(self._linear(self._attend(q, k, v), "attn.c_proj"), rate)
        x = t.add(out, x, "residual")
        y = self._linear(self._layer_norm(x, "ln_2"), "mlp.c_fc")
        y = self._linear(self._activation(y), "mlp.c_proj")
        return t.add(x, t.dropout(y, rate), "residual")

    def _neox_layer(self, x: Tensor) -> Tensor:
        t, rate = self.tape, self.config["hidden_dropout"]
        heads, width = self.block.heads, self.model.head_dim
        qkv = self._linear(self._layer_norm(x, "input_layernorm"), "attention.query_key_value")
        qkv = self._heads(qkv, heads, True)
        q, k, v = t.split(qkv, [("b", heads, "s", width)] * 3)
        out = self._attend(self._rotate(q), self._rotate(k), v)
        out = t.dropout(self._linear(out, "attention.dense"), rate)
        parallel = self.config["use_parallel_residual"]
        if not parallel:
            x = t.add(out, x, "residual")
        y = self._linear(self._layer_norm(x, "post_attention_layernorm"), "mlp.dense_h_to_4h")
        y = t.dropout(self._linear(self._activation(y), "mlp.dense_4h_to_h"), rate)
        return t.add(t.add(y, out), x, "residual") if parallel else t.add(y, x, "residual")

    def _opt_layer(self, x: Tensor) -> Tensor:
        t, rate = self.tape, self.config["dropout"]
        first = self.config["do_layer_norm_before"]
        heads = self.block.heads
        y = self._layer_norm(x, "self_attn_layer_norm") if first else x
        eager = self.run.attention == "eager"
        q = self._heads(t.scale(self._linear(y, "self_attn.q_proj")), heads, eager)
        k = self._projected(y, "self_attn.k_proj", heads, eager)
        v = self._projected(y, "self_attn.v_proj", heads, eager)
        out = t.dropout(self._linear(self._attend(q, k, v), "self_attn.out_proj"), rate)
        x = t.add(x, out, "residual")
        if not first:
            x = self._layer_norm(x, "self_attn_layer_norm")
        y = self._layer_norm(x, "final_layer_norm") if first else x
        y = self._linear(self._activation(self._linear(y, "fc1")), "fc2")
        x = t.add(x, t.dropout(y, rate), "residual")
        return x if first else self._layer_norm(x, "final_layer_norm")

    def _llama_layer(self, x: Tensor) -> Tensor:
        """Llama and its relatives: they differ in where norms stand."""
        t = self.tape
        both = self.family in ("gemma2", "gemma3_text")
        after = both or self.family == "olmo2"
        y = x if self.family == "olmo2" else self._norm(x, "input_layernorm")
        y = self._latent_attention(y) if self.family == "deepseek_v3" else self._attention(y)
        if after:
            y = self._norm(y, "post_attention_layernorm")
        x = t.add(x, y, "residual")
        y = x
        if both:
            y = self._norm(x, "pre_feedforward_layernorm")
        elif not after:
            y = self._norm(x, "post_attention_layernorm")
        if "mlp.gate.weight" not in self.named:
            y = self._gated_mlp(y, "mlp")
        elif self.family == "deepseek_v3":
            y = t.add(self._experts(y), self._gated_mlp(y, "mlp.shared_experts"))
        else:
            y = self._experts(y)
        if after:
            y = self._norm(y, "post_feedforward_layernorm")
        return t.add(x, y, "residual")

    def _attention(self, x: Tensor) -> Tensor:
        heads, groups = self.block.heads, self.model.kv_heads
        q, k = self._linear(x, "self_attn.q_proj"), self._linear(x, "self_attn.k_proj")
        v = self._projected(x, "self_attn.v_proj", groups, self.run.attention == "eager")
        if self.family == "olmo2":
            q, k = self._norm(q, "self_attn.q_norm"), self._norm(k, "self_attn.k_norm")
        q, k = self._heads(q, heads, True), self._heads(k, groups, True)
        if self.family in ("qwen3", "qwen3_moe", "gemma3_text"):
            q, k = self._norm(q, "self_attn.q_norm"), self._norm(k, "self_attn.k_norm")
        out = self._attend(self._rotate(q), self._rotate(k), v)
        return self._linear(out, "self_attn.o_proj")

    def _latent_attention(self, x: Tensor) -> Tensor:
        """Multi-head latent attention (arXiv:2412.19437, section 2.1.1): q and k are built from a
        part without positions and a rotated part, which all heads' keys share."""
        t, heads, prefix = self.tape, self.block.heads, "self_attn."
        nope, rope = self.config["qk_nope_head_dim"], self.config["qk_rope_head_dim"]
        rank, width = self.config["kv_lora_rank"], self.config["v_head_dim"]
        if prefix + "q_proj.weight" in self.named:
            q = self._linear(x, prefix + "q_proj")
        else:
            q = self._norm(self._linear(x, prefix + "q_a_proj"), prefix + "q_a_layernorm")
            q = self._linear(q, prefix + "q_b_proj")
        q_plain, q_turned = t.split(
            self._heads(q, heads, True), [("b", heads, "s", nope), ("b", heads, "s", rope)]
        )
        latent, k_turned = t.split(
            self._linear(x, prefix + "kv_a_proj_with_mqa"), [("b", "s", rank), ("b", "s", rope)]
        )
        latent = self._norm(latent, prefix + "kv_a_layernorm")
        q_turned = self._rotate_pairs(q_turned)
        k_turned = self._rotate_pairs(t.view(k_turned, ("b", 1, "s", rope)))
        q = t.cat([q_plain, q_turned], ("b", heads, "s", nope + rope), "queries")
        both = self._heads(self._linear(latent, prefix + "kv_b_proj"), heads, True)
        k_plain, v = t.split(both, [("b", heads, "s", nope), ("b", heads, "s", width)])
        k = Tensor(q.shape, k_plain.dtype, "keys")
        t.emit("fill", k, [(k_plain, False), (k_turned, False)])
        return self._linear(self._attend(q, k, v), prefix + "o_proj")

    def _rotate_pairs(self, x: Tensor) -> Tensor:
        """Rotary positions on even and odd elements."""
        t = self.tape
        cos, sin = self._rotary()
        half = (*x.shape[:-1], x.shape[-1] // 2)
        even, odd = t.slice(x, half), t.slice(x, half)
        first = t.add(t.mul(even, cos, why="rotary"), t.scale(t.mul(odd, sin, why="rotary")))
        second = t.add(t.mul(odd, cos, why="rotary"), t.mul(even, sin, why="rotary"))
        return t.cat([first, second], x.shape, "rotated")

    def _gated_mlp(self, x: Tensor, name: str) -> Tensor:
        gate = self._activation(self._linear(x, f"{name}.gate_proj"))
        up = self._linear(x, f"{name}.up_proj")
        product = self.tape.mul(gate, up, "gated", "factor of the gate")
        return self._linear(product, f"{name}.down_proj")

    def _experts(self, x: Tensor) -> Tensor:
        """Routed experts, tokens sorted by expert (transformers' grouped_mm_experts_forward).

        Every token goes to `chosen` experts, so the sizes do not depend on the routing.
        """
        t, hidden = self.tape, self.model.hidden
        up = self._weight("mlp.experts.gate_up_proj")
        down = self._weight("mlp.experts.down_proj")
        chosen, width = self.named["mlp.experts.down_proj"].chosen, down.shape[-1]
        pairs = ("b", "s", chosen)  # (token, expert)
        weights = self._route(x, up.shape[0], chosen)
        rows = t.gather(x, (*pairs, hidden), "tokens by expert", pairs)
        weights = t.gather(weights, (*pairs, 1), "routing weights by expert", pairs)
        both = t.grouped_linear(rows, up, (*pairs, 2 * width), "mlp.experts.gate_up_proj")
        gate, value = t.split(both, [(*pairs, width)] * 2)
        product = t.mul(self._activation(gate), value, "gated", "factor of the gate")
        out = t.grouped_linear(product, down, (*pairs, hidden), "mlp.experts.down_proj")
        out = t.mul(out, weights, "weighted output of experts", "routing weight")
        out = t.gather(out, (*pairs, hidden), "output by token", pairs)
        summed = Tensor(("b", "s", hidden), out.dtype, "sum over experts")
        return t.cast(t.emit("sum", summed, [(out, True)]), x.dtype)

    def _route(self, x: Tensor, experts: int, chosen: int) -> Tensor:
        """The router's weights of the chosen experts, normalised to sum to one."""
        t = self.tape
        if self.family == "deepseek_v3":
            return self._route_by_sigmoid(x, experts, chosen)
        scores = self._linear(x, "mlp.gate")
        shares = t.softmax(t.cast(scores, "fp32"))
        index = Tensor(("b", "s", chosen), "int64", "chosen experts", grad=False)
        top = Tensor(("b", "s", chosen), "fp32", "shares of chosen experts")
        t.emit("topk", top, [(shares, False)], [(index, "which were chosen")])
        if self.family != "qwen3_moe" or self.config.get("norm_topk_prob"):
            total = t.emit("sum", Tensor(("b", "s", 1), "fp32", "their sum"), [(top, True)])
            top = t.mul(top, total, "routing weights", "division by the sum")
        return t.cast(top, scores.dtype) if self.family == "qwen3_moe" else top

    def _route_by_sigmoid(self, x: Tensor, experts: int, chosen: int) -> Tensor:
        """DeepSeek's router: an fp32 product, sigmoid scores, those of the chosen normalised."""
        t = self.tape
        weight = t.cast(self._weight("mlp.gate.weight"), "fp32")
        scores = t.linear(t.cast(x, "fp32"), weight, None, experts, "mlp.gate")
        shares = t.unary("sigmoid", scores, keeps="output")
        index = Tensor(("b", "s", chosen), "int64", "chosen experts", grad=False)
        top = Tensor(("b", "s", chosen), shares.dtype, "scores of chosen experts")
        t.emit("gather", top, [(shares, False)], [(index, "which were chosen")])
        if self.config.get("norm_topk_prob", True):
            total = t.emit("sum", Tensor(("b", "s", 1), top.dtype, "their sum"), [(top, True)])
            top = t.mul(top, total, "routing weights", "division by the sum")
        return t.scale(top)


_LAYERS = {
    "gpt2": Forward._gpt2_layer,
    "gpt_neox": Forward._neox_layer,
    "opt": Forward._opt_layer,
}


def _embedding_name(outer: dict) -> str:
    return next(name for name in ("wte", "embed_tokens", "embed_in") if name in outer)


__all__ = ["WEIGHTS", "Forward", "Region", "size_of"]
