"""A circuit breaker per provider: one that gives no answer is asked by one revocation at a time, or else by a mint.

Only different leases in a row open it. A single one that its provider cannot end must not keep others from being minted.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from broker.clock import Clock

FAILURES = 5  # leases in a row
FIRST_PROBE = 1.0  # seconds after it opened; doubled by each probe without an answer
LAST_PROBE = 15.0  # seconds between probes at most


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What an answer changes."""

    closed: bool  # it had been open: every lease of the provider may be asked for at once
    unheard: frozenset[str]  # leases that had got no answer: these may


class Breaker:
    """Of one provider. Used on the event loop; `mints_after` may be asked on any thread."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._failed: set[str] = set()  # leases, since the last answer
        self._silent: set[str] = set()  # those of them that heard nothing at all
        self._pause = 0.0  # seconds; zero: closed
        self._probe_at = 0.0  # on the monotonic clock
        self._probe = ""  # the lease that is asking

    @property
    def open(self) -> bool:
        """The provider gives no answer."""
        return self._pause > 0

    def admits(self, lease_id: str) -> bool:
        """May this lease's end be asked for? While open, one is admitted: the probe."""
        if not self.open:
            return True
        if self._probe or self._clock.monotonic() < self._probe_at:
            return False
        self._probe = lease_id
        return True

    def skipped(self, lease_id: str) -> None:
        """Nothing was asked after all; the next one may be the probe."""
        if self._probe == lease_id:
            self._probe = ""

    def failed(self, lease_id: str, *, silent: bool = False) -> None:
        """No answer that helps; `silent`: none at all."""
        self._failed.add(lease_id)
        if silent:
            self._silent.add(lease_id)
        if self.open and lease_id != self._probe:
            return  # sent before it opened
        if self.open or len(self._failed) >= FAILURES:
            self._pause = min(LAST_PROBE, self._pause * 2 or FIRST_PROBE)
            self._probe_at = self._clock.monotonic() + self._pause
            self._probe = ""

    def answered(self) -> Answered:
        """An answer, whatever it said."""
        told = Answered(closed=self.open, unheard=frozenset(self._silent))
        self._failed.clear()
        self._silent.clear()
        self._pause, self._probe = 0.0, ""
        return told

    def mints_after(self) -> timedelta | None:
        """When to ask again for a credential; None: now.

        Also, for one in each LAST_PROBE, when a probe is long overdue: there is nothing left to revoke, and only a mint
        can tell.
        """
        now = self._clock.monotonic()
        if not self.open:
            return None
        if not self._probe and now - self._probe_at > LAST_PROBE:
            self._probe_at = now  # this one: of all that wait, each would send a mint of its own to one that is away
            return None
        return timedelta(seconds=max(1.0, self._probe_at - now))
