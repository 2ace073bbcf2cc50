"""How much, how long, and how it is started.

`training_time` turns FLOPs into hours (`costs`); `launch` writes what starts a run: the torchrun
line, the DeepSpeed config, the sbatch script.
"""

from . import launch
from .costs import Cost, cost, training_time
from .search import Candidate, Plan, plan
from .storage import checkpoint, disk, saving, token_files

__all__ = [
    "Candidate",
    "Cost",
    "Plan",
    "checkpoint",
    "cost",
    "disk",
    "launch",
    "plan",
    "saving",
    "token_files",
    "training_time",
]
