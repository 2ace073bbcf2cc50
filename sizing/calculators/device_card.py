"""DeviceCard: an accelerator's peaks, memory and bandwidth, and its roofline."""

from __future__ import annotations

from dataclasses import replace

from matplotlib.ticker import EngFormatter

from ..hardware import DTYPES, GPU, gpu, gpus
from ..measuring.recording import own
from ..measuring.rooflines import roofline
from ..units import gb, gib, si
from . import style
from .base import Calculator, Result, dropdown, scale

MINE = "my machine"
INTENSITIES = [2.0 ** (k / 2) for k in range(-8, 25)]  # FLOP per byte


def my_machine() -> GPU | None:
    """The learner's device from the newest run of the experiment "ceilings", None without one."""
    recording = own("ceilings")
    if recording is None:
        return None
    try:
        return replace(roofline(recording), label=f"{recording.provenance['device']} (measured)")
    except ValueError:  # a run that was cut off before its copies
        return None


def device_options() -> list[tuple[str, str]]:
    """(label, value) of every device to choose from, the learner's own first if it was measured."""
    mine = my_machine()
    own_entry = [(f"{MINE}: {mine.label}", MINE)] if mine else []
    return own_entry + [(gpu(name).label, name) for name in gpus()]


def device(name: str) -> GPU:
    """The device of an option."""
    if name != MINE:
        return gpu(name)
    mine = my_machine()
    if mine is None:
        raise ValueError(f"gpu: {MINE!r} is not measured yet; run the experiment 'ceilings'")
    return mine


def attainable(peak: float, bandwidth: float, intensity: float) -> float:
    """FLOP/s that an operation of `intensity` FLOP per byte can reach (Williams et al. 2009)."""
    return min(peak, intensity * bandwidth)


class DeviceCard(Calculator):
    """Peaks per dtype, memory, bandwidth and the roofline of a device. Settings: gpu, dtype,
    intensity (FLOP per byte, a power of the square root of two from 1/16 to 4096)."""

    title = "Device card"

    def make_controls(self):
        return {
            "gpu": dropdown("device", device_options(), "h100-sxm"),
            "dtype": dropdown("dtype", list(DTYPES), "bf16"),
            "intensity": scale("FLOP per byte", INTENSITIES, 64.0, lambda v: f"{v:.3g}"),
        }

    def result(self, gpu, dtype, intensity) -> Result:
        card = device(gpu)
        peak = card.peak_flops(dtype)
        reached = attainable(peak, card.bandwidth, intensity)
        ridge = card.ridge(dtype)
        side = "memory" if intensity < ridge else "arithmetic"
        rows = [(f"dense peak, {name}", si(value, "FLOP/s")) for name, value in card.peak.items()]
        rows += [
            ("memory", gb(card.memory)),
            ("bandwidth", si(card.bandwidth, "B/s")),
            ("link, one direction", si(card.link, "B/s") if card.link else "not known"),
            ("power", f"{card.power:.0f} W" if card.power else "not known"),
        ]
        return Result(
            value=reached,
            headline=f"{si(reached, 'FLOP/s')}, {reached / peak:.0%} of the peak",
            formula=(
                f"min(peak, intensity × bandwidth) = min({si(peak, 'FLOP/s')}, "
                f"{intensity:.3g} FLOP/B × {si(card.bandwidth, 'B/s')}) = {si(reached, 'FLOP/s')}"
            ),
            columns=("figure", card.label),
            rows=tuple(rows),
            caption=(
                f"The roofline of {card.label} in {dtype}: limited by {side} at {intensity:.3g} "
                f"FLOP per byte, on the ridge at {ridge:.3g}."
            ),
            notes=(
                f"Limited by {side}: the ridge is at {ridge:.3g} FLOP per byte.",
                f"Memory: {gb(card.memory)} = {gib(card.memory)}.",
            ),
            source="; ".join(filter(None, (card.source, card.notes))),
            accuracy=(
                "an upper bound. Peaks and bandwidth are the maker's; a real product of matrices "
                "reaches less, which the experiment 'ceilings' measures."
                if card.name != "measured"
                else "measured on this machine by the experiment 'ceilings'."
            ),
            data=(peak, card.bandwidth, intensity),
        )

    def prepare(self, figure):
        axes = figure.subplots()
        axes.set(xscale="log", yscale="log", xlim=(0.05, 5000), ylim=(1e8, 1e16))
        axes.set(xlabel="FLOP per byte", ylabel="attainable rate")
        (self._roof,) = axes.plot([], [], color=style.BLUE, label="attainable")
        (self._ridge,) = axes.plot([], [], ":", color="grey", label="ridge")
        (self._point,) = axes.plot([], [], "o", color=style.RED, label="this operation")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
        axes.yaxis.set_major_formatter(EngFormatter("FLOP/s"))
        axes.minorticks_off()
        axes.legend(loc="upper left")
        return [self._ridge, self._roof, self._point]

    def update(self, result):
        peak, bandwidth, intensity = result.data
        ridge = peak / bandwidth
        x = [0.05, ridge, 5000]
        self._roof.set_data(x, [attainable(peak, bandwidth, i) for i in x])
        self._ridge.set_data([ridge, ridge], [1e8, peak])
        self._point.set_data([intensity], [result.value])
