"""How many examples a property gets. The seeds are new in each run, so short runs add up; STEPCRED_LONG=1 takes the long form."""

from __future__ import annotations

import os

LONG = bool(os.environ.get("STEPCRED_LONG"))


def examples(short: int, *, long: int) -> int:
    """Of a property whose example costs a hundredth of a second or more."""
    return long if LONG else short
