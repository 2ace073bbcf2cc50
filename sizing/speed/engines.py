"""What each engine adds to the arithmetic: data/engines.csv, a row an engine.

A row says how long the engine needs to launch a layer, what it overlaps with what, whether it
collects small collectives into buckets, which traffic its kernels save, and which attention kernel
it calls. Each figure has its source in the row.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from ..run import Run
from ..units import DATA

PLAIN = "pytorch"  # what no engine means


@dataclass(frozen=True)
class Engine:
    """How an engine runs a step.

    Attributes:
        name: as in `Run.engine`.
        launch: s to launch a layer's forward and backward pass for one micro-batch.
        launch_sharded: the same under ZeRO-3, whose hooks run for every layer.
        launch_experts: s to launch a layer with routed experts: router, sorting, an expert each.
        launch_head: s for head and loss.
        kernels: "eager" (an operation, a kernel), "fused" (norms, rotations, gates and residuals
            in a kernel each, as Megatron's and Liger's) or "compiled" (by torch.compile or XLA).
        overlaps_tensor: whether tensor-parallel collectives run in pieces beside their matmuls
            ("hopper": on cards after the A100).
        overlaps_gradients: whether gradients are reduced beside the last backward pass.
        overlaps_replicas: whether those of a hybrid sharding are averaged across replicas there.
        overlaps_weights: whether updated weights are gathered beside the next forward pass.
        overlaps_context: whether keys and values travel beside attention, a hop beside a block.
        gathers_context: whether all of them are gathered beside the first block instead.
        bucket: bytes collected into one reduction or gathering; 0: each tensor alone.
        rails: "all" where a group's ranks in a node cross the network side by side, "one" where
            ZeRO-3 gathers as fast as one GPU's adapter.
        dispatch: how tokens reach their experts, a word of `Run.dispatch`.
        recompute_stops: whether a layer that is run again ends before its last product, which the
            backward pass does not need.
        matmul_share: of the card's rate of large matmuls that the engine's reach.
        attention: the kernel that attention="flash" means, by chip ("a100", "h100", "b200").
        sources: {figure: where it is from}.
    """

    name: str
    launch: float
    launch_sharded: float
    launch_experts: float
    launch_head: float
    kernels: str
    overlaps_tensor: str
    overlaps_gradients: bool
    overlaps_replicas: bool
    overlaps_weights: bool
    overlaps_context: bool
    gathers_context: bool
    bucket: float
    rails: str
    dispatch: str
    recompute_stops: bool
    matmul_share: float
    attention: dict[str, str]
    sources: dict[str, str]

    @property
    def nanotron(self) -> bool:
        """Whether what the runs of nanotron alone showed belongs to it."""
        return self.name == "nanotron"


@cache
def engines() -> dict[str, Engine]:
    """{name: engine} of data/engines.csv."""
    with (DATA / "engines.csv").open(newline="", encoding="utf-8") as file:
        return {row["engine"]: _engine(row) for row in csv.DictReader(file)}


def engine_of(run: Run) -> Engine:
    """The engine of a run; None is PyTorch kernel by kernel, with nothing that one engine's runs
    alone have shown."""
    return engines()[run.engine or PLAIN]


def _engine(row: dict[str, str]) -> Engine:
    return Engine(
        name=row["engine"],
        launch=float(row["launch_s"]),
        launch_sharded=float(row["launch_sharded_s"]),
        launch_experts=float(row["launch_experts_s"]),
        launch_head=float(row["launch_head_s"]),
        kernels=row["kernels"],
        **{f"overlaps_{what}": row[f"overlaps_{what}"] == "yes" for what in _OVERLAPS},
        gathers_context=row["overlaps_context"] == "gathered",
        overlaps_tensor=row["overlaps_tensor"],
        bucket=float(row["bucket_bytes"]),
        rails=row["rails"],
        dispatch=row["dispatch"],
        recompute_stops=row["recompute_stops"] == "yes",
        matmul_share=float(row["matmul_share"]),
        attention={chip: row[f"attention_{chip}"] for chip in ("a100", "h100", "b200")},
        sources={
            name.removesuffix("_source"): text
            for name, text in row.items()
            if name.endswith("_source")
        },
    )


_OVERLAPS = ("gradients", "replicas", "weights", "context")
