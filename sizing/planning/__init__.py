"""How much, how long, and how it is started.

`optimal` divides a budget between parameters and tokens (`scaling`; `scaling_fits` fits one's own
runs, `batch_laws` has batch and learning rate); `training_time` turns FLOPs into hours (`costs`);
`launch` writes what starts a run: the torchrun line, the DeepSpeed config, the sbatch script.
"""

from . import batch_laws, launch, scaling, scaling_fits
from .costs import training_time
from .scaling import optimal

__all__ = ["batch_laws", "launch", "optimal", "scaling", "scaling_fits", "training_time"]
