"""The time at a provider, as its last answer told it: a credential is dead by its verifier's clock, not by ours."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import lru_cache

from broker.clock import Clock

MAX_OFFSET = timedelta(days=30)  # a year-9999 date would break arithmetic; a clock so wrong breaks TLS first


class HeardTime:
    """Remembers one `Date` header (RFC 9110, whole seconds, GMT) and when it was heard on CLOCK_BOOTTIME.

    Safe to call from a provider's own threads.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._heard: tuple[datetime, float] | None = None

    def hear(self, date: str) -> None:
        """Take the header of an answer that has just arrived; one that cannot be read tells nothing."""
        at = _read(date)
        if at is not None and abs(at - self._clock.now()) < MAX_OFFSET:
            self._heard = (at, self._clock.boottime())

    def now(self) -> datetime | None:
        """That clock's time now, at most a second and the answer's way behind; None when nothing was heard yet."""
        heard = self._heard
        if heard is None:
            return None
        at, boot = heard
        return at + timedelta(seconds=self._clock.boottime() - boot)


@lru_cache(maxsize=8)  # all answers of one second say the same
def _read(date: str) -> datetime | None:
    try:
        at = parsedate_to_datetime(date)
        return None if at.tzinfo is None else at.astimezone(UTC)
    except (ValueError, TypeError, OverflowError):
        return None
