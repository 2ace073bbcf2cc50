"""ParameterCalculator: the parameters of any config, part by part."""

from __future__ import annotations

from ..architecture.model import Model, presets
from ..architecture.reading import parse, without_formula
from ..hardware import gpu as find_gpu
from ..hardware import gpus
from ..units import BYTES, count
from . import style
from .base import Calculator, Result, dropdown, text
from .html import Limit

PARTS = ("embedding", "attention", "mlp", "norm", "head", "router")

TRACE = "trace the real model"
SECONDS = 8  # to load torch and transformers and to build a model without its weights
EXACT = "exact. Tests hold it equal to the transformers model of every preset."
TRACED = "counted on the real transformers model, built from its config without weights."

# A dimension's name in the configs of the families.
DIMENSIONS = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model"),
    "MLP width": ("intermediate_size", "ffn_dim", "n_inner"),
    "key/value heads": ("num_key_value_heads",),
    "vocabulary": ("vocab_size",),
    "experts": ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts"),
    "expert width": ("moe_intermediate_size",),
}


def doubled(model: Model) -> list[tuple[str, int]]:
    """(dimension, total parameters) with each dimension of the config doubled, one at a time.

    Sizes that the config leaves to follow from another do so. Left out are dimensions that the
    family does not have or use, or may not double (more key/value heads than query heads).
    """
    implied = {"MLP width": model.ffn, "key/value heads": model.kv_heads}
    rows = []
    for dimension, names in DIMENSIONS.items():
        name = next((name for name in names if name in model.config), None)
        if name is None:
            continue
        size = model.config[name] or implied.get(dimension)
        if isinstance(size, bool) or not isinstance(size, int):
            continue
        changes = {name: 2 * size}
        for listed in ("layer_types", "no_rope_layers"):
            if dimension == "layers" and isinstance(model.config.get(listed), list):
                changes[listed] = 2 * model.config[listed]
        if dimension == "width" and model.config.get("word_embed_proj_dim") == model.hidden:
            changes["word_embed_proj_dim"] = 2 * model.hidden  # OPT: the table is as wide
        try:
            total = model.replace(**changes).parameters.total
        except ValueError:
            continue
        if total != model.parameters.total:
            rows.append((f"{dimension} ({name})", total))
    return rows


class ParameterCalculator(Calculator):
    """Parameters of a preset or of a pasted config.json. Settings: model, config (the text of a
    config.json; empty: the preset), unknown (what to do with a type that has no formula), dtype,
    gpu (whose memory the weights are held against)."""

    title = "Parameters"

    def make_controls(self):
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "config": text(
                "or config.json", "paste a config.json, a path or a Hub id; empty: the model above"
            ),
            "unknown": dropdown("no formula", ["say so", TRACE], "say so"),
            "dtype": dropdown("stored as", ["fp32", "bf16", "fp8"], "bf16"),
            "gpu": dropdown("GPU", [(find_gpu(g).label, g) for g in gpus()], "h100-sxm"),
        }

    def result(self, model, config, unknown, dtype, gpu) -> Result:
        chosen = _pasted(config, unknown == TRACE) if config.strip() else Model(model)
        p, card = chosen.parameters, find_gpu(gpu)
        traced = getattr(chosen, "traced", False)
        mark = ", traced" if traced else ""
        parts = {name: getattr(p, name) for name in PARTS}
        size = BYTES[dtype] * p.total
        rows = tuple((f"{name}", f"{n:,}", f"{n / p.total:.1%}") for name, n in parts.items())
        rows += (
            ("total", f"{p.total:,}", "100.0%"),
            ("active for a token", f"{p.active:,}", f"{p.active / p.total:.1%}"),
        )
        rows = tuple((name, number + mark, share) for name, number, share in rows)
        rows += tuple(
            (f"twice the {name}", f"{total:,}", f"{total / p.total:.3f} ×")
            for name, total in (() if traced else doubled(chosen))
        )
        active = "all" if p.active == p.total else count(p.active)
        notes = (f"{count(p.total)}, {active} of them active for a token.",)
        if config.strip():
            notes += (f"Of {chosen.name}, not of the model chosen above it.",)
            notes += _said(chosen)
        largest = max(parts, key=parts.get)
        return Result(
            value=p.total,
            headline=f"{p.total:,} parameters{mark}",
            formula=(
                " + ".join(f"{n:,} {name}" for name, n in parts.items() if n)
                + f" = {p.total:,}{mark}"
            ),
            columns=(chosen.name, "parameters", "share"),
            rows=rows,
            caption=(
                f"Parameters by part: {largest} holds {parts[largest] / p.total:.0%} of "
                f"{chosen.name}."
            ),
            notes=notes,
            accuracy=TRACED if traced else EXACT,
            limit=Limit(f"the weights alone in {dtype}{mark}", size, card.memory, card.label),
            data=parts,
        )

    def prepare(self, figure):
        axes = figure.subplots()
        colours = [style.COLOURS[name] for name in PARTS]
        self._bars = axes.barh(PARTS, [1] * len(PARTS), color=colours)
        self._labels = [axes.text(0, i, "", va="center") for i in range(len(PARTS))]
        axes.invert_yaxis()
        axes.set(xlabel="share of all parameters (%)", xlim=(0, 118), xticks=range(0, 101, 20))
        axes.grid(axis="y", visible=False)
        return [*self._bars, *self._labels]

    def update(self, result):
        for bar, label, size in zip(self._bars, self._labels, result.data.values(), strict=True):
            share = 100 * size / result.value
            bar.set_width(share)
            label.set_text(f" {share:.1f}%, {count(size)}" if size else " none")
            label.set_x(share)


def _pasted(text: str, may_trace: bool) -> Model:
    """The model of a pasted config.json, of a path, or of a Hub id that a preset has."""
    config, name = text.strip(), None
    if config.startswith(("{", "[")):
        config, name = parse(config, "the pasted config"), "the pasted config"
    family = without_formula(config)
    if family is None:
        return Model(config, name=name)
    if not may_trace:
        raise ValueError(
            f'config: there is no formula for {family!r} here; allowed: to trace it: set "no '
            f'formula" to "trace the real model", which takes about {SECONDS} s'
        )
    from ..trace import model as traced  # brings torch and transformers

    return traced(config, name=name)


def _said(model: Model) -> tuple[str, ...]:
    """What was assumed or left out on the way to the model, and the limits of a traced one."""
    assumed = ", ".join(f"{name} {value}" for name, value in model.assumed.items())
    limits = tuple(f"Traced: {limit}." for limit in getattr(model, "limits", ()))
    return model.notes + limits + ((f"Not in the config, taken as {assumed}.",) if assumed else ())
