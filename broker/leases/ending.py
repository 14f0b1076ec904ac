"""One attempt at ending one lease: ask its provider, and believe only evidence.

Without a limit of attempts, with a capped and jittered backoff per lease and a breaker per provider.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from broker.errors import StoreError
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.core import FOUND, ONLY_TIME, Core, ref_of
from broker.leases.cutting import cut_off
from broker.leases.owed import exposure, is_owed, remembered
from broker.log import get_logger
from broker.model import EndReason, Evidence, JsonValue, Lease, LeaseState, Revocability, past_expiry
from broker.providers.base import (
    Contact,
    CutOff,
    Progress,
    Provider,
    ProviderError,
    Settlement,
    SettlesDoubt,
)
from broker.store.base import Tx

log = get_logger(__name__)
T = TypeVar("T", Progress, Settlement)

ATTEMPT_LIMIT = 120.0  # seconds; providers' own timeouts are far shorter, and a hung call must not keep its place
FIRST_BACKOFF = 0.25  # seconds; doubled up to the cap, with jitter
BACKOFF_CAP = 60.0
LONE_CAP = 5.0  # DESIGN section 2, I5
STUCK = 4  # attempts: whoever ends after so many was waiting for something that is back
WAKE_EVERY = 5.0  # seconds between such wakings of a provider's leases
OVERDUE = timedelta(minutes=1)  # DESIGN section 5: then it alarms
RELOOK = timedelta(minutes=10)  # at a doubt that only waits for its time
OWED = timedelta(minutes=1)  # for a deny, before it is late
MIN_PAUSE = timedelta(seconds=1)


def backoff(attempts: int, *, waiting: int = 1000) -> float:
    """Seconds until the next attempt after `attempts` failed ones: exponential, capped, full jitter above half.

    `waiting`: how many leases wait. A few may ask often, so that no end waits long once its target is back; of many,
    one a second asks on the average, and the first that succeeds brings the others forward.
    """
    cap = min(BACKOFF_CAP, max(LONE_CAP, float(waiting)))
    ceiling = min(cap, FIRST_BACKOFF * 2.0 ** min(attempts, 16))
    return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter, not a secret


class Ending:
    """Holds how long it has known each lease, and what only it knows of it."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._overdue: set[str] = set()
        self._found: set[str] = set()  # doubts that had landed, also when the disk did not take that
        self._since: dict[str, float] = {}  # lease id → boottime of the first look at it
        self._cuts: dict[tuple[str, str], datetime] = {}  # what was cut off → the last time, done and told
        self._woken: dict[str, float] = {}  # provider → boottime when its leases were last brought forward

    async def attempt(self, lease: Lease) -> None:
        """One attempt. Raises EpochLost, StoreError: nothing was decided."""
        core = self._core
        self._looked(lease)
        if self._is_over(lease):
            await self._end(lease, LeaseState.EXPIRED, Evidence.EXPIRED)
            return
        provider = core.providers.get(lease.provider)
        if provider is None:  # its block was taken out of the config while it had leases
            await self.defer(lease, problem="the provider is not configured at this broker", alarm=True)
            return
        try:
            if lease.state is LeaseState.IN_DOUBT:
                await self._settle(lease, provider)
                return
            progress = await self._ask(lease, provider.revoke(ref_of(lease)))
        except ProviderError as error:
            await self.defer(lease, problem=str(error))
            return
        if progress.evidence is not None:
            await self._end(lease, LeaseState.REVOKED, progress.evidence)
        else:
            await self._progressed(lease, progress)

    async def defer(
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
        pause = timedelta(seconds=backoff(lease.attempts, waiting=len(self._since)))
        if at_least is not None:
            pause = max(pause, at_least)  # by a clock set forward it has passed already
        if at_latest is not None and at_latest > timedelta(0):
            pause = min(pause, at_latest)
        owed, alarmed = is_owed(lease, refs or {}), bool(lease.refs.get("alarmed"))
        alarm = (self._is_overdue(lease, owed=owed) or alarm) and not alarmed
        if not alarm and not alarmed and at_least is None:  # the next look is not long after the alarm is due
            pause = min(pause, max(OVERDUE - self._late(lease, owed=owed), MIN_PAUSE))
        merged = remembered(lease, refs or {}, alarm=alarm)

        def operation(tx: Tx) -> bool:
            core.epoch.fence(tx)
            at = core.clock.now()
            if not tx.defer(lease.id, next_try_at=at + pause, problem=problem, refs=merged):
                return False
            if problem != lease.last_problem:
                moves.record_lease(tx, Kind.LEASE_PROGRESS, lease, at=at, reason=problem, data=exposure(lease, merged))
            if alarm:
                moves.record_lease(tx, Kind.LEASE_OVERDUE, lease, at=at, data={"problem": problem})
            return True

        if not await core.store.write(operation, quick=True):
            self._forget(lease)  # it has ended by another way
        elif alarm:
            log.error("revocation overdue", lease=lease.id, scope=lease.scope, problem=problem)

    # --- asking ---

    async def _ask(self, lease: Lease, call: Coroutine[Any, Any, T]) -> T:
        """Measure and bound one call to a provider. Raises ProviderError."""
        core = self._core
        breaker, begun = core.breakers[lease.provider], core.clock.monotonic()
        if not breaker.admits(lease.id):
            call.close()
            raise ProviderError("the provider gives no answer; one lease at a time asks again")
        contact = Contact.NONE  # whatever ends it by surprise proves no answer
        try:
            async with asyncio.timeout(ATTEMPT_LIMIT):
                result = await call
            contact = result.contact
        except TimeoutError:
            raise ProviderError("the provider gave no answer in time", Contact.NONE) from None
        except ProviderError as error:
            contact = error.contact
            raise
        finally:
            if contact is Contact.NOT_ASKED:
                breaker.skipped(lease.id)
            else:
                took = timedelta(seconds=core.clock.monotonic() - begun)
                core.metrics.revocation(lease.provider, took, succeeded=contact is Contact.ANSWERED)
                await self._heard(lease, contact)
        return result

    async def _heard(self, lease: Lease, contact: Contact) -> None:
        if contact is Contact.ANSWERED:
            await self._core.answered(lease.provider)
        else:
            self._core.breakers[lease.provider].failed(lease.id, silent=contact is Contact.NONE)

    async def _settle(self, lease: Lease, provider: Provider) -> None:
        """Find out whether a mint in doubt landed; terminal only when a late one can no longer land."""
        if not isinstance(provider, SettlesDoubt):
            await self.defer(lease, problem="waits for its bound")
            return
        landing = self._landing(lease)
        settlement = await self._settlement(lease, provider, final=landing <= timedelta(0))
        living = landing + (lease.expires_at - lease.intent_at)  # also what landed last
        if settlement.evidence is None and landing <= timedelta(0) and lease.revocability.ends_by_time:
            # What is denied rests. It is looked at now and then: the deny may be taken away.
            rest = None if is_owed(lease, settlement.refs) else min(self._left(lease), RELOOK)
            await self.defer(lease, problem="waits for its bound", refs=settlement.refs, at_least=rest)
        elif settlement.evidence is None:
            await self.defer(lease, problem="a late mint may still land", refs=settlement.refs, at_latest=landing)
        elif self._had_landed(lease):
            await self._end(lease, LeaseState.REVOKED, Evidence.SEEN_DEAD)
        elif settlement.evidence is not Evidence.EXPIRED:
            await self._end(lease, LeaseState.VOID, Evidence.NOT_MINTED)
        elif living <= timedelta(0):
            await self._end(lease, LeaseState.EXPIRED, Evidence.EXPIRED)
        else:
            await self.defer(lease, problem="cannot be looked for; its life must pass", at_least=living)

    async def _settlement(self, lease: Lease, provider: SettlesDoubt, *, final: bool) -> Settlement:
        """What is found is first put on record, then killed: a charge for what existed is never given back (I4)."""
        ref = replace(ref_of(lease), found=self._had_landed(lease))
        settlement = await self._ask(lease, provider.settle(ref, final=final))
        if not settlement.found or lease.refs.get(FOUND):
            return settlement
        self._found.add(lease.id)
        refs = {**lease.refs, **settlement.refs, FOUND: True}
        try:
            await self._core.store.write(lambda tx: self._record_found(tx, lease, refs), quick=True)
        except StoreError:  # better dead without a record than recorded and alive
            log.warning("a credential that was found could not be recorded before its end", lease=lease.id)
        return await self._ask(lease, provider.settle(replace(ref, refs=refs, found=True), final=final))

    def _had_landed(self, lease: Lease) -> bool:
        return lease.id in self._found or bool(lease.refs.get(FOUND))

    def _record_found(self, tx: Tx, lease: Lease, refs: Mapping[str, JsonValue]) -> None:
        self._core.epoch.fence(tx)
        at = self._core.clock.now()
        tx.defer(lease.id, next_try_at=at, problem=lease.last_problem, refs=refs)
        moves.record_lease(tx, Kind.LEASE_PROGRESS, lease, at=at, reason="the mint had landed")

    # --- what came of it ---

    async def _end(self, lease: Lease, state: LeaseState, evidence: Evidence) -> None:
        core = self._core

        def operation(tx: Tx) -> tuple[bool, Lease | None]:
            core.epoch.fence(tx)
            at = core.clock.now()
            if lease.state is LeaseState.IN_DOUBT and state is LeaseState.REVOKED:
                moves.revoke_settled(tx, lease, at=at, reason=lease.end_reason or EndReason.MINT_FAILED)
            ended = moves.end_lease(tx, lease, state, evidence=evidence, at=at)
            if ended and state is LeaseState.VOID:
                core.give_back(tx, lease)
            if not ended or not core.endings.awaited(lease.id):
                return ended, None
            return True, _ended(tx, lease, state, evidence, at=at)

        ended, row = await core.store.write(operation, quick=True)
        if ended:
            asked = lease.doomed_at or lease.revoking_at
            if asked is not None:
                took = max(core.clock.now() - asked, timedelta(0))
                core.metrics.dead(lease.provider, evidence, took)
            log.info("lease ended", lease=lease.id, scope=lease.scope, state=state.value, evidence=evidence.value)
        self._forget(lease)
        core.endings.tell(lease.id, row)
        await self._bring_forward(lease)

    async def _bring_forward(self, lease: Lease) -> None:
        """What had kept this one from ending is over, perhaps for others too; unless it was time."""
        boot = self._core.clock.boottime()
        if lease.revocability.ends_by_time:
            return
        if lease.attempts < STUCK or boot - self._woken.get(lease.provider, float("-inf")) < WAKE_EVERY:
            return
        self._woken[lease.provider] = boot
        await self._core.make_due(provider=lease.provider)

    def _forget(self, lease: Lease) -> None:
        self._since.pop(lease.id, None)
        self._found.discard(lease.id)
        self._overdue.discard(lease.id)
        self._core.metrics.revoking_overdue(len(self._overdue))

    async def _progressed(self, lease: Lease, progress: Progress) -> None:
        """No evidence yet. Where time is the end, come back when it has passed."""
        timed = lease.revocability.ends_by_time
        left = self._left(lease) if timed else None
        if left is not None and progress.again is not None:
            left = min(left, progress.again)
        refs = {**progress.refs, ONLY_TIME: True} if timed else progress.refs
        if progress.cut_off is not None:
            await self._cut_off(lease, progress.cut_off)
        step, again = progress.step or "not yet seen dead", progress.again
        # A look that is due is no failure to back off from: a deny that takes a minute would be seen minutes late.
        await self.defer(lease, problem=step, refs=refs, at_least=left, at_latest=again)
        if timed:
            self._core.endings.tell(lease.id)

    async def _cut_off(self, lease: Lease, cut: CutOff) -> None:
        """Once: each lease that was ended by it comes with it."""
        done = self._cuts.get((cut.param, cut.value))
        if done is None or done < cut.before:
            await cut_off(self._core, lease, cut)
            self._cuts[cut.param, cut.value] = cut.before

    # --- time ---

    def _is_over(self, lease: Lease) -> bool:
        """Has its time passed, by its verifier's clock and by elapsed time? Expired certificates are on no list."""
        published = lease.revocability is Revocability.PUBLISHED and lease.state is LeaseState.REVOKING
        if not (lease.revocability.ends_by_time or published) or self._past_bound(lease) < timedelta(0):
            return False
        return self._core.surely(lease.provider) >= lease.expires_at + self._slack(lease)

    def _past_bound(self, lease: Lease) -> timedelta:
        """For how long its verifier lets it in no more, by elapsed time; negative before."""
        return past_expiry(lease, self._core.clock.moment()) - self._slack(lease)

    def _left(self, lease: Lease) -> timedelta:
        """Until time is its end, by the wall clock."""
        return lease.expires_at + self._slack(lease) - self._core.clock.now()

    def _slack(self, lease: Lease) -> timedelta:
        """Beyond its expiry: between clocks, and for a doubt until nothing lands."""
        skew = self._core.timings.clock_skew
        return skew + self._landing_time(lease) if lease.state is LeaseState.IN_DOUBT else skew

    def _landing_time(self, lease: Lease) -> timedelta:
        """How long after its intent a mint may land."""
        provider = self._core.providers.get(lease.provider)
        landing = provider.landing_seconds if isinstance(provider, SettlesDoubt) else 0.0
        return self._core.timings.mint_timeout + timedelta(seconds=landing)

    def _landing(self, lease: Lease) -> timedelta:
        """For how long from now a late mint may still land; zero or less: no more.

        Counted on boot time from the first look at the doubt: before it the mint had settled or its process had
        died. By the wall clock, the intent may be dated an hour before it was sent.
        """
        return self._landing_time(lease) - self._looked(lease)

    def _looked(self, lease: Lease) -> timedelta:
        """Since the first look at it."""
        boot = self._core.clock.boottime()
        return timedelta(seconds=boot - self._since.setdefault(lease.id, boot))

    def _is_overdue(self, lease: Lease, *, owed: bool) -> bool:
        """Sets the gauge."""
        overdue = self._late(lease, owed=owed) > OVERDUE
        (self._overdue.add if overdue else self._overdue.discard)(lease.id)
        self._core.metrics.revoking_overdue(len(self._overdue))
        return overdue

    def _late(self, lease: Lease, *, owed: bool) -> timedelta:
        """For how long there should have been evidence: a doubt has until nothing lands, a timed one until its bound.

        `owed`: a deny that its scope promises is not written. One of unknown outcome takes a minute.
        """
        if owed:
            return max(self._looked(lease) - OWED, self._past_bound(lease))
        if lease.revocability.ends_by_time:
            return self._past_bound(lease)  # its own verifier's time may never be heard
        if lease.state is LeaseState.IN_DOUBT:
            return -self._landing(lease)
        looked = self._looked(lease)
        if lease.revoking_at is None:
            return looked
        return max(looked, self._core.epoch.surely() - lease.revoking_at)  # perhaps long before this process began


def _ended(tx: Tx, lease: Lease, state: LeaseState, evidence: Evidence, *, at: datetime) -> Lease | None:
    """The row of one that has just ended, for those who wait.

    Of one that is REVOKING nothing changes any more but by its attempts; a doubt may have been doomed since it was read.
    """
    if lease.state is not LeaseState.REVOKING:
        return tx.lease(lease.id)
    return replace(lease, state=state, evidence=evidence, ended_at=at, nonce=b"", next_try_at=None)
