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
from functools import cache

from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..parallel import ring_factor
from ..units import DATA


@cache
def constants() -> dict[str, float]:
    """{name: value} of data/rates.csv: shares, seconds and bytes/s that no datasheet gives."""
    return {row["name"]: float(row["value"]) for row in _rows() if not row["gpu"]}


@cache
def matmul_rates() -> dict[str, float]:
    """{GPU: rate of large matmuls over a whole step, as a share of its dense peak}."""
    return {row["gpu"]: float(row["value"]) for row in _rows() if row["gpu"]}


def _rows() -> list[dict[str, str]]:
    with (DATA / "rates.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


_C = constants()
OTHER_MATMUL_RATE = _C["matmul_rate"]
KERNEL = _C["kernel_start"]  # s for a matmul to start, fill its waves of tiles and drain
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

    def multiply(self, m: float, n: float, k: float, width: int = 2, copies: int = 1) -> float:
        """Seconds of an (m, k) x (k, n) matmul of `width` bytes an element; with `copies` weights
        of shape (k, n) that share the m rows between them (experts)."""
        moved = width * (m * k + copies * k * n + m * n)
        return max(2 * m * n * k / self.matmul, moved / self.memory) + KERNEL

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

    def crossing(self, ranks: int, stride: int) -> float:
        """Bytes/s between nodes for a group: the network of all its ranks in one node, because as
        many rings can cross."""
        return max(1, min(ranks, self.node // stride)) * self.network

    def message(self, span: int, payload: float) -> float:
        """Seconds of a message between neighbours of a group that spans so many GPUs."""
        if span <= self.node:
            return payload / self.link + LINK_LATENCY
        return payload / self.network + NETWORK_LATENCY


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
    peak = device.peak_flops(dtype)
    return Rates(
        peak=peak,
        matmul=peak * matmul_rates().get(device.name, OTHER_MATMUL_RATE),
        memory=device.bandwidth * MEMORY_RATE,
        link=device.link * LINK_RATE if device.link else network * NETWORK_RATE,
        network=network * NETWORK_RATE,
        node=node,
    )


def matmul_time(m: float, n: float, k: float, gpu: str | GPU, dtype: str = "bf16") -> float:
    """Seconds of an (m, k) x (k, n) matmul on one GPU: small and thin ones fall off the peak.

    Raises:
        ValueError: an unknown GPU, or one without a rate for `dtype`.
    """
    width = 4 if dtype in ("fp32", "tf32") else 1 if dtype == "fp8" else 2
    return sustained_rates(gpu, dtype).multiply(m, n, k, width)
