"""The revocation lane: every REVOKING and IN_DOUBT lease is worked on until there is evidence (I5).

Never on a caller's context, without limit of attempts, with a bulkhead and a breaker per provider, so that one
dead provider cannot hold up another's revocations.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter, defaultdict
from collections.abc import Awaitable, Coroutine, Mapping
from datetime import timedelta
from typing import TypeVar

from broker.errors import StoreError
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.core import Core, ref_of
from broker.leases.epoch import EpochLost
from broker.log import get_logger
from broker.model import EndReason, Evidence, JsonValue, Lease, LeaseState, Revocability, Tier
from broker.providers.base import Progress, Provider, ProviderError, SettlesDoubt
from broker.store.base import Tx

log = get_logger(__name__)
T = TypeVar("T")

BULKHEAD = 16  # revocations in flight per provider
PAGE = 32  # of one provider under way, those waiting at the bulkhead included: a `high` one waits behind no more
ATTEMPT_LIMIT = 120.0  # seconds; providers' own timeouts are far shorter, and a hung call must not keep its place
IDLE = 1.0  # seconds between looks when nobody woke the lane
BUSY = 0.05  # seconds, while there is more than a page of work
FIRST_BACKOFF = 0.25  # seconds; doubled up to the cap, with jitter
BACKOFF_CAP = 60.0
OVERDUE = timedelta(minutes=1)  # DESIGN section 5: then it alarms
SET_BACK = 1.0  # seconds by which the wall clock goes back without anybody noticing

# Where the verifier itself enforces time, so that a clock is evidence (DESIGN section 5).
TIME_ENFORCED = frozenset({Revocability.DENY_POLICY, Revocability.EXPIRY_ONLY})


def backoff(attempts: int) -> float:
    """Seconds until the next attempt after `attempts` failed ones: exponential, capped, full jitter above half."""
    ceiling = min(BACKOFF_CAP, FIRST_BACKOFF * 2.0 ** min(attempts, 16))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter, not a secret


class RevocationLane:
    """Works off what must die."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._load: Counter[str] = Counter()  # provider → leases in `_busy`
        self._bulkheads: defaultdict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(BULKHEAD))
        self._overdue: set[str] = set()
        self._since: dict[str, float] = {}  # lease id → boottime of the first look at it
        self._drift = self._wall_over_boot()

    async def resume(self) -> None:
        """At the start of an epoch: everything unfinished is due at once."""
        leases = await self._core.store.read(lambda tx: tx.leases_in(LeaseState.REVOKING, LeaseState.IN_DOUBT))
        for lease in sorted(leases, key=lambda lease: lease.tier is not Tier.HIGH):
            self._start(lease)

    async def run(self) -> None:
        """Until cancelled."""
        core = self._core
        while True:
            core.lane.clear()
            started = 0
            try:
                started = await self.step()
            except Exception:  # a dead lane would leave credentials alive for ever
                log.exception("cannot read what is due for revocation")
            try:
                async with asyncio.timeout(IDLE if started < PAGE else BUSY):
                    await core.lane.wait()
            except TimeoutError:
                continue

    async def step(self) -> int:
        """Start what is due and not yet under way; returns how many."""
        drift, self._drift = self._drift, self._wall_over_boot()
        if self._drift < drift - SET_BACK:
            await self.resume()  # what was due in a minute would now be due in an hour
        return sum([self._start(lease) for lease in await self._due()])

    async def _due(self) -> list[Lease]:
        """A page beyond what is under way: one provider's stuck leases must not fill it and hide another's."""
        now = self._core.clock.now()
        full = [name for name, count in self._load.items() if count >= PAGE]
        limit = PAGE + sum(count for count in self._load.values() if count < PAGE)
        return await self._core.store.read(lambda tx: tx.due_leases(now, limit, without=full))

    @property
    def busy(self) -> bool:
        """Some revocation is in flight."""
        return bool(self._busy)

    async def cancel(self) -> None:
        """The process ends: what is in flight is idempotent, and the next epoch goes on."""
        for task in list(self._busy.values()):
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)

    def _start(self, lease: Lease) -> bool:
        if lease.id in self._busy:
            return False
        task = asyncio.create_task(self._work(lease), name=f"revoke {lease.id}")
        self._busy[lease.id] = task
        self._load[lease.provider] += 1
        task.add_done_callback(lambda _: self._done(lease))
        return True

    def _done(self, lease: Lease) -> None:
        self._busy.pop(lease.id, None)
        self._load[lease.provider] -= 1
        if self._load[lease.provider] == BULKHEAD // 2:
            self._core.lane.set()  # there may be another page

    def _wall_over_boot(self) -> float:
        return self._core.clock.now().timestamp() - self._core.clock.boottime()

    async def _work(self, lease: Lease) -> None:
        try:
            async with self._bulkheads[lease.provider]:
                await self._attempt(lease)
        except EpochLost:
            await self._core.clock.sleep(IDLE)  # a successor's lease now, or ours again when the epoch is
        except StoreError:
            log.warning("the end of a lease could not be written; trying again", lease=lease.id)
            await self._core.clock.sleep(backoff(lease.attempts))
        except Exception:
            log.exception("revocation failed unexpectedly", lease=lease.id)
            with contextlib.suppress(EpochLost, StoreError):  # then it stays due
                await self._defer(lease, problem="unexpected failure")

    async def _attempt(self, lease: Lease) -> None:
        """One attempt for one lease."""
        core = self._core
        self._looked(lease)
        if self._past_its_bound(lease):
            await self._end(lease, LeaseState.EXPIRED, Evidence.EXPIRED)
            return
        provider = core.providers.get(lease.provider)
        if provider is None:  # its block was taken out of the config while it had leases
            await self._defer(lease, problem="the provider is not configured at this broker", alarm=True)
            return
        try:
            if lease.state is LeaseState.IN_DOUBT:
                await self._settle(lease, provider)
                return
            progress = await self._ask(lease, provider.revoke(ref_of(lease)))
        except ProviderError as error:
            await self._defer(lease, problem=str(error))
            return
        if progress.evidence is not None:
            await self._end(lease, LeaseState.REVOKED, progress.evidence)
        else:
            await self._progressed(lease, progress)

    def _past_its_bound(self, lease: Lease) -> bool:
        published = lease.revocability is Revocability.PUBLISHED and lease.state is LeaseState.REVOKING
        if lease.revocability not in TIME_ENFORCED and not published:  # expired certificates are on no list
            return False
        bound = lease.expires_at + self._core.timings.clock_skew
        if lease.state is LeaseState.IN_DOUBT:
            provider = self._core.providers.get(lease.provider)
            late = provider.landing_seconds if isinstance(provider, SettlesDoubt) else 0.0
            bound += self._core.timings.mint_timeout + timedelta(seconds=late)
        return self._core.surely(lease.provider) >= bound

    async def _ask(self, lease: Lease, call: Awaitable[T]) -> T:
        """Measure and bound one call to a provider. Raises ProviderError."""
        core, answered = self._core, False
        breaker = core.breakers[lease.provider]
        if not breaker.admits(lease.id):
            _never_awaited(call)
            raise ProviderError("the provider gives no answer; one lease at a time asks again")
        begun = core.clock.monotonic()
        try:
            async with asyncio.timeout(ATTEMPT_LIMIT):
                result = await call
            answered = True
        except TimeoutError:
            raise ProviderError("the provider gave no answer in time") from None
        except ProviderError as error:
            answered = error.answered
            raise
        finally:
            took = timedelta(seconds=core.clock.monotonic() - begun)
            core.metrics.revocation(lease.provider, took, succeeded=answered)
            if not answered:
                breaker.failed(lease.id)
            elif breaker.answered():
                log.warning("provider answers again", provider=lease.provider)
                await self.resume()
        return result

    def _landing(self, lease: Lease) -> timedelta:
        """For how long from now a late mint may still land; zero or less: no more.

        Counted on boot time from the first look at the doubt: before it the mint had settled or its process had
        died. By the wall clock, the intent may be dated an hour before it was sent.
        """
        core, provider = self._core, self._core.providers.get(lease.provider)
        landing = provider.landing_seconds if isinstance(provider, SettlesDoubt) else 0.0
        return core.timings.mint_timeout + timedelta(seconds=landing) - self._looked(lease)

    def _looked(self, lease: Lease) -> timedelta:
        """Since the first look at it."""
        boot = self._core.clock.boottime()
        return timedelta(seconds=boot - self._since.setdefault(lease.id, boot))

    async def _settle(self, lease: Lease, provider: Provider) -> None:
        """Find out whether a mint in doubt landed; terminal only when a late one can no longer land."""
        if not isinstance(provider, SettlesDoubt):
            await self._defer(lease, problem="waits for its bound")
            return
        landing = self._landing(lease)
        settlement = await self._ask(lease, provider.settle(ref_of(lease), final=landing <= timedelta(0)))
        found = settlement.found or bool(lease.refs.get("found"))
        living = landing + (lease.expires_at - lease.intent_at)  # also what landed last
        if settlement.evidence is None:
            refs = dict(settlement.refs) | ({"found": True} if found else {})
            await self._defer(lease, problem="a late mint may still land", refs=refs, at_latest=landing)
        elif found:
            await self._end(lease, LeaseState.REVOKED, Evidence.SEEN_DEAD)
        elif settlement.evidence is not Evidence.EXPIRED:
            await self._end(lease, LeaseState.VOID, Evidence.NOT_MINTED)
        elif living <= timedelta(0):
            await self._end(lease, LeaseState.EXPIRED, Evidence.EXPIRED)
        else:
            await self._defer(lease, problem="cannot be looked for; its life must pass", at_least=living)

    async def _end(self, lease: Lease, state: LeaseState, evidence: Evidence) -> None:
        core = self._core

        def operation(tx: Tx) -> bool:
            core.epoch.fence(tx)
            at = core.clock.now()
            if lease.state is LeaseState.IN_DOUBT and state is LeaseState.REVOKED:
                moves.revoke_settled(tx, lease, at=at, reason=lease.end_reason or EndReason.MINT_FAILED)
            ended = moves.end_lease(tx, lease, state, evidence=evidence, at=at)
            if ended and state is LeaseState.VOID:
                core.guard.give_back(tx, lease, now=at)
            return ended

        if await core.store.write(operation):
            asked = lease.doomed_at or lease.revoking_at
            if asked is not None:
                took = max(core.clock.now() - asked, timedelta(0))
                core.metrics.dead(lease.provider, evidence, took)
            log.info("lease ended", lease=lease.id, scope=lease.scope, state=state.value, evidence=evidence.value)
        self._since.pop(lease.id, None)
        self._overdue.discard(lease.id)
        core.metrics.revoking_overdue(len(self._overdue))
        core.endings.tell(lease.id)

    async def _progressed(self, lease: Lease, progress: Progress) -> None:
        """No evidence yet. Where time is the end, come back when it has passed."""
        timed = lease.revocability in TIME_ENFORCED
        left = lease.expires_at + self._core.timings.clock_skew - self._core.clock.now() if timed else None
        await self._defer(lease, problem=progress.step or "not yet seen dead", refs=progress.refs, at_least=left)
        if timed:
            self._core.endings.tell(lease.id)

    async def _defer(
        self,
        lease: Lease,
        *,
        problem: str,
        refs: Mapping[str, JsonValue] | None = None,
        at_least: timedelta | None = None,
        at_latest: timedelta | None = None,
        alarm: bool = False,
    ) -> None:
        """Try again, with backoff. `alarm`: at once, instead of when it is overdue; once per lease, durably."""
        core = self._core
        pause = timedelta(seconds=backoff(lease.attempts))
        if at_least is not None:
            pause = max(pause, at_least)  # by a clock set forward it has passed already
        if at_latest is not None and at_latest > timedelta(0):
            pause = min(pause, at_latest)
        alarm = (alarm or self._is_overdue(lease)) and not lease.refs.get("alarmed")
        merged = dict(refs or {}) | ({"alarmed": True} if alarm else {})

        def operation(tx: Tx) -> None:
            core.epoch.fence(tx)
            at = core.clock.now()
            tx.defer(lease.id, next_try_at=at + pause, problem=problem, refs=merged)
            if problem != lease.last_problem:
                moves.record_lease(tx, Kind.LEASE_PROGRESS, lease, at=at, reason=problem)
            if alarm:
                moves.record_lease(tx, Kind.ALERT, lease, at=at, reason="REVOCATION_OVERDUE", data={"problem": problem})

        await core.store.write(operation)
        if alarm:
            log.error("revocation overdue", lease=lease.id, scope=lease.scope, problem=problem)

    def _is_overdue(self, lease: Lease) -> bool:
        """A lease that only time ends is not, nor a doubt while a late mint may land. Sets the gauge."""
        if lease.revocability in TIME_ENFORCED:
            return False
        late = self._looked(lease) - OVERDUE
        if lease.state is LeaseState.IN_DOUBT:
            late = -self._landing(lease) - OVERDUE
        elif lease.revoking_at is not None:  # perhaps long before this process began
            late = max(late, self._core.clock.now() - lease.revoking_at - OVERDUE)
        if late > timedelta(0):
            self._overdue.add(lease.id)
            self._core.metrics.revoking_overdue(len(self._overdue))
        return late > timedelta(0)


def _never_awaited(call: Awaitable[object]) -> None:
    if isinstance(call, Coroutine):
        call.close()
