"""OptimizerCalculator: bytes per parameter of weights, gradients and every optimizer's state."""

from __future__ import annotations

from ..architecture.model import Model, presets
from ..footprint.step import model_state as whole_state
from ..hardware import GPU
from ..run import CHOICES, Run
from ..units import count, duration, gb
from . import style
from .anatomy import accuracy, judge, kind_of
from .base import Calculator, Result, dropdown, scale
from .device_card import device, device_options
from .html import Limit

PARTS = ("weights", "gradients", "master", "state")
OPTIMIZERS = CHOICES["optimizer"]
RANKS = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256)
WIDEST = 20  # bytes per parameter; fp32 gradients beside bf16 weights with a master copy take 18


def model_state(
    model: Model, optimizer: str, precision: str, gradients: str, lora: int
) -> dict[str, int]:
    """Bytes of weights, gradients, fp32 master weights and what the optimizer keeps besides."""

    def held(name):
        return whole_state(
            Run(
                model,
                sequence=1,
                optimizer=name,
                precision=precision,
                gradients=gradients,
                lora=lora or None,
            )
        )

    now = held(optimizer)
    master = held("sgd").optimizer  # SGD itself keeps nothing
    return {
        "weights": now.parameters,
        "gradients": now.gradients,
        "master": master,
        "state": now.optimizer - master,
    }


def bytes_moved(parts: dict[str, int], trained: int) -> int:
    """Bytes that an update reads and writes at least, each tensor once.

    Gradients are read, what the optimizer keeps is read and written. Trained weights, `trained`
    bytes of them, are read and written, or written alone where the update happens on masters.
    """
    passes = 1 if parts["master"] else 2
    return parts["gradients"] + 2 * (parts["master"] + parts["state"]) + passes * trained


class OptimizerCalculator(Calculator):
    """Model state by optimizer. Settings: model, optimizer, precision, gradients (as in
    `sizing.Run`), lora (rank of the adapters, 0 trains all weights) and gpu."""

    title = "Optimizer memory"
    size = (8.8, 3.9)

    def make_controls(self):
        def choice(name, value):
            return dropdown(name, CHOICES[name], value)

        return {
            "model": dropdown("model", presets(), "llama-3.1-8b"),
            "optimizer": choice("optimizer", "adamw"),
            "precision": choice("precision", "bf16-master"),
            "gradients": choice("gradients", "same"),
            "lora": scale("LoRA rank", RANKS, 0, lambda r: str(r) if r else "0: all weights"),
            "gpu": dropdown("GPU", device_options(), "h100-sxm"),
        }

    def result(self, model, optimizer, precision, gradients, lora, gpu) -> Result:
        chosen, card = Model(model), device(gpu)
        n = chosen.parameters.total
        states = {
            name: model_state(chosen, name, precision, gradients, lora) for name in OPTIMIZERS
        }
        now = states[optimizer]
        total = sum(now.values())
        frozen = model_state(chosen, optimizer, precision, gradients, 0)["weights"] if lora else 0
        moved = bytes_moved(now, now["weights"] - frozen)
        terms = " + ".join(f"{size / n:.3g} {part}" for part, size in now.items() if size)
        kind = kind_of(gpu)
        rows = tuple(_row(name, parts, n, card, kind) for name, parts in states.items())
        return Result(
            value=total,
            headline=f"{total / n:.4g} bytes per parameter, {gb(total)}",
            formula=f"{n:,} parameters x ({terms}) bytes = {gb(total)}",
            columns=(chosen.name, *PARTS, "B/parameter", "total", card.label),
            rows=rows,
            caption=(
                f"Bytes per parameter of {chosen.name} by optimizer: "
                + ", ".join(f"{name} {sum(p.values()) / n:.4g}" for name, p in states.items())
                + f". {card.label} holds {card.memory / n:.3g} per parameter."
            ),
            accuracy=(
                "model state is counted tensor by tensor; the error is that of a step's whole "
                f"peak. {accuracy()}"
            ),
            limit=Limit(
                *("weights, gradients and optimizer", total, card.memory, card.label),
                judge(total, card, kind),
            ),
            notes=(
                _trained(lora, now["weights"] - frozen, n),
                f"An update moves {gb(moved)}: at least {duration(moved / card.bandwidth)} here.",
                "Activations, logits and temporaries come on top.",
            ),
            data=(states, optimizer, n, card),
        )

    def prepare(self, figure):
        axes = figure.subplots()
        axes.set(xlim=(0, WIDEST), ylim=(len(OPTIMIZERS) - 0.4, -1.1))
        axes.set(xlabel="bytes per parameter", xticks=range(0, WIDEST + 1, 2))
        axes.set_yticks(range(len(OPTIMIZERS)), OPTIMIZERS)
        axes.grid(axis="y", visible=False)
        colours = {
            "weights": style.COLOURS["parameters"],
            "gradients": style.COLOURS["gradients"],
            "master": style.YELLOW,
            "state": style.COLOURS["optimizer"],
        }
        labels = {"master": "fp32 master weights", "state": "optimizer's state"}
        self._bars = {
            part: axes.barh(
                OPTIMIZERS,
                [0] * len(OPTIMIZERS),
                color=colours[part],
                label=labels.get(part, part),
            )
            for part in PARTS
        }
        figure.legend(loc="outside upper center", ncols=len(PARTS), fontsize=9.5)
        white = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # over the limit's line
        self._totals = [
            axes.text(0, i, "", va="center", fontsize=9.5, bbox=white)
            for i in range(len(OPTIMIZERS))
        ]
        (self._line,) = axes.plot([], [], color=style.BLACK, linestyle="--", linewidth=1.6)
        self._word = axes.text(0, -0.78, "", va="center", fontsize=9.5, weight="bold")
        bars = [bar for row in self._bars.values() for bar in row]
        return [*bars, self._line, *self._totals, self._word]

    def update(self, result):
        states, chosen, n, card = result.data
        for i, (name, parts) in enumerate(states.items()):
            left = 0.0
            for part, bars in self._bars.items():
                bars[i].set(x=left, width=parts[part] / n)
                left += parts[part] / n
            mark = " chosen" if name == chosen else ""
            weight = "bold" if mark else "normal"
            self._totals[i].set(x=left + 0.12, text=f"{left:.4g}{mark}", weight=weight)
        limit = card.memory / n
        shown = limit <= WIDEST
        self._line.set_data([limit] * 2 if shown else [], [-0.5, 7.6] if shown else [])
        self._word.set(
            x=limit if shown else WIDEST,
            ha="left" if shown and limit < WIDEST / 2 else "right",
            text=f"{card.label}: {limit:.3g} bytes per parameter" + ("" if shown else " →"),
        )


def _row(name: str, parts: dict[str, int], n: int, card: GPU, kind: str) -> tuple[str, ...]:
    total = sum(parts.values())
    verdict = judge(total, card, kind)
    sizes = (gb(parts[part]) for part in PARTS)
    return name, *sizes, f"{total / n:.4g}", gb(total), verdict


def _trained(lora: int, adapters: int, n: int) -> str:
    """What is trained, in words; adapters are fp32."""
    if not lora:
        return f"All {count(n)} parameters are trained."
    return f"{count(adapters / 4)} adapter weights are trained, {count(n)} are frozen."
