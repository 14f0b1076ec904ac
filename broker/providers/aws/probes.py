"""Whether a session is dead, by trying it: one harmless call, with the session's own credential.

What counts (DESIGN section 6):

1. The call succeeds before the deny is sent. A call that the session may not make anyway proves nothing later.
2. After the deny is written it is refused, with exactly the code of a denied call.
3. Three times in a row, at least 5 s apart: AWS evaluates at many places, and they hear of a deny one by one. Whatever
   else is answered in between, or no answer, begins the row anew.

Credentials are held for this in memory alone, until the proof or a little past the bound; after a restart there are
none, and the bound decides.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from typing import Any, Protocol

from broker.clock import Clock
from broker.model import AwsSession, Evidence, JsonValue
from broker.providers.aws.calls import Failure
from broker.providers.aws.lanes import BUSY
from broker.providers.aws.scopes.probe_calls import CALLS, ProbeCall
from broker.providers.base import LeaseRef

# A lane of their own, so that the ends of many sessions with probes hold up no deny: 8 threads make 200 calls a second
# at 40 ms each. Short timeouts: a probe without an answer proves nothing, and there is another one soon.
PROBES: Mapping[str, Any] = {
    "mint_workers": 8,
    "connect_timeout": timedelta(seconds=2),
    "read_timeout": timedelta(seconds=3),
}
REFUSALS_NEEDED = 3
APART = 5.0  # seconds between the refusals of a row
LOOKED_AT = 300  # sessions that are looked at every APART seconds; of more, each less often
MOST_KEPT = 10_000  # sessions; 3 KB each
KEEP_AFTER = 60.0  # seconds past the bound; the engine has its own evidence by then
LIMIT = 5.0  # seconds of one call: it holds up its own deny for so long at most
SILENT_CALLS = 3  # in a row without an answer, and for SILENCE seconds nobody asks there: hung probes hold up no deny
SILENCE = 30.0

# Of a call that somebody else's could share the fate of: what a scope gave it does not matter.
_NO_ANSWER = frozenset(
    {
        *("TookTooLong", "ReadTimeoutError", "ConnectTimeoutError", "EndpointConnectionError"),
        *("ConnectionClosedError", "HTTPClientError", "ProxyConnectionError", "SSLError"),
    }
)


class NoProbe(Enum):
    """Why a session cannot be proven dead by its probe, so that its bound decides; the names are the journal's."""

    NOT_KEPT = "PROBE_NOT_KEPT"  # its credential is gone with a restart, or too many are kept
    USELESS = "PROBE_USELESS"  # refused before the deny: the scope or its role does not allow it
    UNANSWERED = "PROBE_UNANSWERED"  # before the deny there was no answer, or an error: nobody knows whether it works


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """What one look came to: evidence, or when to look again, or why it is no use."""

    evidence: Evidence | None = None
    again: timedelta | None = None
    hopeless: NoProbe | None = None


class CallsAs(Protocol):
    """As `SessionCalls.call`."""

    def __call__(
        self, session: AwsSession, service: str, operation: str, parameters: Mapping[str, JsonValue]
    ) -> Awaitable[Mapping[str, JsonValue] | Failure]: ...


@dataclass(kw_only=True, slots=True)
class _Watch:
    """One kept session."""

    call: ProbeCall
    parameters: Mapping[str, JsonValue]
    session: AwsSession | None = field(repr=False)  # None once it can prove nothing
    over_at: float  # boottime
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    worked: bool = False  # before the deny was sent
    hopeless: NoProbe | None = None
    refusals: int = 0  # in a row
    refused_at: float = 0.0  # monotonic


class Prober:
    """Of the sessions whose scope names a probe."""

    def __init__(self, call: CallsAs, clock: Clock) -> None:
        self._call = call
        self._clock = clock
        self._kept: dict[str, _Watch] = {}
        self._looked_at: set[str] = set()  # lease ids of those that worked, and whose death is waited for
        self._overs: list[tuple[float, str]] = []  # a heap of when each is let go
        # (service, region, endpoint) → calls without an answer, and the time of the last (monotonic)
        self._silent: dict[tuple[str, str, str], tuple[int, float]] = {}

    def keep(self, ref: LeaseRef, call: str, arguments: Mapping[str, JsonValue], session: AwsSession) -> None:
        """From its mint on, until it is proven dead or past its bound."""
        self._let_go()
        known = CALLS.get(call)
        if known is None or len(self._kept) >= MOST_KEPT:
            return
        left = (ref.expires_at - self._clock.now()).total_seconds()
        over_at = self._clock.boottime() + left + KEEP_AFTER
        self._kept[ref.lease_id] = _Watch(
            call=known, parameters=known.parameters(arguments), session=session, over_at=over_at
        )
        heapq.heappush(self._overs, (over_at, ref.lease_id))

    @property
    def kept(self) -> int:
        """How many sessions are in memory."""
        return sum(watch.session is not None for watch in self._kept.values())

    def close(self) -> None:
        """Forget them all."""
        self._kept.clear()
        self._overs.clear()
        self._looked_at.clear()

    async def before_deny(self, lease_id: str) -> None:
        """Try the call once, before the deny is sent. Call it before each attempt at a deny; it never raises.

        Not a second time: once a deny may be on its way, a success says nothing about the time before it.
        """
        watch = self._watch(lease_id)
        if watch is None:
            return
        async with watch.lock:  # a second caller must not send a deny while the first one's call is under way
            if watch.worked or watch.hopeless:
                return
            answer = await self._try(watch)
            if answer is None or isinstance(answer, Failure):
                refused = answer is not None and watch.call.refused(answer.status, answer.code)
                watch.hopeless = NoProbe.USELESS if refused else NoProbe.UNANSWERED
                watch.session = None
            else:
                watch.worked = True
                self._looked_at.add(lease_id)

    async def after_deny(self, lease_id: str) -> Look:
        """Look once, when it is time to. Only for a lease whose deny is written."""
        watch = self._watch(lease_id)
        if watch is None:
            return Look(hopeless=NoProbe.NOT_KEPT)
        async with watch.lock:
            if not watch.worked:  # (1)
                return Look(hopeless=watch.hopeless or NoProbe.UNANSWERED)
            await self._look(watch)
            if watch.refusals < REFUSALS_NEEDED:
                return Look(again=timedelta(seconds=self._pause(watch) or self._apart()))
            self._drop(lease_id)
            return Look(evidence=Evidence.PROBE_DENIED)

    async def _look(self, watch: _Watch) -> None:
        """(2), (3): one more refusal of the row, or none."""
        if self._pause(watch):
            return
        answer = await self._try(watch)
        if answer is None:  # nobody was asked: the row stands
            return
        if isinstance(answer, Failure) and watch.call.refused(answer.status, answer.code):
            watch.refusals += 1
            watch.refused_at = self._clock.monotonic()
        else:
            watch.refusals = 0

    def _pause(self, watch: _Watch) -> float:
        """Seconds until a refusal would count."""
        if not watch.refusals:
            return 0.0
        return max(0.0, watch.refused_at + self._apart() - self._clock.monotonic())

    def _apart(self) -> float:
        return APART * max(1.0, len(self._looked_at) / LOOKED_AT)

    async def _try(self, watch: _Watch) -> Mapping[str, JsonValue] | Failure | None:
        """One call; None when it was not made: no free worker, or nobody answers there at the moment."""
        session = watch.session
        if session is None:
            return None
        target = (watch.call.service, session.region, session.endpoint_url)
        silent, since = self._silent.get(target, (0, 0.0))
        if silent >= SILENT_CALLS and self._clock.monotonic() < since + SILENCE:
            return None
        try:
            async with asyncio.timeout(LIMIT):
                answer = await self._call(session, watch.call.service, watch.call.operation, watch.parameters)
        except TimeoutError:
            answer = Failure(code="TookTooLong")
        if answer is BUSY:
            return None
        if isinstance(answer, Failure) and answer.code in _NO_ANSWER:
            self._silent[target] = (self._silent.get(target, (0, 0.0))[0] + 1, self._clock.monotonic())
        else:
            self._silent.pop(target, None)
        return answer

    def _watch(self, lease_id: str) -> _Watch | None:
        self._let_go()
        return self._kept.get(lease_id)

    def _let_go(self) -> None:
        now = self._clock.boottime()
        while self._overs and self._overs[0][0] <= now:
            over_at, lease_id = heapq.heappop(self._overs)
            watch = self._kept.get(lease_id)
            if watch is not None and watch.over_at <= over_at:
                self._drop(lease_id)

    def _drop(self, lease_id: str) -> None:
        self._kept.pop(lease_id, None)
        self._looked_at.discard(lease_id)
