"""Lengths of time, as people write and read them."""

from __future__ import annotations

import re
from datetime import timedelta

_WRITTEN = re.compile(r"([0-9]{1,6})([smh])")
_SECONDS = {"s": 1, "m": 60, "h": 3600}


def read(text: str) -> timedelta:
    """Raises ValueError."""
    found = _WRITTEN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no time; write 90s, 30m or 2h")
    return timedelta(seconds=int(found[1]) * _SECONDS[found[2]])


def shown(span: timedelta) -> str:
    seconds = int(span.total_seconds())
    if not seconds or seconds % 60:
        return f"{seconds} s"
    return f"{seconds // 60} min" if seconds % 3600 else f"{seconds // 3600} h"


def left(span: timedelta) -> str:
    return f"{span.days} days" if span.days > 1 else f"{span / timedelta(hours=1):.1f} hours"
