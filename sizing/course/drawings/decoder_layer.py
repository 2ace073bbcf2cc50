"""One decoder layer, labelled: the picture that returns in each lesson, and what it keeps."""

from ...architecture import Model
from ...calculators.style import COLOURS
from ...footprint.saved import saved_tensors
from ...run import Run
from ...units import gb, si
from .drawing import Drawing, Step
from .svg import DIM, GRID, Panel, on

# The boxes: place (x, y, width, height) in a panel of 984 x 284, and the part whose colour it has.
_BOXES = {
    "table": (12, 118, 86, 52, "embedding"),
    "norm 1": (132, 118, 52, 52, "norm"),
    "queries": (206, 72, 96, 40, "attention"),
    "keys": (206, 124, 96, 40, "attention"),
    "values": (206, 176, 96, 40, "attention"),
    "scores": (322, 104, 96, 80, "temporary"),
    "output": (436, 118, 90, 52, "attention"),
    "norm 2": (572, 118, 52, 52, "norm"),
    "gate": (646, 86, 90, 44, "mlp"),
    "up": (646, 158, 90, 44, "mlp"),
    "down": (758, 118, 86, 52, "mlp"),
    "head": (882, 118, 94, 52, "head"),
}
INK_DIM = "#555555"
_RESIDUALS = ((548, 144), (860, 144))
LIT = {
    "everything": tuple(_BOXES),
    "tables": ("table", "head"),
    "attention": ("queries", "keys", "values", "scores", "output"),
    "products": ("queries", "keys", "values", "output", "gate", "up", "down", "head"),
    "scores": ("scores",),
    "mlp": ("gate", "up", "down"),
    "norms": ("norm 1", "norm 2"),
}


def shapes(model: Model) -> dict[str, tuple[int, ...]]:
    """The weights of each box: (rows in, columns out) of a matrix, (width,) of a norm."""
    h, d, ffn = model.hidden, model.head_dim, model.ffn
    mlp = [w for w in model.blocks[0].weights if w.part == "mlp" and w.kind == "matrix"]
    found = {
        "table": (model.vocab, h),
        "norm 1": (h,),
        "queries": (h, model.heads * d),
        "keys": (h, model.kv_heads * d),
        "values": (h, model.kv_heads * d),
        "output": (model.heads * d, h),
        "norm 2": (h,),
        "gate": (h, ffn),
        "up": (h, ffn),
        "down": (ffn, h),
        "head": (h, model.vocab),
    }
    if len(mlp) == 2:
        del found["gate"]
    return found


def layer(model: str = "llama-3.2-3b", lit: str = "everything") -> Drawing:
    """A decoder layer between table and head, with the shapes of a model's weights.

    ``lit`` is the part in colour: one of `LIT`. ValueError for another, or for a model whose
    layers hold several experts.
    """
    if lit not in LIT:
        raise ValueError(f"lit: {lit!r} given; allowed: {', '.join(LIT)}")
    made = Model(model)
    if made.parameters.router:
        raise ValueError(f"model: {model!r} has experts; allowed: a model with one MLP per layer")
    found = shapes(made)
    notes = {
        box: (" × ".join(map(str, shape)), si(_product(shape), "")) for box, shape in found.items()
    }
    notes["scores"] = ("softmax(QKᵀ)V", "no weights")
    words = (
        f"{made.name}: a token's vector of {made.hidden} numbers goes through {made.layers} layers "
        "like this one. Below the line that runs through, attention and MLP compute what is added "
        f"to it. Each box says the shape of its weights. In colour: {_names(lit, found)}."
    )
    return Drawing(f"One decoder layer of {made.name}", (Step(_picture(made, lit, notes), words),))


def _names(lit: str, found: dict) -> str:
    boxes = [box for box in LIT[lit] if box in found or box == "scores"]
    return lit if lit == "everything" else ", ".join(boxes)


def _product(shape: tuple[int, ...]) -> int:
    total = 1
    for n in shape:
        total *= n
    return total


def _picture(
    model: Model, lit: str | tuple[str, ...], notes: dict[str, tuple[str, ...]], title: str = ""
) -> str:
    boxes = LIT.get(lit, lit) if isinstance(lit, str) else lit
    panel = Panel(984, 284)
    panel.box(116, 40, 760, 196, fill="#fafafa", edge=DIM, dash="6 4", round_=10)
    panel.text(496, 32, f"one of {model.layers} layers", fill=INK_DIM)
    for (x, y), start in zip(_RESIDUALS, (120, 560), strict=True):
        panel.line((start, 144), (start, 56), (x, 56), (x, y - 10), edge="#555555", arrow=True)
        panel.text((start + x) / 2, 51, "residual", size=11, fill=INK_DIM)
    for one, other in _FLOW:
        if one in notes and other in notes:
            panel.line(_right(one), _left(other), arrow=True)
    panel.line((98, 144), (132, 144), arrow=True)
    panel.line((526, 144), (538, 144))
    panel.line((557, 144), (572, 144), arrow=True)
    panel.line((844, 144), (850, 144))
    panel.line((869, 144), (882, 144), arrow=True)
    for x, y in _RESIDUALS:
        panel.plus(x, y)
    for box, note in notes.items():
        x, y, w, h, part = _BOXES[box]
        fill = COLOURS[part] if box in boxes else "#ededed"
        ink = on(fill) if box in boxes else "#555555"
        panel.box(x, y, w, h, fill=fill, edge="#555555" if box in boxes else GRID)
        lines = [box, *note]
        top = y + h / 2 - 6.5 * (len(lines) - 1) + 4
        for number, words in enumerate(lines):
            size = 12 if number == 0 else 9.5
            panel.text(x + w / 2, top + 13 * number, words, size=size, fill=ink, bold=number == 0)
    tied = "(tied: the table again)" if model.tied else ""
    panel.text(55, 188, "tokens in", size=11, fill=INK_DIM)
    out = f"a score for each of {model.vocab:,} words out"
    panel.text(974, 256, out, size=11, fill=INK_DIM, anchor="end")
    panel.text(974, 272, tied, size=11, fill=INK_DIM, anchor="end")
    for name, x in (("attention", 340), ("MLP", 720)):
        panel.text(x, 258, name, size=13, bold=True)
    return panel.svg(title or f"One decoder layer of {model.name}")


_FLOW = (
    ("norm 1", "queries"),
    ("norm 1", "keys"),
    ("norm 1", "values"),
    ("queries", "scores"),
    ("keys", "scores"),
    ("values", "scores"),
    ("scores", "output"),
    ("norm 2", "gate"),
    ("norm 2", "up"),
    ("gate", "down"),
    ("up", "down"),
)


def _left(box: str) -> tuple[float, float]:
    x, y, _, h, _ = _BOXES[box]
    return x, y + h / 2


def _right(box: str) -> tuple[float, float]:
    x, y, w, h, _ = _BOXES[box]
    return x + w, y + h / 2


# --- what the layer keeps for its backward pass ------------------------------------------

# Words in a saved tensor's name or reason -> the box that keeps it, looked at in this order.
_KEEPERS = (
    ("q_proj", "queries"),
    ("k_proj", "keys"),
    ("v_proj", "values"),
    ("o_proj", "output"),
    ("gate_proj", "gate"),
    ("up_proj", "up"),
    ("down_proj", "down"),
    ("post_attention_layernorm", "norm 2"),
    ("input_layernorm", "norm 1"),
)
_ORDER = ("norm 1", "queries", "keys", "values", "scores", "output")
_ORDER += ("norm 2", "gate", "up", "down")


def keeper(name: str, why: str) -> str:
    """The box of the layer whose operation needs a saved tensor."""
    if "weight" not in name and why in ("queries", "keys", "values", "normalisation of each row"):
        return "scores"
    if name == "attention output":
        return "scores"
    text = name if why == "factor of the gate" else why
    for words, box in _KEEPERS:
        if words in text:
            return box
    return "gate" if "silu" in why else "scores"


def kept(run: Run) -> dict[str, int]:
    """Bytes of activations that one layer keeps, by the box that needs them.

    Weights that autocast copied and tensors that all layers share are left out; a tensor that two
    operations need counts once, where it was first needed.
    """
    found = dict.fromkeys(_ORDER, 0)
    for tensor in saved_tensors(run):
        if not tensor.shared and not tensor.weight:
            found[keeper(tensor.name, tensor.why)] += tensor.bytes
    return found


def saves(run: Run | None = None) -> Drawing:
    """What each operation of a layer keeps for the backward pass, one operation per step.

    A Llama-like model without recompute. By default llama-3.2-3b, 1 x 4096 tokens, bf16-mixed.
    """
    run = run or Run(Model("llama-3.2-3b"), sequence=4096, micro_batch=1, precision="bf16-mixed")
    found, model = kept(run), run.model
    steps, so_far, done = [], 0, []
    notes = {box: ("",) for box in _BOXES if box in ("table", "head")}
    for box in _ORDER:
        so_far += found[box]
        done.append(box)
        shown = notes | {b: ((gb(found[b]) if b in done else ""),) for b in _ORDER}
        words = (
            f"{box} keeps {gb(found[box])} for the backward pass; the layer so far {gb(so_far)}, "
            f"{so_far / (run.micro_batch * run.sequence * model.hidden):.1f} bytes per number of "
            "its input."
        )
        steps.append(Step(_picture(model, tuple(done), shown, words), words))
    title = (
        f"What a layer of {model.name} keeps: {run.micro_batch} × {run.sequence} tokens, "
        f"{run.precision}, {run.attention} attention"
    )
    return Drawing(title, tuple(steps), "operation")
