"""Time what a learner waits for: a calculator's new picture, the import, the core's functions."""

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from os import getloadavg
from pathlib import Path
from statistics import median, quantiles

import nbformat
import numpy as np

import sizing
from sizing.planning.costs import training_time

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "browser"))
import lab


@dataclass(frozen=True)
class Control:
    """A control to move: its calculator, its label, the keys that go down and up, and how far."""

    calculator: str
    label: str
    down: str = "ArrowLeft"
    up: str = "ArrowRight"
    steps: int = 7

    @property
    def keys(self) -> list[str]:
        """Up, down past where it began, up again and back."""
        there = [self.up] * self.steps + [self.down] * 2 * self.steps
        return there + [self.up] * 2 * self.steps + [self.down] * self.steps


CONTROLS = (
    Control("DeviceCard", "FLOP per byte"),
    Control("ParameterCalculator", "model", "ArrowUp", "ArrowDown"),
    Control("ComputeCalculator", "train on"),
    Control("ComputeCalculator", "MFU"),
    Control("ComputeOptimal", "compute"),
    Control("SequenceCalculator", "sequence", steps=3),
    Control("MemoryCalculator", "sequence", steps=3),
    Control("OptimizerCalculator", "model", "ArrowUp", "ArrowDown"),
    Control("BatchCalculator", "sequence", steps=3),
    Control("ZeROStages", "GPUs", steps=3),
    Control("ParallelPlanner", "GPUs", steps=3),
)

# From the key's event to the moment at which the new picture is decoded and can be painted.
STOPWATCH = """(picture) => {
    window.waits = [];
    const pressed = [];
    document.addEventListener('keydown', event => { pressed.push(event.timeStamp); }, true);
    picture.addEventListener('load', async () => {
        await picture.decode();
        window.waits.push(performance.now() - pressed.shift());
    });
}"""


def picture_waits(control: Control) -> list[float]:
    """Milliseconds from each key to its picture, in JupyterLab in Chromium."""
    source = f"from sizing.calculators import {control.calculator}\n{control.calculator}()"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.ipynb"
        nbformat.write(notebook, path)
        with lab.live_notebook(path) as page:
            lab.run_all(page)
            lab.control(page, control.label).focus()
            page.locator(".widget-image").evaluate(STOPWATCH)
            for key in control.keys:
                page.keyboard.press(key)
                page.wait_for_timeout(300)  # asking the page whether it is done would slow it
            page.wait_for_timeout(1000)
            waits = page.evaluate("window.waits")
            if len(waits) != len(control.keys):
                raise RuntimeError(f"{len(control.keys)} keys, but {len(waits)} pictures")
            return waits


def import_seconds(rounds: int = 5) -> float:
    """Seconds that `import sizing` takes in a fresh process, less an empty process; a median."""

    def fresh(source: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", source], check=True)
        return time.perf_counter() - started

    return median(fresh("import sizing") for _ in range(rounds)) - median(
        fresh("") for _ in range(rounds)
    )


def calls_per_second(function: Callable[[], object], seconds: float = 0.5) -> float:
    function()
    calls, started = 0, time.perf_counter()
    while (spent := time.perf_counter() - started) < seconds:
        function()
        calls += 1
    return calls / spent


def main() -> None:
    print(f"load average {getloadavg()[0]:.1f}\n")
    print(f"{'from key to new picture':<42}{'moves':>8}{'median':>10}{'p95':>10}{'most':>10}")
    for control in CONTROLS:
        waits = picture_waits(control)
        p95 = quantiles(waits, n=20)[-1]
        figures = "".join(f"{value:>7.0f} ms" for value in (median(waits), p95, max(waits)))
        print(f"{f'{control.calculator}, {control.label}':<42}{len(waits):>8}{figures}")

    print(f"\n{'import sizing, fresh process':<50}{import_seconds():>10.2f} s\n")

    model = sizing.Model("llama-3.1-8b")
    config = dict(model.config)
    run = sizing.Run(model, sequence=4096, data=8, zero=3)
    deep = replace(run, zero=1, tensor=8, pipeline=4, accumulation=8)
    runs, counts = iter(range(1, 10**9)), np.arange(1, 51)
    functions = {
        "Model(preset)": lambda: sizing.Model("llama-3.1-8b"),
        "Model(config).parameters": lambda: sizing.Model(config).parameters,
        "flops(run), one model": lambda: sizing.flops(replace(run, sequence=next(runs))),
        "memory(run), one model, ZeRO-3": lambda: sizing.memory(replace(run, sequence=next(runs))),
        "memory(run), tensor and pipeline": lambda: sizing.memory(
            replace(deep, sequence=8 * next(runs))
        ),
        "memory_grid(run), 50 x 50": lambda: sizing.memory_grid(
            run, counts[:, None], 16 * counts + next(runs)
        ),
        "training_time(flops, gpu)": lambda: training_time(1e24, "h100-sxm", 1024),
    }
    for name, function in functions.items():
        print(f"{name:<42}{calls_per_second(function):>18,.0f} calls/s")


if __name__ == "__main__":
    main()
