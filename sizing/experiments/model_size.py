"""model-size: a real training step over more than a decade of model sizes.

The Pythia models: one architecture and one vocabulary at every size. Each is built with random
weights, and trained on random tokens: neither changes the time of a step. Hold its FLOP/s against
the peak of `roofline_of`: what the device can reach is measured in one place, by `ceilings`.
"""

from __future__ import annotations

from ..architecture.model import Model, presets
from ..measuring.device import Device
from ..measuring.protocol import Experiment, Row
from ..measuring.training import as_run, default_precision, describe, matmul_dtype, measure_step
from ..run import Run

LARGEST_ON_CPU = 200e6  # parameters


def grid(
    device: Device,
    models: tuple[str, ...] | None = None,
    sequence: int | None = None,
    micro_batch: int | None = None,
    precision: str | None = None,
) -> list[Row]:
    """One training step of each model.

    Args:
        models: names of presets; by default Pythia, up to 160 M parameters on a CPU, on a GPU all
            whose weights alone would fit: those that do not train there become rows that say so.
        sequence: tokens in a sequence; by default 128 on a CPU, 1024 on a GPU.
        micro_batch: sequences in a step; by default 1 on a CPU, 8 on a GPU, 2 below 16 GB.
        precision: as in `Run`; by default fp32 on a CPU, bf16-mixed on a GPU.
    """
    small = device.memory < 16e9
    return [
        describe(
            Run(
                Model(name),
                sequence=sequence or (1024 if device.cuda else 128),
                micro_batch=micro_batch or ((2 if small else 8) if device.cuda else 1),
                precision=precision or default_precision(device),
            )
        )
        for name in models or family(device)
    ]


def family(device: Device) -> list[str]:
    """Names of the Pythia models to try on a device, smallest first."""
    sizes = {name: Model(name).parameters.total for name in presets() if name.startswith("pythia-")}
    most = device.memory / 4 if device.cuda else LARGEST_ON_CPU
    return sorted((name for name in sizes if sizes[name] <= most), key=sizes.get)


def measure(point: Row, device: Device) -> Row:
    """Time, throughput, peak memory, and MFU of the datasheet's peak, of one point."""
    run = as_run(point)
    row = measure_step(run, device)
    datasheet = device.datasheet(matmul_dtype(run))
    return {
        **row,
        "datasheet_flops_per_second": datasheet,
        "mfu_datasheet": datasheet and row["flops_per_second"] / datasheet,
    }


EXPERIMENT = Experiment("model-size", grid, measure)
