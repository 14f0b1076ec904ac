"""The daemon as it is, wrapped from outside as the environment says: a point to die at, or a guard that forgets."""

from __future__ import annotations

import os
import sys

from broker.__main__ import main
from tests.crash.armed_broker import MUTANT, NTH, POINT
from tests.crash.points import arm
from tests.runaway.mutants import MUTANTS

if __name__ == "__main__":
    if point := os.environ.get(POINT):
        arm(point, int(os.environ[NTH]))
    if mutant := os.environ.get(MUTANT):
        MUTANTS[mutant]()
    sys.exit(main())
