"""How much, how long, and how it is started.

`training_time` turns FLOPs into hours (`costs`); `launch` writes what starts a run: the torchrun
line, the DeepSpeed config, the sbatch script.
"""

from . import launch
from .costs import training_time
from .storage import checkpoint

__all__ = ["checkpoint", "launch", "training_time"]
