"""The daemon's settings."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, kw_only=True, slots=True)
class Timings:
    """Every bound of DESIGN section 4, with its default."""

    heartbeat: timedelta = timedelta(seconds=10)
    silence_bound: timedelta = timedelta(seconds=45)
    start_within: timedelta = timedelta(minutes=15)
    mint_timeout: timedelta = timedelta(seconds=10)  # below the SDK's deadline
    claim_window: timedelta = timedelta(seconds=30)
    clock_skew: timedelta = timedelta(seconds=30)
    drain_grace: timedelta = timedelta(seconds=20)
    epoch_life: timedelta = timedelta(seconds=15)
    epoch_renew: timedelta = timedelta(seconds=5)
    keep_requests: timedelta = timedelta(hours=24)  # beyond the step's life
