"""When a session is past, by AWS's clock if it was heard."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

SKEW = timedelta(seconds=30)  # between AWS's clocks, and between AWS's and ours
# Without AWS's time: SigV4 refuses callers whose clock is off by more than 5 min, so by then its clock has passed too.
KEEP_AFTER = timedelta(minutes=5)
TOO_LATE = timedelta(seconds=60)  # a deny needs about that long to spread; the bound is then as quick


@dataclass(frozen=True, kw_only=True, slots=True)
class Age:
    """Now. Never ahead of AWS's clock by more than `slack`."""

    at: datetime
    slack: timedelta

    def over(self, bound: datetime) -> bool:
        """Certainly: what was denied until then needs no deny any more."""
        return self.at > bound + self.slack

    def too_late(self, bound: datetime) -> bool:
        """For a deny to be quicker than the bound."""
        return bound - self.at < TOO_LATE


def age(heard: datetime | None, clock: datetime) -> Age:
    """`heard`: AWS's time; `clock`: ours. Never by what is too far ahead of ours to be AWS's: no deny may go too early."""
    if heard is None or heard > clock + KEEP_AFTER:
        return Age(at=clock, slack=KEEP_AFTER)
    return Age(at=heard, slack=SKEW)


def now_there(heard: datetime | None, clock: datetime) -> datetime:
    """AWS's time, as well as it is known: what was heard is not AWS's if it is further off than it lets callers be."""
    return clock if heard is None or abs(heard - clock) > KEEP_AFTER else heard
