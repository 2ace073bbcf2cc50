"""How much, how long, and how it is started.

`plan` searches the runs that GPUs, a deadline and a budget allow (`search`); `cost` has hours,
days, dollars and energy of one (`costs`), `checkpoint` and `saving` what it writes and how often
(`storage`, `containers`); `launch` writes what starts it: the torchrun line, the sbatch script, the
configurations of engines; `report` puts a plan on one page (`page`).
"""

from . import launch
from .costs import Cost, cost, training_time
from .page import Report, report
from .search import Candidate, Plan, plan
from .storage import checkpoint, disk, saving, token_files

__all__ = [
    "Candidate",
    "Cost",
    "Plan",
    "Report",
    "checkpoint",
    "cost",
    "disk",
    "launch",
    "plan",
    "report",
    "saving",
    "token_files",
    "training_time",
]
