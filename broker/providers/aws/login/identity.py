"""Who the broker is at AWS: keys that are replaced ahead of their end, by a thread that nobody waits for.

botocore's RefreshableCredentials were tried first. They fetch on the thread of a call, one after the other, and again
for each call while a fetch fails; below 900 s of life at every call, and they do not tell when they end (measured).
"""

from __future__ import annotations

import contextlib
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.clock import Clock
from broker.log import get_logger
from broker.secret import Secret

log = get_logger(__name__)

FRESH_SHARE = 2 / 3  # of their life: replaced after that, while an alert watches the last sixth
PAUSES = (1.0, 30.0)  # seconds after a failure: at first, at most; doubling
SETTLED = 5.0  # seconds; what was fetched just now is not fetched again because it was refused


@dataclass(frozen=True, kw_only=True, slots=True)
class Keys:
    """What requests are signed with."""

    access_key_id: str
    secret_access_key: Secret
    session_token: Secret | None = None
    ends_at: datetime | None = None  # None: they do not end


class NoKeys(Exception):
    """There are none that are good: nothing can be sent.

    Attributes:
        code: for `Failure`.
        why: constant text that says what to look at.
    """

    def __init__(self, why: str, code: str = "BrokerCredentialsMissing") -> None:
        super().__init__(why)
        self.why = why
        self.code = code


@dataclass(frozen=True, kw_only=True, slots=True)
class _Held:
    keys: Keys
    fetched_at: float  # monotonic, as the next but one: somebody may set the wall clock
    whole: timedelta | None  # life of these keys, from when they were first seen
    stale_at: float

    def good(self, now: datetime) -> bool:
        return self.keys.ends_at is None or now < self.keys.ends_at


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    problem: NoKeys
    pause: float
    until: float  # monotonic


class Identity:
    """Gives keys on any thread. One fetch at a time; those who have good keys do not wait for it.

    `fetch` makes new ones and raises NoKeys. `patience`: seconds for which a caller without good keys waits.
    """

    def __init__(self, fetch: Callable[[], Keys], clock: Clock, *, patience: float) -> None:
        self._fetch = fetch
        self._clock = clock
        self._patience = patience
        self._lock = threading.Lock()
        self._held: _Held | None = None
        self._failed: _Failed | None = None
        self._fetching: Future[None] | None = None

    def keys(self) -> Keys:
        """Keys that are good now. Raises NoKeys."""
        with self._lock:
            if (held := self._good()) is not None:
                self._renew()
                return held.keys
            fetching = self._renew()
            if fetching is None:
                raise self._none()
        with contextlib.suppress(TimeoutError):  # it goes on, and the next call has what it brings
            fetching.result(self._patience)
        with self._lock:
            if (held := self._good()) is not None:
                return held.keys
            raise self._none()

    def at_hand(self) -> Keys | None:
        """Keys that are good now, without waiting: for an event loop. None: ask `keys` on a thread."""
        with self._lock:
            if (held := self._good()) is None:
                return None
            self._renew()
            return held.keys

    def doubt(self, keys: Keys) -> None:
        """AWS refused them, whatever their end says: fetch anew. They are used until then."""
        with self._lock:
            held, now = self._held, self._clock.monotonic()
            if held is not None and held.keys is keys and now - held.fetched_at > SETTLED:
                self._held = replace(held, stale_at=now)

    def left(self) -> float | None:
        """Share of the life that is left; zero or less: none that is good. None: nothing known yet, or no end.

        Without waiting. Whoever asks now and then keeps the keys fresh while there are no calls.
        """
        with self._lock:
            self._renew()
            held = self._held
            if held is None:
                return 0.0 if self._failed else None
            if held.keys.ends_at is None or not held.whole:
                return None
            return (held.keys.ends_at - self._clock.now()) / held.whole

    @property
    def ends_at(self) -> datetime | None:
        """When the keys that are held end. None: none are held, or they have no end."""
        with self._lock:
            return self._held.keys.ends_at if self._held else None

    @property
    def problem(self) -> str:
        """Why the last fetch failed; "" when it did not."""
        with self._lock:
            return self._failed.problem.why if self._failed else ""

    def _good(self) -> _Held | None:
        held = self._held
        return held if held is not None and held.good(self._clock.now()) else None

    def _renew(self) -> Future[None] | None:
        """The fetch under way, or a new one if it is time for one. None: there is none."""
        if self._fetching is not None:
            return self._fetching
        held, failed, now = self._good(), self._failed, self._clock.monotonic()
        if (held is not None and now < held.stale_at) or (failed is not None and now < failed.until):
            return None
        done: Future[None] = Future()
        # A daemon: what hangs in it (an SDK's own chain has no bound) must not keep the process from its end.
        thread = threading.Thread(target=self._run, args=(done,), name="aws-identity", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            self._fail(NoKeys("the broker has no thread left to fetch its AWS credentials with"))
            return None
        self._fetching = done
        return done

    def _run(self, done: Future[None]) -> None:
        try:
            keys: Keys | NoKeys = self._fetch()
        except NoKeys as problem:
            keys = problem
        except Exception as error:  # noqa: BLE001 - of an SDK: its text may hold anything
            keys = NoKeys(f"the broker's AWS credentials could not be fetched ({type(error).__name__})")
        with self._lock:
            if isinstance(keys, Keys) and keys.ends_at is not None and keys.ends_at <= self._clock.now():
                keys = NoKeys("the AWS credentials that the broker was given have already expired: compare the clocks")
            if isinstance(keys, NoKeys):
                self._fail(keys)
            else:
                self._take(keys)
            self._fetching = None
        done.set_result(None)

    def _take(self, keys: Keys) -> None:
        now, last = self._clock.monotonic(), self._held
        if self._failed is not None:
            log.info("the broker's AWS credentials could be fetched again")
        self._failed = None
        whole, stale_at = None, math.inf
        if keys.ends_at is not None:
            left = keys.ends_at - self._clock.now()
            same = last is not None and last.keys.ends_at == keys.ends_at  # an SDK's cache: its life is no new one
            whole = last.whole if last is not None and same else left
            stale_at = now + max(left.total_seconds() * FRESH_SHARE, PAUSES[0])
        self._held = _Held(keys=keys, fetched_at=now, whole=whole, stale_at=stale_at)

    def _fail(self, problem: NoKeys) -> None:
        last, (first, most) = self._failed, PAUSES
        pause = min(2 * last.pause, most) if last else first
        if last is None or last.problem.why != problem.why:
            log.warning("the broker's AWS credentials cannot be fetched", problem=problem.why)
        self._failed = _Failed(problem=problem, pause=pause, until=self._clock.monotonic() + pause)

    def _none(self) -> NoKeys:
        slow = NoKeys("the broker's AWS credentials are still being fetched: whoever gives them is slow")
        problem = self._failed.problem if self._failed else slow
        if self._held is None:
            return NoKeys(problem.why, problem.code)
        return NoKeys(f"the broker's AWS credentials have expired; {problem.why}", "BrokerCredentialsExpired")
