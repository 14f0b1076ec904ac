"""Hearing from a step, and ending it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.errors import BrokerError, StoreError
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.bulkhead import Turnstile
from broker.leases.core import (
    Core,
    known_request,
    must_be_open,
    payload_hash,
)
from broker.leases.lane import RevocationLane
from broker.log import get_logger
from broker.model import Agent, EndReason, Lease, LeaseState, Step
from broker.store.base import Tx

log = get_logger(__name__)

# Whatever holds the store's writer for more than a few ms holds up everybody's calls:
TOGETHER = 25  # steps or leases ended in one transaction
AT_ONCE = 32  # leases asked to die by calls of EndStep that are written at the same time


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """What Heartbeat answers."""

    deadline_at: datetime
    ended: tuple[str, ...]


class Steps:
    """The life of a step."""

    def __init__(self, core: Core, lane: RevocationLane) -> None:
        self._core = core
        self._lane = lane
        self._turnstile = Turnstile(AT_ONCE)

    async def heartbeat(self, agent: Agent, handle: str, held: Sequence[str]) -> Beat:
        """Keep the step alive; the leases named are *claimed*."""
        core = self._core
        step = await core.step_of(agent, handle)
        must_be_open(step)
        core.heard[step.id] = core.clock.boottime()
        ended, retired = await core.store.write(lambda tx: self._beat(tx, step, frozenset(held)), quick=True)
        if retired:
            core.lane.set()
        core.epoch.must_be_fresh()
        return Beat(deadline_at=step.deadline_at, ended=ended)

    def _beat(self, tx: Tx, step: Step, held: frozenset[str]) -> tuple[tuple[str, ...], bool]:
        """Which of those held have ended, and whether one was asked to die."""
        core, at = self._core, self._core.clock.now()
        core.enter(tx)
        tx.must_be_quick(len(held))
        must_be_open(tx.step(step.id) or step)
        tx.beat(step.id, at)
        retired = False
        live = {lease.id: lease for lease in tx.leases_of(step.id, LeaseState.ACTIVE)}
        for lease in (live[lease_id] for lease_id in held & live.keys()):
            if lease.claimed_at is None and tx.claim(lease.id, at):
                moves.record_lease(tx, Kind.LEASE_CLAIMED, lease, at=at)
                retired |= self._retire_older(tx, lease, at=at)
        return tuple(sorted(held - live.keys())), retired

    def _retire_older(self, tx: Tx, successor: Lease, *, at: datetime) -> bool:
        """The older lease goes once its successor is in the client's hands."""
        older = tx.lease(successor.replaces) if successor.replaces else None
        return older is not None and moves.withdraw(tx, older, at=at, reason=EndReason.REPLACED)

    async def end_all(self, asked: Sequence[tuple[Step, EndReason]], *, by: str) -> list[Step]:
        """End open steps, many in one transaction: one commit each would let those at the end of a queue live on.

        Returns those that were ended; one that cannot be keeps none of the others alive.
        """
        ended: list[Step] = []
        for start in range(0, len(asked), TOGETHER):
            page = asked[start : start + TOGETHER]
            done = await self._end_together(page, by=by)
            if done is None:
                done = [step for one in page for step in await self._end_together([one], by=by) or ()]
            ended += done
        return ended

    async def _end_together(self, page: Sequence[tuple[Step, EndReason]], *, by: str) -> list[Step] | None:
        """In one transaction; None when that fails."""
        core = self._core

        def operation(tx: Tx) -> list[Step]:
            core.enter(tx)
            at = core.clock.now()
            return [step for step, reason in page if moves.end_step(tx, step, at=at, reason=reason, by=by) is not None]

        try:
            ended = await core.store.write(operation)
        except (BrokerError, StoreError):
            log.warning("steps could not be ended; they are tried again", steps=[step.id for step, _ in page])
            return None
        core.lane.set()
        reasons = {step.id: reason.value for step, reason in page}
        for step in ended:
            core.heard.pop(step.id, None)
            log.info("step ended", step=step.id, reason=reasons[step.id])
        return ended

    async def end(self, caller: Agent, handle: str, *, request_id: str) -> list[Lease]:
        """End the caller's step, if it is open; its leases are asked to die. Returns all leases of the step."""
        core = self._core

        def operation(tx: Tx) -> tuple[Step, list[Lease]]:
            core.enter(tx)
            step = core.step_to_end(tx, caller, handle)
            digest = payload_hash("EndStep", step.id)
            if known_request(tx, caller.spiffe_id, request_id, digest) is None:
                core.remember(tx, step, caller=caller, method="EndStep", request_id=request_id, digest=digest)
            moves.end_step(tx, step, at=core.clock.now(), reason=EndReason.STEP_ENDED, by=caller.spiffe_id)
            return step, tx.leases_of(step.id)

        count: int | None = None
        await self._turnstile.enter()
        try:
            step, leases = await core.store.write(operation, quick=True)
            count = len(leases)
        finally:
            self._turnstile.leave(count)
        core.heard.pop(step.id, None)
        self._lane.take(leases)
        return leases
