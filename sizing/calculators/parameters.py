"""ParameterCalculator: the parameters of any config, part by part."""

from __future__ import annotations

import json

import ipywidgets as widgets

from ..hardware import gpu as find_gpu
from ..hardware import gpus
from ..model import Model, presets
from ..units import BYTES, count, gb
from . import style
from .base import Calculator, Limit, Result, dropdown

PARTS = ("embedding", "attention", "mlp", "norm", "head", "router")

# A dimension's name in the configs of the families.
DIMENSIONS = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "MLP width": ("intermediate_size", "ffn_dim", "n_inner"),
    "vocabulary": ("vocab_size",),
    "experts": ("num_local_experts", "n_routed_experts"),
}


def doubled(model: Model) -> list[tuple[str, int]]:
    """(dimension, total parameters) with each dimension of the model doubled, one at a time.

    A dimension whose double the family does not allow is left out.
    """
    sizes = {"MLP width": model.ffn}  # may be implied by the width
    rows = []
    for dimension, fields in DIMENSIONS.items():
        field = next((name for name in fields if name in model.config), None)
        if field is None:
            continue
        size = sizes.get(dimension) or model.config[field]
        changes = {field: 2 * size}
        if dimension == "layers" and model.config.get("layer_types"):
            changes["layer_types"] = 2 * list(model.config["layer_types"])
        try:
            rows.append((dimension, model.replace(**changes).parameters.total))
        except ValueError:
            continue
    return rows


class ParameterCalculator(Calculator):
    """Parameters of a preset or of a pasted config.json. Settings: model, config (the text of a
    config.json; empty: the preset), dtype, gpu (whose memory the weights are held against)."""

    title = "Parameters"

    def make_controls(self):
        return {
            "model": dropdown("model", list(presets()), "llama-3.1-8b"),
            "config": widgets.Textarea(
                description="or config.json",
                placeholder="paste a config.json here; empty: the model above",
                style={"description_width": "118px"},
                layout={"width": "98%", "height": "84px"},
            ),
            "dtype": dropdown("stored as", ["fp32", "bf16", "fp8"], "bf16"),
            "gpu": dropdown("on", [(find_gpu(g).label, g) for g in gpus()], "h100-sxm"),
        }

    def result(self, model, config, dtype, gpu) -> Result:
        chosen = _pasted(config) if config.strip() else Model(model)
        p, card = chosen.parameters, find_gpu(gpu)
        parts = {name: getattr(p, name) for name in PARTS}
        size = BYTES[dtype] * p.total
        rows = tuple((f"{name}", f"{n:,}", f"{n / p.total:.1%}") for name, n in parts.items())
        rows += (("total", f"{p.total:,}", "100.0%"), ("active", f"{p.active:,}", ""))
        rows += tuple(
            (f"{name} doubled", f"{total:,}", f"{total / p.total:.2f} x")
            for name, total in doubled(chosen)
        )
        largest = max(parts, key=parts.get)
        return Result(
            value=p.total,
            headline=f"{p.total:,} parameters",
            formula=(
                " + ".join(f"{n:,} {name}" for name, n in parts.items() if n) + f" = {p.total:,}"
            ),
            columns=(chosen.name, "parameters", "share"),
            rows=rows,
            caption=(
                f"Parameters by part: {largest} holds {parts[largest] / p.total:.0%} of "
                f"{chosen.name}."
            ),
            notes=(
                f"{count(p.total)} in all, {count(p.active)} active for a token.",
                f"{gb(size)} in {dtype}.",
            ),
            accuracy="exact. Tests hold it equal to the transformers model of every preset.",
            limit=Limit("weights alone", size, card.memory, card.label),
            data=(chosen.name, parts),
        )

    def prepare(self, figure):
        axes = figure.subplots()
        colours = [style.COLOURS[name] for name in PARTS]
        self._bars = axes.barh(PARTS, [1] * len(PARTS), color=colours)
        self._labels = [axes.text(0, i, "", va="center") for i in range(len(PARTS))]
        self._name = axes.set_title("model")
        axes.invert_yaxis()
        axes.set(xlabel="share of all parameters, %", xlim=(0, 125), xticks=range(0, 101, 20))
        axes.grid(axis="y", visible=False)
        return [*self._bars, *self._labels, self._name]

    def update(self, result):
        name, parts = result.data
        for bar, label, size in zip(self._bars, self._labels, parts.values(), strict=True):
            share = 100 * size / result.value
            bar.set_width(share)
            label.set_text(f" {share:.1f} %, {count(size)}" if size else " none")
            label.set_x(share)
        self._name.set_text(name)


def _pasted(text: str) -> Model:
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"config.json: not JSON: {error}") from error
    return Model(config, name="pasted config")
