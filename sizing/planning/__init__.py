"""How much, how long, and how it is started.

`optimal` divides a budget between parameters and tokens (`scaling`, `scaling_fits`, `batch_laws`);
`plan` searches the runs that GPUs, a deadline and a budget allow (`search`); `cost` has hours and
dollars of one (`costs`), `checkpoint` and `saving` what it writes and how often (`storage`);
`launch` writes what starts it; `report` puts a plan on one page (`page`). docs/ARCHITECTURE.md
names the smaller modules behind these.
"""

from . import batch_laws, launch, scaling, scaling_fits
from .costs import Cost, cost, training_time
from .page import Report, report
from .scaling import optimal
from .search import Candidate, Plan, plan
from .storage import checkpoint, disk, saving, token_files

__all__ = [
    "Candidate",
    "Cost",
    "Plan",
    "Report",
    "batch_laws",
    "checkpoint",
    "cost",
    "disk",
    "launch",
    "optimal",
    "plan",
    "report",
    "saving",
    "scaling",
    "scaling_fits",
    "token_files",
    "training_time",
]
