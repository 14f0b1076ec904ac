"""What a watcher asks every few seconds or minutes: counts, and no rows, however many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from broker.model import LeaseState


@dataclass(frozen=True, kw_only=True, slots=True)
class Busy:
    """An hourly limit's key, and how much was minted under it."""

    hour_key: str
    guard_key: str  # of one of these charges
    charges: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Usual:
    """What was minted under a key in a longer time."""

    charges: int
    active_hours: int  # hours of the clock with a charge in them


class WatchedTx(Protocol):
    """Part of `Tx`."""

    def stuck_leases(self, doubtful_since: datetime) -> Mapping[tuple[str, LeaseState], int]:
        """By provider and state: REVOKING ones that have alarmed, and IN_DOUBT ones that have, or whose intent is as old."""
        ...

    def busy_keys(self, since: datetime, *, at_least: int) -> Sequence[Busy]:
        """Charges not given back, at >= since, where there are so many; by key."""
        ...

    def usual_charges(self, hour_key: str, *, since: datetime, until: datetime) -> Usual:
        """Charges not given back, since <= at < until."""
        ...
