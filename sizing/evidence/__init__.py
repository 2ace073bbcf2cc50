"""How far off are we: every formula against what was traced, measured or published.

`traces` holds memory against the real model on fake tensors, `cuda` against torch's CUDA allocator,
`ultrascale` time and memory against 710 measured runs, `hours` cost against published runs.
`python -m sizing.evidence` prints every error table.
"""

from . import cuda, ultrascale

__all__ = ["cuda", "ultrascale"]
