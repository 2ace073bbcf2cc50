"""A plan's twin, really started: its layout on two CPU processes, a small model, a few steps.

`twin` shrinks a run to what any machine trains in seconds and leaves alone what a launch can get
wrong: processes, micro-batch, accumulation, ZeRO stage, optimizer. `start` runs a command that the
planner exported, with the DeepSpeed configuration that it exported beside it. The processes are
this module:

    torchrun --standalone --nproc-per-node=2 -m sizing.course.rehearsal deepspeed.json

They read the batch and the stage from that file, and train with torch alone: DDP at stage 0,
DDP with torch's ZeroRedundancyOptimizer at 1, FSDP2 at 2 and 3.
"""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from ..run import Run

SETTINGS = "deepspeed.json"
SEQUENCE = 32  # characters
STEPS = 4
RATE = 0.01
PATIENCE = 240.0  # seconds until a start counts as failed
TWO = 2  # processes


def twin(run: Run) -> Run:
    """The run with a model of 26 thousand parameters on two processes of this CPU, in fp32.

    Raises:
        ValueError: it divides a layer, its layers or a sequence: two processes cannot stand for
            those GPUs.
    """
    from ..experiments import isoflop

    for field in ("tensor", "pipeline", "context"):
        if getattr(run, field) > 1:
            raise ValueError(f"{field}: {getattr(run, field)} given; allowed: 1 in a rehearsal")
    return replace(
        run,
        model=isoflop.model(32, 2),
        sequence=SEQUENCE,
        data=TWO,
        precision="fp32",
        gradients="same",
        optimizer="adamw-fused",
    )


def start(command: str, settings: dict) -> str:
    """Run an exported torchrun command in a folder that holds its settings; what it said.

    Args:
        command: as `launch.torchrun` writes it.
        settings: as `launch.deepspeed_config` does; the processes find them in SETTINGS.

    Raises:
        ValueError: no torchrun command.
        RuntimeError: the processes failed or took longer than PATIENCE; with the end of what they
            said.
    """
    name, *words = shlex.split(command) or [""]
    if name != "torchrun":
        raise ValueError(f"command: {command!r} given; allowed: one that begins with torchrun")
    quiet = {"OMP_NUM_THREADS": "1", "TORCH_CPP_LOG_LEVEL": "ERROR", "CUDA_VISIBLE_DEVICES": ""}
    if sys.platform == "linux":  # gloo otherwise looks the host's name up, in vain without network
        quiet["GLOO_SOCKET_IFNAME"] = "lo"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / SETTINGS).write_text(json.dumps(settings), encoding="utf-8")
        try:
            done = subprocess.run(
                [sys.executable, "-m", "torch.distributed.run", *words],
                cwd=folder,
                env=os.environ | quiet,
                capture_output=True,
                text=True,
                timeout=PATIENCE,
            )
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{command}: not done after {PATIENCE:.0f} s") from None
    if done.returncode:
        raise RuntimeError(f"{command} ended with {done.returncode}:\n{done.stderr[-4000:]}")
    return done.stdout.strip()


def train(settings: dict) -> str | None:
    """Take STEPS optimizer steps on this rank; what rank 0 has to say of them."""
    import torch
    import torch.distributed as dist

    from ..experiments.isoflop import windows

    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank, ranks = dist.get_rank(), dist.get_world_size()
    micro, turns, total = (
        settings[key]
        for key in (
            "train_micro_batch_size_per_gpu",
            "gradient_accumulation_steps",
            "train_batch_size",
        )
    )
    if micro * turns * ranks != total:
        raise ValueError(
            f"train_batch_size: {total} given; allowed: {micro} x {turns} x {ranks} processes"
        )
    stage = settings["zero_optimization"]["stage"]
    network, optimizer = _engine(stage, ranks)
    text = windows(SEQUENCE)[0].split(micro)
    losses = []
    for step in range(STEPS):
        loss = 0.0
        for turn in range(turns):
            batch = text[((step * turns + turn) * ranks + rank) % (len(text) - 1)]
            part = network(input_ids=batch, labels=batch, use_cache=False).loss / turns
            part.backward()
            loss = loss + part.detach()
        optimizer.step()
        optimizer.zero_grad()
        dist.all_reduce(loss)
        losses.append(loss.item() / ranks)
    dist.destroy_process_group()
    if rank:
        return None
    fell = "falls" if losses[-1] < losses[0] else "does not fall"
    return (
        f"{ranks} processes, ZeRO {stage}: {STEPS} steps of {ranks} x {micro} x {turns} = "
        f"{total} sequences; the loss {fell}"
    )


def _engine(stage: int, ranks: int):
    """A small model, and an optimizer that holds what the stage leaves to a rank."""
    import torch
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.optim import ZeroRedundancyOptimizer
    from torch.nn.parallel import DistributedDataParallel

    from ..experiments import isoflop
    from ..experiments.zero import divide
    from ..trace import build

    run = Run(isoflop.model(32, 2), sequence=SEQUENCE, precision="fp32")
    torch.manual_seed(0)
    network = build.model(run)
    if stage >= 2:
        divide(network, run, stage, init_device_mesh("cpu", (ranks,)))
    else:
        network = DistributedDataParallel(network)
    if stage == 1:
        return network, ZeroRedundancyOptimizer(
            network.parameters(), torch.optim.AdamW, lr=RATE, fused=True
        )
    return network, torch.optim.AdamW(network.parameters(), lr=RATE, fused=True)


def main() -> None:
    """One process of the rehearsal; an error reaches torchrun's report with its words."""
    from torch.distributed.elastic.multiprocessing.errors import record

    @record
    def run() -> None:
        said = train(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
        if said:
            print(said)

    run()


if __name__ == "__main__":
    main()
