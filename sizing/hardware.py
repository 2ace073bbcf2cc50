"""Accelerators and what renting them costs, from data/gpus.csv and data/prices.csv.

Peaks are dense FLOP/s. Datasheets often print the rate with 2:4 structured sparsity, twice as
high, and consumer cards have two dense rates: ours is the one with fp32 accumulation, which
training uses.
"""

from __future__ import annotations

import csv
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from .units import DATA, GB, positive

DTYPES = ("fp32", "tf32", "fp16", "bf16", "fp8")
KINDS = ("on-demand", "spot", "reserved")


@dataclass(frozen=True)
class GPU:
    """One accelerator.

    Attributes:
        name: slug in data/gpus.csv ("h100-sxm"), or "measured" for the learner's own device.
        label: what to print.
        peak: dense FLOP/s by dtype ("fp32", "tf32", "fp16", "bf16", "fp8"); a dtype that the device
            lacks, or whose rate no source confirms, has no entry.
        memory: bytes that a program can reach: what the driver reports where that is known, else
            the vendor's label read as GB of 10^9 bytes.
        bandwidth: bytes/s to and from the device's memory.
        link: bytes/s in one direction to the other devices of a node, None where unknown.
        power: watts at full load (TDP), None where unknown.
        source: where the figures were seen.
        link_kind: what the link is, such as "NVLink 4".
        year: of its announcement, None where unknown.
        notes: what to know before using the figures.
    """

    name: str
    label: str
    peak: dict[str, float]
    memory: int
    bandwidth: float
    link: float | None = None
    power: float | None = None
    source: str = ""
    link_kind: str = ""
    year: int | None = None
    notes: str = ""

    def __hash__(self):  # a dict has none of its own
        return hash((self.name, self.label, tuple(self.peak.items()), self.memory, self.bandwidth))

    def peak_flops(self, dtype: str = "bf16") -> float:
        """Dense peak FLOP/s for matmuls whose inputs have this dtype.

        Raises:
            ValueError: the device has no rate for `dtype`; the message lists those it has.
        """
        if dtype not in self.peak:
            raise ValueError(
                f"dtype: {dtype!r} given, for which {self.label} has no known rate; "
                f"allowed: {', '.join(self.peak)}"
            )
        return self.peak[dtype]

    def ridge(self, dtype: str = "bf16") -> float:
        """FLOP per byte of memory traffic at which compute and bandwidth take equally long.

        Below it a kernel waits for memory, above it for the arithmetic: the ridge point of the
        roofline model (Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785).

        Raises:
            ValueError: see `peak_flops`.
        """
        return self.peak_flops(dtype) / self.bandwidth


@dataclass(frozen=True)
class Price:
    """What one accelerator costs to rent.

    Attributes:
        gpu: its slug in data/gpus.csv.
        provider, product: who sells it, and as what.
        dollars: US dollars per GPU and hour.
        kind: "on-demand", "spot" (may be taken back) or "reserved" (a committed term).
        date: ISO date on which the price was read.
        source: where it was read.
    """

    gpu: str
    provider: str
    product: str
    dollars: float
    kind: str
    date: str
    source: str


def gpus() -> tuple[str, ...]:
    """Slugs of all accelerators in data/gpus.csv: NVIDIA by generation, then AMD, then Google."""
    return tuple(_table())


def gpu(name: str) -> GPU:
    """The accelerator with this slug: ``gpu("h100-sxm").peak_flops("bf16")`` is 989e12.

    Raises:
        ValueError: no such slug; the message names those near it.
    """
    return _lookup(name)


def measured_gpu(
    label: str,
    peak: Mapping[str, float],
    bandwidth: float,
    memory: int,
    *,
    link: float | None = None,
    power: float | None = None,
    source: str = "measured on this machine",
) -> GPU:
    """A device from measured ceilings: the best matmul rate by dtype and the copy bandwidth.

    Args:
        label: what to print.
        peak: FLOP/s by dtype, at least one of "fp32", "tf32", "fp16", "bf16", "fp8".
        bandwidth: bytes/s.
        memory: bytes.
        link: bytes/s in one direction to other devices, or None.
        power: watts, or None.
        source: what to say of the figures' origin.

    Raises:
        ValueError: names the field, the value and what is allowed.
    """
    if not isinstance(peak, Mapping) or not peak:
        raise ValueError(f"peak: {peak!r} given; allowed: FLOP/s by dtype, as {{'fp32': 1e12}}")
    unknown = sorted(set(map(str, peak)) - set(DTYPES))
    if unknown:
        raise ValueError(f"peak: dtype {unknown[0]!r} given; allowed: {', '.join(DTYPES)}")
    for dtype, rate in peak.items():
        positive(f"peak[{dtype!r}]", rate)
    positive("bandwidth", bandwidth)
    positive("memory", memory)
    for field, value in (("link", link), ("power", power)):
        if value is not None:
            positive(field, value)
    ordered = {dtype: float(peak[dtype]) for dtype in DTYPES if dtype in peak}
    return GPU(
        "measured", label, ordered, int(memory), float(bandwidth), link, power, source=source
    )


def prices(gpu: str | GPU | None = None, kind: str | None = None) -> tuple[Price, ...]:
    """Rental prices in data/prices.csv, cheapest first; empty where none was found.

    Args:
        gpu: a slug or a `GPU`; None for every accelerator.
        kind: "on-demand", "spot" or "reserved"; None for all three.

    Raises:
        ValueError: unknown `gpu` or `kind`.
    """
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind: {kind!r} given; allowed: {', '.join(KINDS)}")
    slug = gpu.name if isinstance(gpu, GPU) else gpu
    if isinstance(gpu, str):
        _lookup(gpu)
    return tuple(
        price
        for price in _price_list()
        if (slug is None or price.gpu == slug) and (kind is None or price.kind == kind)
    )


def _lookup(name: str) -> GPU:
    table = _table()
    if name not in table:
        given = str(name).lower()
        parts = [slug for slug in table if given and given in slug]
        near = parts or difflib.get_close_matches(given, table, n=4, cutoff=0.5) or list(table)
        raise ValueError(f"gpu: {name!r} given; allowed, or nearest to it: {', '.join(near)}")
    return table[name]


@cache
def _table() -> dict[str, GPU]:
    with (DATA / "gpus.csv").open(newline="", encoding="utf-8") as file:
        return {row["name"]: _gpu(row) for row in csv.DictReader(file)}


def _gpu(row: dict[str, str]) -> GPU:
    def number(column: str, unit: float = 1.0) -> float | None:
        # rounded, because 2614.9 * 1e12 is not the float nearest to 2614.9e12
        return float(f"{float(row[column]) * unit:.12g}") if row[column] else None

    peak = {dtype: number(f"{dtype}_tflops", 1e12) for dtype in DTYPES}
    return GPU(
        name=row["name"],
        label=row["label"],
        peak={dtype: rate for dtype, rate in peak.items() if rate is not None},
        memory=int(row["memory_mib"]) * 2**20 if row["memory_mib"] else int(row["memory_gb"]) * GB,
        bandwidth=number("bandwidth_gb_s", GB),
        link=number("link_gb_s", GB),
        power=number("power_w"),
        source=row["source"],
        link_kind=row["link_kind"],
        year=int(row["year"]),
        notes=row["notes"],
    )


@cache
def _price_list() -> tuple[Price, ...]:
    with (DATA / "prices.csv").open(newline="", encoding="utf-8") as file:
        rows = [
            Price(dollars=float(row.pop("dollars_per_gpu_hour")), **row)
            for row in csv.DictReader(file)
        ]
    return tuple(sorted(rows, key=lambda price: (price.dollars, price.gpu, price.provider)))
