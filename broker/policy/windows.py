"""When a rule holds: until an instant, and within a daily window of a time zone."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum
from zoneinfo import ZoneInfo

_MINUTE = timedelta(minutes=1)


class Phase(Enum):
    """How an instant lies to a rule's conditions of time."""

    OPEN = "OPEN"
    OUTSIDE = "OUTSIDE"
    OVER = "OVER"
    UNKNOWN = "UNKNOWN"  # cannot be evaluated: an allow does not match, a deny does


@dataclass(frozen=True, kw_only=True, slots=True)
class Daily:
    """From (included) to (excluded) by the wall clock of `tz`; over midnight when from > to."""

    start: time
    end: time
    tz: tzinfo

    def contains(self, now: datetime) -> bool:
        """Is the wall clock inside?"""
        wall = now.astimezone(self.tz).time()
        if self.start < self.end:
            return self.start <= wall < self.end
        return wall >= self.start or wall < self.end

    def ends(self, now: datetime) -> datetime:
        """When the window that contains `now` closes, in UTC; never past a change of the clocks that skips the end."""
        wall = now.astimezone(self.tz)
        day = wall.date() + timedelta(days=wall.time() >= self.end)
        folds = (datetime.combine(day, self.end.replace(fold=fold), self.tz).astimezone(UTC) for fold in (0, 1))
        end = min((instant for instant in folds if instant > now), default=now)
        while end > now and not self.contains(end - _MINUTE):  # the end fell into the hour that spring skips
            end -= _MINUTE
        return end

    def __str__(self) -> str:
        return f"between {self.start:%H:%M} and {self.end:%H:%M} {zone_name(self.tz)}"


@dataclass(frozen=True, kw_only=True, slots=True)
class When:
    """Conditions of time; both hold, or the rule does not."""

    until: datetime | None = None
    daily: Daily | None = None

    def look(self, now: datetime) -> tuple[Phase, datetime | None]:
        """The phase and, when open, the instant at which it closes (None = never)."""
        try:
            if now.tzinfo is None:
                return Phase.UNKNOWN, None
            if self.until is not None and now >= self.until:
                return Phase.OVER, None
            if self.daily is None:
                return Phase.OPEN, self.until
            if not self.daily.contains(now):
                return Phase.OUTSIDE, None
            end = self.daily.ends(now)
        except (OverflowError, ValueError):  # the ends of the calendar
            return Phase.UNKNOWN, None
        return Phase.OPEN, min(end, self.until) if self.until else end


ALWAYS = When()


def zone(name: str) -> tzinfo:
    """A time zone by its IANA name. Raises ValueError."""
    if name == "UTC":
        return UTC  # also where the machine has no zone files
    try:
        return ZoneInfo(name)
    except (OSError, ValueError, LookupError):
        raise ValueError("unknown time zone; use a name such as UTC or Europe/Berlin") from None


def zone_name(tz: tzinfo) -> str:
    """What `zone` was given."""
    return tz.key if isinstance(tz, ZoneInfo) and tz.key else "UTC"
