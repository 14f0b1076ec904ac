"""The daemon as it is, wrapped from outside as the environment says: a point to die at, a mutation, shorter waits."""

from __future__ import annotations

import os
import sys

from broker.__main__ import main
from broker.leases import ending
from tests.crash.armed_broker import BACKOFF, MUTANT, NTH, POINT
from tests.crash.aws.mutants import MUTANTS
from tests.crash.aws.points import POINTS
from tests.crash.points import arm_at

if __name__ == "__main__":
    if point := os.environ.get(POINT):
        arm_at(POINTS[point], int(os.environ[NTH]))
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    if seconds := os.environ.get(BACKOFF):
        setattr(ending, "BACKOFF_CAP", float(seconds))  # noqa: B010 - deliberate: the same tries in less time
    sys.exit(main())
