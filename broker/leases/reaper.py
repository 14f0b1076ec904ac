"""Ends what nobody ends: silent steps, passed deadlines, expired and unclaimed leases.

Silence and claim windows are counted on CLOCK_BOOTTIME and from the epoch's start or the end of a stall,
so that neither a moved wall clock nor the broker's own absence ends a step.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from broker.leases import moves
from broker.leases.core import Core
from broker.leases.revoking import TIME_ENFORCED
from broker.leases.steps import Steps
from broker.log import get_logger
from broker.model import EndReason, Evidence, Lease, LeaseState, Step
from broker.store.base import Tx

log = get_logger(__name__)

TICK = 1.0  # seconds
STALL = 5.0  # a tick that comes this much late means that the process was stopped
FORGET_EVERY = 600.0  # seconds


class Reaper:
    """Looks around once a second."""

    def __init__(self, core: Core, steps: Steps) -> None:
        self._core = core
        self._steps = steps
        self._last_tick = core.clock.boottime()
        self._awake_since = core.clock.boottime()  # end of the last stall
        self._forgot = core.clock.boottime()

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
        for step in await core.store.read(lambda tx: tx.open_steps()):
            reason = self._why_ended(step)
            if reason is not None:
                log.info("step ended", step=step.id, reason=reason.value)
                await self._steps.end(step, reason=reason, by="reaper")
        await self._expire()
        if boot - self._forgot > FORGET_EVERY:
            self._forgot = boot
            await core.store.write(lambda tx: tx.forget_requests(core.clock.now()))

    def _why_ended(self, step: Step) -> EndReason | None:
        core = self._core
        if core.clock.now() >= step.deadline_at:
            return EndReason.DEADLINE
        heard = max(core.heard.get(step.id, 0.0), core.epoch.started_boot, self._awake_since)
        if core.clock.boottime() - heard > core.timings.silence_bound.total_seconds():
            return EndReason.SILENT
        return None

    async def _expire(self) -> None:
        core, at = self._core, self._core.clock.now()
        window = core.timings.claim_window
        awake = core.clock.boottime() - max(self._awake_since, core.epoch.started_boot)
        look_for_unclaimed = timedelta(seconds=awake) > window

        def look(tx: Tx) -> tuple[list[Lease], list[Lease]]:
            return tx.live_past(at), tx.unclaimed_since(at - window) if look_for_unclaimed else []

        past, unclaimed = await core.store.read(look)
        if not past and not unclaimed:
            return

        def operation(tx: Tx) -> list[str]:
            core.epoch.fence(tx)
            for lease in unclaimed:
                moves.withdraw(tx, lease, at=at, reason=EndReason.UNCLAIMED)
            return [lease.id for lease in past if _expire_one(tx, lease, at=at, skew=core.timings.clock_skew)]

        for lease_id in await core.store.write(operation):
            core.endings.tell(lease_id)
        core.lane.set()


def _expire_one(tx: Tx, lease: Lease, *, at: datetime, skew: timedelta) -> bool:
    """True when it is EXPIRED: only where the verifier enforces time, and the skew has passed too."""
    if lease.revocability in TIME_ENFORCED:
        return at >= lease.expires_at + skew and moves.end_lease(
            tx, lease, LeaseState.EXPIRED, evidence=Evidence.EXPIRED, at=at
        )
    moves.withdraw(tx, lease, at=at, reason=EndReason.LEASE_EXPIRED)
    return False
