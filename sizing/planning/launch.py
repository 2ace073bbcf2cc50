"""How a `Run` is started: its commands and the files that engines read, under one name.

`commands` has torchrun and SLURM, `engine_files` DeepSpeed, accelerate (DDP, FSDP2), torchtitan.
"""

from .commands import CPUS, NODE, PORT, nodes, sbatch, torchrun
from .engine_files import (
    BUCKET,
    LAYERS,
    PREFETCH,
    accelerate_config,
    deepspeed_config,
    torchtitan_toml,
)

__all__ = [
    "BUCKET",
    "CPUS",
    "LAYERS",
    "NODE",
    "PORT",
    "PREFETCH",
    "accelerate_config",
    "deepspeed_config",
    "nodes",
    "sbatch",
    "torchrun",
    "torchtitan_toml",
]
