"""How long to wait before something is tried again: without end by design, ever more slowly, never in step with others."""

from __future__ import annotations

import random
from datetime import timedelta

FIRST = 1.0  # seconds
MOST = 60.0  # seconds: what an operator waits for at most once the receiver is back


def pause(attempts: int) -> timedelta:
    """After so many attempts that failed, this one included."""
    ceiling = min(MOST, FIRST * 2.0 ** min(max(attempts, 1) - 1, 16))
    return timedelta(seconds=ceiling * (0.5 + random.random() / 2))  # noqa: S311 - jitter, not a secret
