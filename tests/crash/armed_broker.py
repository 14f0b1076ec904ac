"""The daemon as it is, wrapped from outside as the environment says: a point to die at, a mutation, shorter waits."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from broker.__main__ import main
from broker.leases import ending
from tests.crash.mutants import MUTANTS
from tests.crash.points import arm

POINT, NTH, MUTANT, OVERDUE, BACKOFF = (
    f"STEPCRED_CRASH_{name}" for name in ("POINT", "NTH", "MUTANT", "OVERDUE", "BACKOFF")
)

if __name__ == "__main__":
    if point := os.environ.get(POINT):
        arm(point, int(os.environ[NTH]))
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    if seconds := os.environ.get(OVERDUE):
        setattr(ending, "OVERDUE", timedelta(seconds=float(seconds)))  # noqa: B010 - deliberate: a minute is long
    if seconds := os.environ.get(BACKOFF):
        setattr(ending, "BACKOFF_CAP", float(seconds))  # noqa: B010 - deliberate: the same tries in less time
    sys.exit(main())
