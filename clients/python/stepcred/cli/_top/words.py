"""Text for a terminal: bounded, and nothing in it that a terminal or a markup would obey."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta

_LONGEST = 500  # characters of one text; a screenful of details
_MINUTE, _HOUR, _DAY, _LONG = 60, 3600, 86400, 864000  # seconds
_NOT_PLAIN = re.compile(r"[^ -~]")


def said(text: str) -> str:
    """What agents, backends and files say: printable ASCII, the rest escaped.

    Also what looks like something else to a reader: text that runs backwards, look-alike letters, marks without width.
    """
    cut = text if len(text) <= _LONGEST else text[:_LONGEST] + "..."
    return _NOT_PLAIN.sub(lambda found: found[0].encode("unicode_escape").decode("ascii"), cut)


def span(length: timedelta | None) -> str:
    """For people, in at most 5 characters: 8s, 12m, 3h05, 4d11h, 31d. Nothing for an unknown one."""
    if length is None:
        return ""
    seconds = max(0, int(length.total_seconds()))
    if seconds < _MINUTE:
        return f"{seconds}s"
    if seconds < _HOUR:
        return f"{seconds // _MINUTE}m"
    if seconds < _DAY:
        return f"{seconds // _HOUR}h{seconds % _HOUR // _MINUTE:02}"
    if seconds < _LONG:
        return f"{seconds // _DAY}d{seconds % _DAY // _HOUR:02}h"
    return f"{seconds // _DAY}d"


def until(end: datetime | None, now: datetime) -> str:
    """How long it still takes; "past" once it is over."""
    if end is None:
        return ""
    return span(end - now) if end > now else "past"


def clock(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment else ""


def fit(text: str, width: int, *, keep_end: bool = False) -> str:
    """Cut to `width` characters, with a mark where something is missing."""
    if len(text) <= width:
        return text
    if width < 2:  # noqa: PLR2004 (no room for a mark and a character)
        return text[:width]
    return "…" + text[1 - width :] if keep_end else text[: width - 1] + "…"


def home(agents: Iterable[str]) -> str:
    """The trust domain of most of them."""
    counted = Counter(_domain(agent) for agent in agents)
    return min(counted, key=lambda domain: (-counted[domain], domain), default="")


def short(agent: str, at_home: str) -> str:
    """A SPIFFE ID without what all have in common. One of another trust domain keeps it: it must not look the same."""
    text = agent.removeprefix("spiffe://")
    return text.removeprefix(f"{at_home}/") if at_home and _domain(agent) == at_home else text


def _domain(agent: str) -> str:
    return agent.removeprefix("spiffe://").partition("/")[0]
