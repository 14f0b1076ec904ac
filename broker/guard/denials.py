"""Counts refusals so that a storm cannot fill the disk with journal records (DESIGN section 7, I3).

The first five per (agent, reason, minute) are journalled in full. The next one opens an aggregate, which is
journalled once before that refusal is answered; those after it carry its reference and are only counted.
`due` hands out the counts of closed minutes, to be journalled under the same reference.
"""

from __future__ import annotations

import secrets
from base64 import b32encode
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

EVERYONE = ""  # the agent of what is counted together when the table is full


def new_reference_id() -> str:
    """16 characters of [a-z2-7], 80 bits: cannot be guessed, can be read out on the telephone."""
    return b32encode(secrets.token_bytes(10)).decode().lower()


@dataclass(frozen=True, kw_only=True, slots=True)
class Full:
    """Journal this refusal by itself."""

    reference_id: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Counted:
    """Answer with the aggregate's reference; journal its opening record first when this one opens it."""

    reference_id: str
    first_of_aggregate: bool


Noted: TypeAlias = Full | Counted


@dataclass(frozen=True, kw_only=True, slots=True)
class Aggregate:
    """How many refusals shared one reference."""

    reference_id: str
    agent: str  # SPIFFE ID, or EVERYONE
    reason: str
    count: int
    minute: datetime  # its beginning
    side: str = ""


class _Window:
    """One agent's refusals for one reason, from the first of a minute until `due` closes it."""

    __slots__ = ("count", "full", "minute", "reference_id")

    def __init__(self, minute: datetime) -> None:
        self.minute = minute
        self.full = 0
        self.count = 0
        self.reference_id = ""


class DenialCounter:
    """Bounded memory: at most `max_windows`, and one more for each reason on each side. For one event loop.

    Call `due` every few seconds: until it does, a window with an aggregate goes on beyond its minute.
    """

    def __init__(
        self,
        *,
        in_full: int = 5,
        max_windows: int = 10_000,
        new_id: Callable[[], str] = new_reference_id,
    ) -> None:
        self._in_full = in_full
        self._max = max_windows
        self._new_id = new_id
        self._windows: dict[tuple[str, str, str], _Window] = {}

    def note(self, agent: str, reason: str, now: datetime, *, side: str = "") -> Noted:
        """Register one refusal; tells how it is to be journalled.

        `side`: where it was refused. The same name on two sides is two callers, and shares no reference.
        """
        window = self._window(side, agent, reason, _minute(now))
        if window.full < self._in_full:
            window.full += 1
            return Full(reference_id=self._new_id())
        if not window.count:
            window.reference_id = self._new_id()
        window.count += 1
        return Counted(reference_id=window.reference_id, first_of_aggregate=window.count == 1)

    def due(self, now: datetime, *, everything: bool = False) -> list[Aggregate]:
        """Aggregates of minutes that are over (of all, at shutdown), each handed out once."""
        closed = [key for key, window in self._windows.items() if everything or window.minute != _minute(now)]
        return [
            Aggregate(
                reference_id=window.reference_id,
                agent=agent,
                reason=reason,
                count=window.count,
                minute=window.minute,
                side=side,
            )
            for (side, agent, reason), window in ((key, self._windows.pop(key)) for key in closed)
            if window.count
        ]

    def __len__(self) -> int:
        return len(self._windows)

    def _window(self, side: str, agent: str, reason: str, minute: datetime) -> _Window:
        known = self._windows.get((side, agent, reason))
        if known is None and len(self._windows) >= self._max:
            # A crowd of names gets no memory of its own: counted together, by reason.
            agent = EVERYONE
            known = self._windows.get((side, agent, reason))
        if known is not None and (known.minute == minute or known.count):
            return known
        window = self._windows[side, agent, reason] = _Window(minute)
        return window


def _minute(at: datetime) -> datetime:
    return at.replace(second=0, microsecond=0)
