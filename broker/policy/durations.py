"""Spans of time as operators write them: 90s, 10m, 1h, 7d."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, time, timedelta

_SPAN = re.compile(r"([1-9][0-9]{0,6})([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_TIME = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]", re.ASCII)


def parse_duration(text: object) -> timedelta:
    """Read one number with one unit. Raises ValueError."""
    match = _SPAN.fullmatch(text) if isinstance(text, str) else None
    if match is None:
        raise ValueError("expected a duration such as 90s, 10m, 1h or 7d")
    return timedelta(seconds=int(match[1]) * _SECONDS[match[2]])


def format_duration(span: timedelta) -> str:
    """Write it with the largest unit that keeps it whole."""
    seconds = int(span.total_seconds())
    for unit in "dhm":
        if seconds and seconds % _SECONDS[unit] == 0:
            return f"{seconds // _SECONDS[unit]}{unit}"
    return f"{seconds}s"


def parse_instant(text: object) -> datetime:
    """Read an instant with its zone, or a date: the beginning of that day in UTC. Raises ValueError."""
    problem = "expected a date (2027-01-01: its beginning in UTC) or a time with a zone (2027-01-01T12:00Z)"
    if not isinstance(text, str):
        raise ValueError(problem)  # noqa: TRY004  # pydantic reports ValueError with our text
    try:
        if _DAY.fullmatch(text):
            return datetime.combine(date.fromisoformat(text), time(), UTC)
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise ValueError(problem)


def parse_time(text: object) -> time:
    """Read a time of day, HH:MM. Raises ValueError."""
    if not isinstance(text, str) or not _TIME.fullmatch(text):
        raise ValueError('expected a time of day such as "22:00"')
    return time.fromisoformat(text)
