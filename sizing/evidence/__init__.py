"""How far off are we: every formula against what was traced, measured or published.

`traces` holds memory against the real model on fake tensors, `cuda` against torch's CUDA allocator,
`savers` memory savers against traces and public reports, `finetuning` against peft and
bitsandbytes, `fms` against published fine-tuning, `ultrascale` time and memory against 710
measured runs, `published` throughput against published runs of every engine, `hours` cost against
published runs. `python -m sizing.evidence` prints every error table; `published(...)` hands out the
published runs for plots.
"""

from . import cuda, finetuning, fms, hours, savers, ultrascale
from .published_runs import published

__all__ = ["cuda", "finetuning", "fms", "hours", "published", "savers", "ultrascale"]
