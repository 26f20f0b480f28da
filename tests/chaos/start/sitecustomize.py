"""Read by every Python that a run of tests.chaos starts, workers included: has it watched, and killed where it should be.

Runs in: every process of a run.
"""

import os

if "FWL_CHAOS" in os.environ:
    from tests.chaos import clock, failpoints, watching

    clock.install()
    watching.install()
    failpoints.install()
