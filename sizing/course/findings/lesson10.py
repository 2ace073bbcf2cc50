"""The questions under lesson 10's calculator."""

from ...architecture.model import Model
from ...calculators.storage import RATES, saved
from ...units import GB, duration
from ..finding import Finding, at

LARGE = {"model": "llama-3.1-405b", "gpus": 16_384, "mode": "synchronous"}


def _eight_bits(calculator) -> str:
    kept = calculator.settings
    n = Model(kept["model"]).parameters.total
    wide, small = (
        saved(kept["model"], kept["precision"], name, kept["format"], kept["gpus"]).total / n
        for name in ("adamw-fused", "adamw-8bit")
    )
    return (
        f"{wide:.1f} against {small:.1f}: {wide - small:.1f} bytes per parameter less. Both "
        "moments shrink from four bytes to little more than one; weights and masters stay."
    )


def _lost(calculator, **settings) -> float:
    return at(calculator, **settings).data[2]


def _below_ten(calculator) -> str:
    losses = {rate: _lost(calculator, disk=rate) for rate in RATES}
    enough = min(rate for rate, lost in losses.items() if lost < 10)
    short = max(rate for rate in RATES if rate < enough)
    return (
        f"Between {short / GB:g} and {enough / GB:g} GB/s: {losses[short]:.1f} % are lost at the "
        f"one, {losses[enough]:.1f} % at the other."
    )


def _beside(calculator) -> str:
    sizes = saved(*(calculator.settings[k] for k in _SAVED)).total
    stop = sizes / calculator.settings["disk"]
    before, after = (_lost(calculator, mode=m) for m in ("synchronous", "asynchronous"))
    return (
        f"The GPUs no longer stand still for {duration(stop)} per save, only for the copy to the "
        f"host's memory. {before:.1f} % lost become {after:.1f} %: mostly the restarts after "
        "failures."
    )


_SAVED = ("model", "precision", "optimizer", "format", "gpus")
FINDINGS = {
    "10.storage": (
        Finding(
            _eight_bits,
            {"model": "llama-3.1-8b", "gpus": 64, "precision": "bf16-master"}
            | {"optimizer": "adamw-8bit"},
        ),
        Finding(_below_ten, LARGE | {"optimizer": "adamw-fused"}),
        Finding(_beside, LARGE | {"optimizer": "adamw-fused", "disk": 50 * GB}),
    ),
}
