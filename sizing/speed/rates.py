"""Rates that accelerators and networks sustain: seconds of a matmul, a collective, a message.

A matmul takes its FLOPs at the rate of large matmuls or its bytes at the memory's rate, whichever
is longer (roofline: Williams, Waterman and Patterson 2009, doi:10.1145/1498765.1498785), and a
start-up time. A collective takes a ring's bytes and a latency for every rank.

"Calibrated" constants come from the runs that `sizing.evidence.ultrascale` names.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..hardware import GPU
from ..hardware import gpu as find_gpu
from ..parallel import ring_factor

# Rate of large matmuls over a whole step, as a share of the datasheet's dense peak, calibrated: on
# the H100 with the runs named there, on the A100 with one row (1.7B) of Megatron's table 1
# (arXiv:2104.04473). The best single matmul found by search reaches 0.80 and 0.87 (Stas Bekman,
# ml-engineering, compute/accelerator/README.md, "Maximum Achievable Matmul FLOPS", 2026-11-22): an
# H100 is held back by its power. A device measured here has its best rate for a peak.
MATMUL_RATE = {
    "a100-sxm-40gb": 0.75,
    "a100-sxm-80gb": 0.75,
    "h100-sxm": 0.61,
    "h200-sxm": 0.61,
    "measured": 0.80,
}
OTHER_MATMUL_RATE = 0.65  # unknown: between those of the accelerators that we know
KERNEL = 8e-6  # s for a matmul to start, fill its waves of tiles and drain
MEMORY_RATE = 0.85  # of the datasheet's bandwidth; 0.87 copied on an H100 (aigatech/vpbenchmarking)

# The cluster of the calibrated runs: nodes of 8 with AWS p5.48xlarge's network. Each H100 has four
# of the node's 32 EFA cards of 100 Gbit/s (Perplexity AI, "High-Performance GPU Memory Transfer on
# AWS", 2025, which moves 97 % of that).
NODE = 8
NETWORK = 50e9  # bytes/s in one direction for each GPU
NETWORK_RATE = 0.80  # of the network, in collectives
LINK_RATE = 0.81  # calibrated: of the link's datasheet rate, in collectives within a node
LINK_LATENCY = 8e-6  # s for each further rank of a collective within a node
NETWORK_LATENCY = 28e-6  # calibrated: s for each further rank of one that crosses nodes


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
        matmul=peak * MATMUL_RATE.get(device.name, OTHER_MATMUL_RATE),
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
