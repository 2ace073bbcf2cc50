"""What a checkpoint holds: weights, masters, the optimizer's state, random states, by their names.

One layout in every format, nested dictionaries with names in order:

    {"master": {name: fp32 copy}, "model": {name: weight}, "optimizer": {name.slot: state},
     "progress": (step, position in the data), "rng": {"cpu.<rank>", "cuda.<rank>"}}

`model` has each parameter once, as `named_parameters()` gives them. The optimizer's state goes by
name and not by number, so that another number of ranks can read it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from ..architecture.model import Model
from ..footprint.optimizer import Trained, slots
from ..lora import Lora, linear_layers
from ..run import Run
from .pickles import Stored

GENERATOR = 5056  # bytes of torch.get_rng_state(): a Mersenne twister of 624 words of 8 bytes, more
CUDA_GENERATOR = 16  # bytes of torch.cuda.get_rng_state(): a seed and an offset


def contents(run: Run, device: str = "cuda") -> dict:
    """The checkpoint of a run as nested dictionaries of `Stored`, names in order."""
    width, master = run.recipe.weights, run.recipe.master
    if run.lora is None:
        trained = {name: (shape, width) for name, shape in parameter_shapes(run.model)}
    else:
        trained = {
            name: (shape, run.lora.dtype if ".lora_" in name else width)
            for name, shape in adapter_shapes(run)
        }
    model = {name: Stored(*trained[name]) for name in sorted(trained)}
    # Weights that are fp32 already are their own masters.
    copied = {n: w for n, w in model.items() if master and w.dtype != "fp32"}
    moments = {
        f"{name}.{slot}": stored
        for name, weight in model.items()
        for slot, stored in _slots(run, name, weight.shape, "fp32" if master else weight.dtype)
    }
    found: dict = {}
    if copied:
        found["master"] = {name: Stored(w.shape, "fp32") for name, w in copied.items()}
    found["model"] = model
    if moments:
        found["optimizer"] = dict(sorted(moments.items()))
    found["progress"] = Stored((2,), "int64")
    states = {f"cpu.{rank}": Stored((GENERATOR,), "uint8") for rank in range(run.gpus)}
    if device == "cuda":
        states |= {f"cuda.{rank}": Stored((CUDA_GENERATOR,), "uint8") for rank in range(run.gpus)}
    found["rng"] = dict(sorted(states.items()))
    return found


def checkpoint_numbers(run: Run) -> int:
    """Bytes of a checkpoint's weights, moments and masters, without their containers; of a run with
    adapters those that are trained."""
    return _numbers_of(run.model, run.precision, run.optimizer, run.lora)


@lru_cache(maxsize=256)
def _numbers_of(model: Model, precision: str, optimizer: str, lora: Lora | None) -> int:
    run = Run(model, sequence=1, precision=precision, optimizer=optimizer, lora=lora)
    content = contents(run)
    return sum(numbers(content.get(part, {})) for part in ("model", "optimizer", "master"))


_TRANSFORMER = ("gpt2", "gpt_bigcode", "gptj", "gpt_neo", "bloom", "mpt", "falcon")
_PREFIX = {"gpt_neox": "gpt_neox.", "opt": "model.decoder."} | dict.fromkeys(
    _TRANSFORMER, "transformer."
)


def adapter_shapes(run: Run) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of what a run with adapters saves, as peft names it: adapters alone, and the
    tables that are trained whole. The frozen weights are where they were loaded from."""
    found = []
    for name, (out, into) in _adapted_by_layer(run):
        found.append((f"base_model.model.{name}.lora_A.weight", (run.lora.rank, into)))
        found.append((f"base_model.model.{name}.lora_B.weight", (out, run.lora.rank)))
    lookup = next(w for w in run.model.outer if w.kind == "lookup")
    head = next((w for w in run.model.outer if w.name == "lm_head.weight"), lookup)
    tables = {
        "embed_tokens": (_prefix(run.model) + lookup.name, lookup.shape),
        "lm_head": ("lm_head.weight", head.shape),
    }
    for table in run.lora.embeddings:
        name, shape = tables[table]
        found.append((f"base_model.model.{name}", shape))
    return found


def _adapted_by_layer(run: Run) -> Iterator[tuple[str, tuple[int, int]]]:
    names = [n.removesuffix(".weight") for n, _ in parameter_shapes(run.model)]
    known = linear_layers(run.model)
    for name in names:
        parts = name.split(".")
        place = next((i for i, part in enumerate(parts) if part.isdigit()), None)
        inside = ".".join(parts[place + 1 :]) if place is not None else ""
        if inside in known and run.lora.adapts(inside):
            yield name, known[inside]


def _prefix(model: Model) -> str:
    """What transformers puts before the names of all weights but the head's."""
    return _PREFIX.get(model.family, "model.")


def parameter_shapes(model: Model) -> list[tuple[str, tuple[int, ...]]]:
    """(name, shape) of every parameter as transformers names them, in no particular order."""
    prefix = _prefix(model)
    outer = [
        (w.name if w.name.startswith("lm_head.") else prefix + w.name, w.shape) for w in model.outer
    ]
    inner = [
        (prefix + weight.name.replace("*", str(number), 1), weight.shape)
        for number, block in enumerate(model.by_layer)
        for weight in block.weights
    ]
    return outer + inner


def _slots(run: Run, name: str, shape: tuple, width: str) -> list[tuple[str, Stored]]:
    """What an optimizer keeps of a parameter, each in an object of its own: one object would be one
    tensor of two names."""
    hidden = len(shape) == 2 and any(part.isdigit() for part in name.split("."))
    head = run.model.hidden**2 // run.model.heads
    kept = slots(run.optimizer, Trained(shape, 1, 0, hidden, name, head))
    return [(slot, Stored(part, dtype or width)) for slot, part, dtype in kept]


def numbers(tensors: dict[str, Stored]) -> int:
    """Bytes of tensors alone, without their container."""
    return sum(tensor.bytes for tensor in tensors.values())
