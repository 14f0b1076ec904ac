"""One live credential for each scope of a step, and its successors in time. No I/O.

1. A scope is minted when it is first asked for, and then again only when what is kept has ended: a new charged attempt.
2. Its successor is due at 75 to 85 % of its life (not all of a fleet at once), never before the broker accepts one.
3. What was handed to a child, which cannot be given another one, has none: a claimed successor ends what is before it.
4. Refused for good, the present one is served to its end. Otherwise it is asked again, in growing pauses, until that end.

Ages are elapsed seconds here: issued, ripe and over are differences of the broker's times, so the clocks may differ.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from stepcred._credentials import Credential
from stepcred._errors import Refused, StepcredError
from stepcred._refusals import is_final, pause_after
from stepcred._requests import new_request_id

DUE = (0.75, 0.85)  # of a credential's life
IDLE = 3600.0  # seconds; nothing is due, and whatever changes that wakes the one who waits
OVERLAP = 5.0  # seconds at most before a successor is claimed, which ends the older one: time for requests under way


def elapsed() -> float:
    """Seconds that also count while the machine sleeps, as the broker's do."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


@dataclass(frozen=True, kw_only=True, slots=True)
class Kept:
    """A live credential. `ends` and `due` are elapsed seconds, infinite for never; `overlap` is seconds."""

    scope: str
    credential: Credential
    ends: float
    due: float
    overlap: float = OVERLAP
    lent: bool = False  # to somebody who cannot be given another
    before: str = ""  # the lease that it succeeded
    request_id: str = field(default_factory=new_request_id)  # of what asks for its successor
    failures: int = 0  # of that, in a row
    failure: StepcredError | None = None

    @property
    def lease_id(self) -> str:
        return self.credential.lease.lease_id

    def fresh(self, now: float) -> float:
        """Seconds for which a reader may go on with it: a successor ends it `overlap` after it is there."""
        return max(min(max(self.due - now, self.overlap), self.ends - now), 0.0)

    @property
    def lease_ids(self) -> tuple[str, ...]:
        """What may be alive of it."""
        return tuple(lease_id for lease_id in (self.lease_id, self.before) if lease_id)


def kept(
    scope: str,
    credential: Credential,
    *,
    sent: float,
    received: float,
    interval: float,
    uniform: Callable[[float, float], float],
) -> Kept:
    """It was made between `sent` and `received`: its end counts from the one, what is not allowed yet from the other."""
    lease = credential.lease
    life = _seconds(lease.issued_at, lease.expires_at)
    ripe = _seconds(lease.issued_at, lease.successor_from)
    due = max(sent + life * uniform(*DUE), received + ripe) if math.isfinite(life + ripe) else math.inf
    overlap = min(OVERLAP, interval / 2)  # well within the time that the broker leaves for claims
    return Kept(scope=scope, credential=credential, ends=sent + life, due=due, overlap=overlap)


def _seconds(start: datetime | None, end: datetime | None) -> float:
    """Infinite when the broker does not say."""
    return (end - start) / timedelta(seconds=1) if start is not None and end is not None else math.inf


def after_failure(one: Kept, error: StepcredError, *, now: float) -> Kept:
    """When to ask for a successor again: never after what is final, and not once what is kept has ended."""
    asked = getattr(error, "retry_after", None) or 0.0
    again = now + max(pause_after(one.failures + 1), asked)
    over = (isinstance(error, Refused) and is_final(error)) or again >= one.ends
    return replace(
        one,
        due=math.inf if over else again,
        # Unanswered, it may have been carried out: the same id is answered with that very credential, for a while.
        request_id=new_request_id() if isinstance(error, Refused) else one.request_id,
        failures=one.failures + 1,
        failure=error,
    )


class Keeping:
    """What one step keeps. Shared between threads; `changed` is called, outside the lock, after each change."""

    def __init__(self) -> None:
        self.changed: Callable[[], None] = lambda: None
        self._lock = threading.Lock()
        self._kept: dict[str, Kept] = {}
        self._users: dict[str, int] = {}
        self._pinned: set[str] = set()

    def live(self, scope: str, now: float) -> Credential | None:
        """To be served."""
        one = self.of(scope)
        return one.credential if one is not None and now < one.ends else None

    def of(self, scope: str) -> Kept | None:
        """The latest, also when it has ended by its time."""
        with self._lock:
            return self._kept.get(scope)

    def put(self, one: Kept, *, instead_of: str = "") -> bool:
        """Serve it from now on. False: what it should succeed (a lease id) is kept no longer, or is to stay."""
        with self._lock:
            before = self._kept.get(one.scope)
            if instead_of and (before is None or before.lease_id != instead_of or before.lent):
                return False
            self._kept[one.scope] = replace(one, before=instead_of)
        self.changed()
        return True

    def lend(self, scope: str, lease_id: str) -> bool:
        """It is kept to its own end, without a successor. False: it is not the one that is kept."""
        with self._lock:
            one = self._kept.get(scope)
            if one is None or one.lease_id != lease_id:
                return False
            self._kept[scope] = replace(one, due=math.inf, lent=True)
        return True

    def pin(self, scope: str) -> None:
        """Somebody has it for as long as the step lives: no `leave` takes it back."""
        with self._lock:
            self._pinned.add(scope)

    def enter(self, scope: str) -> None:
        """One user more, until it leaves."""
        with self._lock:
            self._users[scope] = self._users.get(scope, 0) + 1

    def used(self, scope: str) -> bool:
        """By somebody who will leave."""
        with self._lock:
            return self._users.get(scope, 0) > 0

    def leave(self, scope: str) -> Kept | None:
        """One user less, and what is `unwanted` then."""
        with self._lock:
            self._users[scope] -= 1
        return self.unwanted(scope)

    def unwanted(self, scope: str) -> Kept | None:
        """What is to be taken back, if nobody is to have it: kept no longer."""
        with self._lock:
            if self._users.get(scope) or scope in self._pinned:
                return None
            gone = self._kept.pop(scope, None)
        self.changed()
        return gone

    def failed(self, one: Kept, error: StepcredError, *, now: float) -> None:
        """There is no successor, for now or for good."""
        with self._lock:
            if self._kept.get(one.scope) is one:
                self._kept[one.scope] = after_failure(one, error, now=now)
        self.changed()

    def dropped(self, lease_ids: Iterable[str]) -> None:
        """They have ended before their time."""
        gone = set(lease_ids)
        with self._lock:
            kept = {scope: one for scope, one in self._kept.items() if one.lease_id not in gone}
            if len(kept) == len(self._kept):
                return
            self._kept = kept
        self.changed()

    def due(self, now: float) -> list[Kept]:
        """Whose successor is to be asked for now, the most urgent first."""
        with self._lock:
            due = [one for one in self._kept.values() if one.due <= now < one.ends]
        return sorted(due, key=lambda one: one.ends)

    def pause(self, now: float) -> float:
        """Seconds until one is due."""
        with self._lock:
            due = [one.due for one in self._kept.values() if now < one.ends]
        return min(max(min(due, default=math.inf) - now, 0.0), IDLE)
