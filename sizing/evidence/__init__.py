"""How far off are we: every formula against what was traced, measured or published.

`traces` holds memory against the real model on fake tensors, `ultrascale` time and memory against
710 measured runs. `python -m sizing.evidence` prints every error table.
"""

from . import ultrascale

__all__ = ["ultrascale"]
