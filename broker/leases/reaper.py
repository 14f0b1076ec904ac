"""Ends what nobody ends: silent steps, passed deadlines, expired and unclaimed leases.

Silence and claim windows are counted on CLOCK_BOOTTIME and from the epoch's start, the end of a stall or the
first look, so that neither a moved wall clock nor the broker's own absence ends a step. Deadlines go by the wall
clock; when it is set, those known by then go on by boot time, for as long as they had left.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import partial

from broker.leases import moves
from broker.leases.core import Core
from broker.leases.steps import Steps
from broker.log import get_logger
from broker.model import EndReason, Evidence, Lease, LeaseState, Step
from broker.store.base import Tx

log = get_logger(__name__)

TICK = 1.0  # seconds
STALL = 5.0  # a tick that comes this much late means that the process was stopped
FORGET_EVERY = 600.0  # seconds
COUNT_EVERY = 5.0  # seconds between settings of the gauges
CLOCK_SET = 1.0  # seconds; more than NTP's slewing moves the clock in a tick
UNHEARD = timedelta(seconds=5)  # past its bound: a verifier's clock that was heard is at most seconds behind
_EVER = datetime.max.replace(tzinfo=UTC)


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
        self._drift = self._wall_over(core.clock.boottime())
        self._ends: dict[str, float] = {}  # step or lease id → boottime of its end, since the clock was set

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
        await self._follow_clock(boot)
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
        leases, steps = await core.store.read(lambda tx: (tx.lease_counts(), tx.open_step_count()))
        core.metrics.lease_counts(leases)
        core.metrics.steps_open(steps)

    def _wall_over(self, boot: float) -> float:
        return self._core.clock.now().timestamp() - boot

    async def _follow_clock(self, boot: float) -> None:
        drift = self._wall_over(boot)
        jump = drift - self._drift
        if abs(jump) < CLOCK_SET:
            self._drift = drift  # slewed
            return
        core = self._core
        was = core.clock.now() - timedelta(seconds=jump)
        leases, steps = await core.store.read(lambda tx: (tx.leases_in(LeaseState.ACTIVE), tx.open_steps()))
        spans = {lease.id: (lease.intent_at, lease.expires_at) for lease in leases}
        spans |= {step.id: (step.opened_at, step.deadline_at) for step in steps}
        # No longer than its whole life: it may have begun in the instant since the clock was set.
        left = {name: min(until - was, until - since) for name, (since, until) in spans.items()}
        self._ends = {name: self._ends.get(name, boot + span.total_seconds()) for name, span in left.items()}
        self._drift = drift
        log.warning("the wall clock was set; what is known goes on by elapsed time", seconds=round(jump, 3))

    async def _end_steps(self, boot: float) -> None:
        core = self._core
        heard_before = set(core.heard)
        steps = await core.store.read(lambda tx: tx.open_steps())
        for gone in heard_before - {step.id for step in steps}:
            core.heard.pop(gone, None)
        for step in steps:
            # Seen for the first time: begun an instant ago, before a restart, or by a caller who then vanished.
            core.heard.setdefault(step.id, boot)
        over = [(step, reason) for step in steps if (reason := self._why_ended(step))]
        await self._steps.end_all(over, by="reaper")

    def _why_ended(self, step: Step) -> EndReason | None:
        core = self._core
        ends = self._ends.get(step.id)
        if core.clock.now() >= step.deadline_at if ends is None else core.clock.boottime() >= ends:
            return EndReason.DEADLINE
        heard = max(core.heard.get(step.id, 0.0), core.epoch.started_boot, self._awake_since)
        if core.clock.boottime() - heard > core.timings.silence_bound.total_seconds():
            return EndReason.SILENT
        return None

    async def _expire(self, boot: float) -> None:
        core, at = self._core, self._core.clock.now()
        past, unclaimed = await core.store.read(lambda tx: (self._past(tx, at, boot), tx.unclaimed_since(_EVER)))
        self._unclaimed = {lease.id: self._unclaimed.get(lease.id, boot) for lease in unclaimed}
        lost = [lease_id for lease_id, since in self._unclaimed.items() if self._window_over(since, boot)]
        if not past and not lost:
            return
        expire = partial(_expire_one, at=at, skew=core.timings.clock_skew)
        surely = {lease.provider: core.surely(lease.provider) for lease, _ in past}

        def operation(tx: Tx) -> list[str]:
            core.epoch.fence(tx)
            for lease in filter(None, map(tx.lease, lost)):
                if lease.claimed_at is None:  # still: a heartbeat may have come in between
                    moves.withdraw(tx, lease, at=at, reason=EndReason.UNCLAIMED)
            return [lease.id for lease, over in past if expire(tx, lease, over=over, surely=surely[lease.provider])]

        for lease_id in await core.store.write(operation):
            core.endings.tell(lease_id)
        core.lane.set()

    def _past(self, tx: Tx, at: datetime, boot: float) -> list[tuple[Lease, timedelta]]:
        """ACTIVE leases whose time is over, by the one clock or the other, and for how long."""
        known = [(tx.lease(name), timedelta(seconds=boot - end)) for name, end in self._ends.items() if end <= boot]
        return [(lease, over) for lease, over in known if lease is not None and lease.state is LeaseState.ACTIVE] + [
            (lease, at - lease.expires_at) for lease in tx.live_past(at) if lease.id not in self._ends
        ]

    def _window_over(self, since: float, boot: float) -> bool:
        counted_from = max(since, self._awake_since, self._core.epoch.started_boot)
        return boot - counted_from > self._core.timings.claim_window.total_seconds()


def _expire_one(tx: Tx, lease: Lease, *, at: datetime, over: timedelta, surely: datetime, skew: timedelta) -> bool:
    """True when it is EXPIRED: only where the verifier enforces time, and its bound has surely passed.

    When the verifier's time cannot be heard it is the lane's, which goes on asking and alarms.
    """
    if lease.revocability.ends_by_time and surely >= lease.expires_at + skew:
        return moves.end_lease(tx, lease, LeaseState.EXPIRED, evidence=Evidence.EXPIRED, at=at)
    if lease.revocability.ends_by_time and over < skew + UNHEARD:
        return False
    moves.withdraw(tx, lease, at=at, reason=EndReason.LEASE_EXPIRED)
    return False
