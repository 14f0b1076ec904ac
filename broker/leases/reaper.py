"""Ends what nobody ends: silent steps, passed deadlines, expired and unclaimed leases.

Silence and claim windows are counted on CLOCK_BOOTTIME and from the epoch's start, the end of a stall or the
first look, so that neither a moved wall clock nor the broker's own absence ends a step. Deadlines and expiries go by
elapsed time within one boot, and by the wall clock only after a reboot.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from functools import partial

from broker.clock import Moment
from broker.leases import moves
from broker.leases.approving import end, expired
from broker.leases.core import Core
from broker.leases.steps import TOGETHER, Steps
from broker.log import get_logger
from broker.model import EndReason, Evidence, Lease, LeaseState, Step, past_deadline, past_expiry
from broker.store.approvals import ApprovalState
from broker.store.base import Tx

log = get_logger(__name__)

TICK = 1.0  # seconds
STALL = 5.0  # a tick that comes this much late means that the process was stopped
SPELL = 1.5  # seconds for each of the three kinds of ends in one round; together less than a stall
FORGET_EVERY = 600.0  # seconds
COUNT_EVERY = 5.0  # seconds between settings of the gauges
UNHEARD = timedelta(seconds=5)  # past its bound: a verifier's clock that was heard is at most seconds behind


class Reaper:
    """Looks around once a second."""

    def __init__(self, core: Core, steps: Steps) -> None:
        self._core = core
        self._steps = steps
        self._last_tick = core.clock.boottime()
        self._awake_since = core.clock.boottime()  # end of the last stall
        self._forgot = core.clock.boottime()
        self._counted = float("-inf")
        self._unclaimed: dict[str, float] = {}  # lease id → boottime of the first look at it

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self._core.clock.sleep(TICK)
            try:
                await self.tick()
            except Exception:  # a dead reaper would leave silent steps alive for ever
                log.exception("reaper could not finish its round")

    async def tick(self) -> None:
        """One round."""
        core, boot = self._core, self._core.clock.boottime()
        if boot - self._last_tick > TICK + STALL:
            self._awake_since = boot
        self._last_tick = boot
        await self._count(boot)
        if not core.epoch.fresh():
            return  # nothing can be written
        await self._end_steps(boot)
        await self._expire(boot)
        if boot - self._forgot > FORGET_EVERY:
            self._forgot = boot
            await core.store.write(lambda tx: tx.forget_requests(core.clock.now()))

    async def _count(self, boot: float) -> None:
        core = self._core
        if boot - self._counted < COUNT_EVERY:
            return
        self._counted = boot
        leases, steps, control = await core.store.read(
            lambda tx: (tx.lease_counts(), tx.open_step_count(), tx.control())
        )
        core.metrics.frozen(frozen=control.frozen)
        core.metrics.lease_counts(leases)
        core.metrics.steps_open(steps)
        await self._end_approvals()

    async def _end_approvals(self) -> None:
        """What nobody decided or used in time."""
        core, now = self._core, self._core.clock.moment()
        if not core.epoch.fresh() or not await core.store.read(lambda tx: expired(tx, now)):
            return

        def operation(tx: Tx) -> None:
            core.epoch.fence(tx)
            for approval in expired(tx, now):
                end(tx, approval, ApprovalState.EXPIRED, now)

        await core.store.write(operation)

    async def _end_steps(self, boot: float) -> None:
        core = self._core
        heard_before, now = set(core.heard), core.clock.moment()
        open_ = await core.store.read(lambda tx: tx.open_step_ids(now))
        for gone in heard_before - open_.keys():
            core.heard.pop(gone, None)
        for step_id in open_.keys() - heard_before:
            # Seen for the first time: begun an instant ago, before a restart, or by a caller who then vanished.
            core.heard.setdefault(step_id, boot)
        silent_since = boot - min(core.timings.silence_bound, core.timings.start_within).total_seconds()
        counted_from = max(core.epoch.started_boot, self._awake_since)
        asked = [
            step_id
            for step_id, past in open_.items()
            if past or max(core.heard.get(step_id, 0.0), counted_from) < silent_since
        ]
        for page in self._pages(asked):  # whole rows of these alone: nearly all steps are neither silent nor over
            steps = await core.store.read(partial(_steps, page))
            over = [(step, reason) for step in steps if (reason := self._why_ended(step))]
            await self._steps.end_all(over, by="reaper")

    def _why_ended(self, step: Step) -> EndReason | None:
        core = self._core
        if past_deadline(step, core.clock.moment()) >= timedelta(0):
            return EndReason.DEADLINE
        heard = max(core.heard.get(step.id, 0.0), core.epoch.started_boot, self._awake_since)
        if core.clock.boottime() - heard > core.silence_bound(step).total_seconds():
            return EndReason.SILENT
        return None

    async def _expire(self, boot: float) -> None:
        core, now = self._core, self._core.clock.moment()
        past, unclaimed = await core.store.read(lambda tx: (tx.live_past(now), tx.unclaimed()))
        self._unclaimed = {lease_id: self._unclaimed.get(lease_id, boot) for lease_id in unclaimed}
        for page in self._pages([one for one, since in self._unclaimed.items() if self._window_over(since, boot)]):
            await self._end_unclaimed(page)
        for page in self._pages(past):
            await self._end_past(page, now)

    async def _end_unclaimed(self, page: Sequence[str]) -> None:
        core = self._core

        def operation(tx: Tx) -> None:
            core.epoch.fence(tx)
            for lease in filter(None, map(tx.lease, page)):
                if lease.claimed_at is None:  # still: a heartbeat may have come in between
                    moves.withdraw(tx, lease, at=core.clock.now(), reason=EndReason.UNCLAIMED)

        await core.store.write(operation)
        core.lane.set()

    async def _end_past(self, page: Sequence[str], now: Moment) -> None:
        core, skew = self._core, self._core.timings.clock_skew
        rows = await core.store.read(lambda tx: [*filter(None, map(tx.lease, page))])
        fates = [(row, _fate(row, now=now, surely=core.surely(row.provider), skew=skew)) for row in rows]
        due = [(row, fate) for row, fate in fates if fate is not None]
        if not due:
            return

        def operation(tx: Tx) -> list[str]:
            core.epoch.fence(tx)
            return [row.id for row, fate in due if _end_one(tx, row, fate, at=core.clock.now())]

        for lease_id in await core.store.write(operation):
            core.endings.tell(lease_id)
        core.lane.set()

    def _pages(self, ids: Sequence[str]) -> Iterator[Sequence[str]]:
        """Each a transaction of its own: thousands that are due at once must not hold up who asks for something.

        What takes too long is left for the next round.
        """
        until = self._core.clock.monotonic() + SPELL
        for start in range(0, len(ids), TOGETHER):
            if self._core.clock.monotonic() > until:
                return
            yield ids[start : start + TOGETHER]

    def _window_over(self, since: float, boot: float) -> bool:
        counted_from = max(since, self._awake_since, self._core.epoch.started_boot)
        return boot - counted_from > self._core.timings.claim_window.total_seconds()


def _steps(page: Sequence[str], tx: Tx) -> list[Step]:
    return [*filter(None, map(tx.step, page))]


def _fate(lease: Lease, *, now: Moment, surely: datetime, skew: timedelta) -> LeaseState | None:
    """EXPIRED only where the verifier enforces time, and its bound has surely passed. None: not yet.

    When the verifier's time cannot be heard it is the lane's, which goes on asking and alarms.
    """
    over = past_expiry(lease, now)
    if lease.state is not LeaseState.ACTIVE:
        return None  # it has been asked to die since
    if lease.revocability.ends_by_time and over >= skew and surely >= lease.expires_at + skew:
        return LeaseState.EXPIRED
    if lease.revocability.ends_by_time and over < skew + UNHEARD:
        return None
    return LeaseState.REVOKING


def _end_one(tx: Tx, lease: Lease, fate: LeaseState, *, at: datetime) -> bool:
    """True when it is EXPIRED."""
    if fate is LeaseState.EXPIRED:
        return moves.end_lease(tx, lease, fate, evidence=Evidence.EXPIRED, at=at)
    moves.withdraw(tx, lease, at=at, reason=EndReason.LEASE_EXPIRED)
    return False
