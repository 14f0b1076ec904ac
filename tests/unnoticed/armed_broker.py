"""The daemon as it is, but that a lease of seconds is long enough for it: a minute's story is told in seconds."""

from __future__ import annotations

import os
import sys
from datetime import timedelta

from broker import model

SHORTEST = "STEPCRED_UNNOTICED_SHORTEST"  # seconds

if __name__ == "__main__":
    if seconds := os.environ.get(SHORTEST):
        # Before anything takes it by name.
        setattr(model, "MIN_LEASE_LIFE", timedelta(seconds=float(seconds)))  # noqa: B010 - deliberate
    from broker.__main__ import main

    sys.exit(main())
