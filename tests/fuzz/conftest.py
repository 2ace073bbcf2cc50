"""How much is fuzzed: `make fuzz` sets SIZING_FUZZ to the settings in all; tests take a share."""

import os

from hypothesis import HealthCheck, settings

QUICK = 130  # settings of all calculators together in `make test`; derived from no clock
TOTAL = int(os.environ.get("SIZING_FUZZ", QUICK))

settings.register_profile(
    "course",
    deadline=None,  # no test depends on how busy the machine is
    derandomize=TOTAL == QUICK,  # the same settings at each run of `make test`; others in a fuzz
    print_blob=True,
    suppress_health_check=list(HealthCheck),
    database=None if TOTAL == QUICK else settings.default.database,
)
settings.load_profile("course")
