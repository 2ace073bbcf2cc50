"""Rates that accelerators and networks sustain: seconds of a matmul, a collective, a message.

A matmul takes its FLOPs at the rate of large matmuls or its bytes at the memory's rate, whichever
is longer (roofline: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785), and a
start-up time. A collective takes a ring's bytes and a latency for every rank.

The constants stand in data/rates.csv, each with its origin: calibrated with the runs that it names,
measured, published, or assumed.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache, lru_cache
from math import ceil, exp, inf, lgamma

from ..hardware import GPU, gpus
from ..hardware import gpu as find_gpu
from ..parallel import ring_factor
from ..units import DATA


@cache
def constants() -> dict[str, float]:
    """{name: value} of data/rates.csv: shares, seconds and bytes/s that no datasheet gives."""
    return {row["name"]: float(row["value"]) for row in _rows() if not row["gpu"]}


@cache
def by_card(name: str, gpu: str) -> float:
    """The value of a row of data/rates.csv for an accelerator: the row that names most of its
    name ("a100" is every A100), else that of no accelerator in particular."""
    values = {row["gpu"]: float(row["value"]) for row in _rows() if row["name"] == name}
    return values[max((card for card in values if gpu.startswith(card)), key=len)]


@cache
def _rows() -> list[dict[str, str]]:
    with (DATA / "rates.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


_C = constants()
STREAMS = 4  # on which the products of several experts start (Transformer Engine, GroupedLinear)
KERNEL = _C["kernel_start"]  # s for a matmul to start and drain
MEMORY_RATE = _C["memory_rate"]  # of the datasheet's bandwidth

# The cluster of the calibrated runs.
NODE = int(_C["node"])
NETWORK = _C["network"]  # bytes/s in one direction for each GPU
NETWORK_RATE = _C["network_rate"]  # of the network, in collectives
LINK_RATE = _C["link_rate"]  # of the link's datasheet rate, in collectives within a node
LINK_LATENCY = _C["link_latency"]  # s for each further rank of a collective within a node
NETWORK_LATENCY = _C["network_latency"]  # s for each further rank of one that crosses nodes


@dataclass(frozen=True)
class Rates:
    """What a GPU and its links sustain.

    Attributes:
        peak: the datasheet's dense FLOP/s in the dtype of the matmuls.
        matmul: FLOP/s of large matmuls.
        low: FLOP/s of large matmuls in fp8, None where the card has none.
        epilogue: share of writing a matmul's output that no other tile's products hide.
        processors: streaming multiprocessors, which take a tile of the output each; 0 if unknown.
        single: FLOP/s of the datasheet in fp32, outside tensor cores.
        memory: bytes/s of streaming kernels.
        link, network: bytes/s in one direction of a collective within a node, and of each GPU
            between nodes.
        node: GPUs in a node.
    """

    peak: float
    matmul: float
    memory: float
    link: float
    network: float
    node: int
    processors: int = 0
    low: float | None = None
    epilogue: float = 0.0
    single: float = 0.0

    def multiply(
        self, m: float, n: float, k: float, width: int = 2, copies: int = 1, low: bool = False
    ) -> float:
        """Seconds of an (m, k) x (k, n) matmul of `width` bytes an element; with `copies` weights
        of shape (k, n) that share the m rows between them (experts).

        With `low` the inputs are fp8; both are cast first (see `cast`).
        """
        moved = width * (m * k + copies * k * n + m * n)
        filled = filling(m / copies, n, self.processors, copies) * aligned(n, k)
        written = self.epilogue * width * m * n / self.memory
        return self._kernels(2 * m * n * k, filled, moved, written, copies, low)

    def weight_gradient(
        self, m: float, n: float, k: float, width: int = 2, copies: int = 1, low: bool = False
    ) -> float:
        """Seconds of the gradients of `copies` weights of shape (n, k), each from its share of the
        m rows: as `multiply`, with as many outputs."""
        outputs = copies * n * k
        moved = width * (m * k + m * n + outputs)
        filled = filling(n, k, self.processors, copies) * aligned(k, m if copies == 1 else k)
        written = self.epilogue * width * outputs / self.memory
        return self._kernels(2 * m * n * k, filled, moved, written, copies, low)

    def _kernels(self, flops, filled, moved, written, copies, low) -> float:
        rate = self.low if low else self.matmul
        started = KERNEL * (1 + (copies - 1) / STREAMS)  # a kernel for each expert
        return max(flops / (rate * filled) + written, moved / self.memory) + started

    def collective(self, kind: str, ranks: int, stride: int, payload: float) -> float:
        """Seconds of one collective on `payload` bytes over `ranks` GPUs that lie `stride` apart.

        `kind` is "all_reduce", "reduce_scatter" or "all_gather".
        """
        if ranks == 1:
            return 0.0
        hops = (ranks - 1) * (2 if kind == "all_reduce" else 1)
        sent = ring_factor(kind, ranks) * payload
        if ranks * stride <= self.node:
            return sent / self.link + hops * LINK_LATENCY
        return sent / min(self.link, self.crossing(ranks, stride)) + hops * NETWORK_LATENCY

    def all_to_all(
        self,
        ranks: int,
        stride: int,
        payload: float,
        copies: int,
        once: bool = False,
        groups: tuple[int, int] = (1, 1),
    ) -> float:
        """Seconds in which each of `ranks` GPUs sends `copies` copies of `payload` bytes, each copy
        evenly to all; with `once` no more than one copy of anything to a rank, and one to a node,
        which hands it on (DeepSeek-V3, arXiv:2412.19437, section 3.2.2). `groups`: the router's
        groups of experts, and to how many of them a token goes (section 2.1.2)."""
        if ranks == 1:
            return 0.0
        inside = max(1, min(ranks, self.node // stride))
        arriving = reached(ranks, copies, groups) if once else copies
        near = payload * arriving * (inside - 1) / inside / self.link
        if inside == ranks:
            return near + LINK_LATENCY
        nodes = ranks / inside
        crossing = reached(nodes, copies, groups) if once else copies
        far = payload * crossing * (nodes - 1) / nodes / self.network
        return max(near, far) + NETWORK_LATENCY

    def latency(self, ranks: int, stride: int) -> float:
        """Seconds of one step of a collective's tree."""
        return LINK_LATENCY if ranks * stride <= self.node else NETWORK_LATENCY

    def crossing(self, ranks: int, stride: int) -> float:
        """Bytes/s between nodes for a group: the network of all its ranks in one node, because as
        many rings can cross."""
        return max(1, min(ranks, self.node // stride)) * self.network

    def message(self, span: int, payload: float) -> float:
        """Seconds of a message between neighbours of a group that spans so many GPUs."""
        if span <= self.node:
            return payload / self.link + LINK_LATENCY
        return payload / self.network + NETWORK_LATENCY


@lru_cache(maxsize=1024)
def reached(places: float, copies: int, groups: tuple[int, int] = (1, 1)) -> float:
    """Different places, of so many, that copies of something reach if each is sent to any one; of
    `groups` of the places only as many are open to one thing as the second number says."""
    every, open_ = groups
    if places >= every:
        within = places * open_ / every
        return within * (1 - (1 - 1 / within) ** copies)
    inside = every / places  # groups at a place, which is missed if none of them is reached
    some = reached(open_, copies)
    missed = exp(_choices(every - inside, some) - _choices(every, some))
    return places * (1 - missed)


def _choices(among: float, chosen: float) -> float:
    """The logarithm of the number of ways to choose some, between whole numbers as well."""
    if chosen > among:
        return -inf
    return lgamma(among + 1) - lgamma(chosen + 1) - lgamma(among - chosen + 1)


# Share of the rate that is left where the rows of a matrix begin at multiples of so many elements
# only: below 64 of 16 bits (128 bytes) they are read in smaller pieces. NVIDIA, Matrix
# Multiplication Background User's Guide, "Requirements to Use Tensor Cores", says that an A100
# wants 128 bytes and draws the fall below it; the shares here are assumed.
ALIGNED = ((64, 1.0), (32, 0.92), (16, 0.85), (8, 0.65), (4, 0.5), (2, 0.35))
LEAST_ALIGNED = 0.25


@lru_cache(maxsize=4096)
def aligned(n: float, k: float) -> float:
    """Share of the rate that a matmul keeps whose weight is (n, k)."""
    for elements, rate in ALIGNED:
        if n % elements == 0 and k % elements == 0:
            return rate
    return LEAST_ALIGNED


# Shapes of the tiles of the output that cuBLAS and CUTLASS hand out, with the share of the largest
# one's rate that a smaller reaches: it reads more for each FLOP.
TILES = (
    (256, 128, 1.0),
    (128, 256, 1.0),
    (128, 128, 0.95),
    (64, 128, 0.85),
    (128, 64, 0.85),
    (64, 64, 0.7),
)


@lru_cache(maxsize=4096)
def filling(m: float, n: float, processors: int, copies: int = 1) -> float:
    """Share of the processors' time that an (m, n) output keeps busy: tiles at the edge are
    computed whole, and the last wave of tiles leaves processors idle (NVIDIA, Matrix Multiplication
    Background User's Guide, "Tile quantization" and "Wave quantization")."""
    if not processors:
        return 1.0
    best = 0.0
    for rows, columns, rate in TILES:
        tiles = ceil(m / rows) * ceil(n / columns) * copies
        waves = ceil(tiles / processors)
        best = max(best, rate * m * n * copies / (waves * processors * rows * columns))
    return best


def sustained_rates(
    gpu: str | GPU, dtype: str = "bf16", network: float = NETWORK, node: int = NODE
) -> Rates:
    """Rates of an accelerator in a cluster; one without a link uses the network.

    Args:
        gpu: its name in data/gpus.csv, or a `GPU`.
        dtype: of the matmuls' inputs.
        network: bytes/s that each GPU has between nodes, in one direction.
        node: GPUs in a node.

    Raises:
        ValueError: an unknown GPU, one without a rate for `dtype`, an impossible network or node.
    """
    if not network > 0:
        raise ValueError(f"network: {network!r} given; allowed: bytes/s above 0")
    if isinstance(node, bool) or not isinstance(node, int) or node < 1:
        raise ValueError(f"node: {node!r} given; allowed: a whole number >= 1")
    device = find_gpu(gpu) if isinstance(gpu, str) else gpu
    low = None
    if dtype == "fp8":
        low = device.peak_flops("fp8") * by_card("fp8_rate", device.name) * _throttle(device)
        dtype = "bf16"
    peak = device.peak_flops(dtype) * _throttle(device)
    link = device.link * LINK_RATE if device.link else network * NETWORK_RATE
    return Rates(
        peak=peak,
        matmul=peak * by_card("matmul_rate", device.name),
        low=low,
        epilogue=by_card("epilogue", device.name),
        processors=int(by_card("processors", device.name)),
        memory=device.bandwidth * MEMORY_RATE,
        link=link,
        network=min(link, network * NETWORK_RATE),  # what leaves a card crosses its link first
        node=node,
        single=device.peak.get("fp32", device.peak_flops(dtype) / 16) * _throttle(device),
    )


def _throttle(device: GPU) -> float:
    """What a power limit below the card's leaves of its clock: the power of switching grows with
    the clock times the square of the voltage, which grows with the clock: the cube root."""
    usual = gpus_by_name().get(device.name)
    if usual is None or not usual.power or not device.power:
        return 1.0
    return min(1.0, (device.power / usual.power) ** (1 / 3))


@cache
def gpus_by_name() -> dict[str, GPU]:
    return {name: find_gpu(name) for name in gpus()}


def matmul_time(m: float, n: float, k: float, gpu: str | GPU, dtype: str = "bf16") -> float:
    """Seconds of an (m, k) x (k, n) matmul on one GPU: small and thin ones fall off the peak.

    Raises:
        ValueError: an unknown GPU, or one without a rate for `dtype`.
    """
    width = 4 if dtype in ("fp32", "tf32") else 1 if dtype == "fp8" else 2
    return sustained_rates(gpu, dtype).multiply(m, n, k, width)
