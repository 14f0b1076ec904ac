"""When a rule holds: until an instant, within a daily window of a time zone, for calls from some networks."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta, tzinfo
from enum import Enum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address
from typing import TypeAlias
from zoneinfo import ZoneInfo

Network: TypeAlias = IPv4Network | IPv6Network
_MINUTE = timedelta(minutes=1)
WEEK = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")  # as datetime.weekday() counts
EVERY_DAY = frozenset(range(7))


class Phase(Enum):
    """How an instant lies to a rule's conditions of time."""

    OPEN = "OPEN"
    OUTSIDE = "OUTSIDE"
    OVER = "OVER"
    UNKNOWN = "UNKNOWN"  # cannot be evaluated: an allow does not match, a deny does


@dataclass(frozen=True, kw_only=True, slots=True)
class Daily:
    """From (included) to (excluded) by the wall clock of `tz`; over midnight when from > to.

    `days`: those on which it begins, 0 = Monday.
    """

    start: time
    end: time
    tz: tzinfo
    days: frozenset[int] = EVERY_DAY

    def contains(self, now: datetime) -> bool:
        """Is the wall clock inside?"""
        local = now.astimezone(self.tz)
        wall, day = local.time(), local.weekday()
        if self.start < self.end:
            return day in self.days and self.start <= wall < self.end
        return (wall >= self.start and day in self.days) or (wall < self.end and (day - 1) % 7 in self.days)

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
        days = "" if self.days == EVERY_DAY else " on " + " ".join(WEEK[day] for day in sorted(self.days))
        return f"between {self.start:%H:%M} and {self.end:%H:%M} {zone_name(self.tz)}{days}"


@dataclass(frozen=True, kw_only=True, slots=True)
class When:
    """Conditions of time and place; all hold, or the rule does not."""

    until: datetime | None = None
    daily: Daily | None = None
    networks: tuple[Network, ...] | None = None  # None = calls from anywhere

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

    def reaches(self, address: str) -> bool | None:
        """Does it concern calls from this IP address? None: it cannot be said."""
        if self.networks is None:
            return True
        found = read_address(address)
        return None if found is None else any(found in network for network in self.networks)


ALWAYS = When()


def read_address(text: str) -> IPv4Address | IPv6Address | None:
    """An IP address; None when it is none. An IPv4 address in IPv6 spelling is the IPv4 address."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    if isinstance(found, IPv6Address):
        if found.scope_id is not None:
            return None
        return found.ipv4_mapped or found
    return found


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
