"""The lease engine: what the rpc layer calls, and what runs by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta

from broker.errors import StoreError, access_denied
from broker.identity.door import FrontDoor
from broker.leases import moves
from broker.leases.admission import Admission
from broker.leases.answers import refused
from broker.leases.beginning import Beginning, Opened, ScopeAnswer, with_references
from broker.leases.committing import Delivered
from broker.leases.core import Core, check_request_id, known_request, payload_hash
from broker.leases.issuing import Asking, Issuing
from broker.leases.lane import RevocationLane
from broker.leases.minting import Minter
from broker.leases.opening import Opening
from broker.leases.orders import Orders
from broker.leases.outcomes import Outcome, wait_for_evidence
from broker.leases.policy_sweep import PolicySweep
from broker.leases.reaper import Reaper
from broker.leases.refusals import Refusals
from broker.leases.steps import Beat, Steps
from broker.log import get_logger
from broker.model import Agent, EndReason, Lease, LeaseState, StepKey
from broker.policy.decision import Denied
from broker.store.base import Tx

log = get_logger(__name__)

DRAIN_PAGE = 1000  # leases looked at, to see whether there is still work that can be done
LOOK_AT_EPOCH = 1.0  # seconds
FLUSH_EVERY = 5.0  # seconds between writes of counted refusals


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """What EndStep and RevokeLease answer."""

    outcomes: tuple[Outcome, ...]

    @property
    def all_proven(self) -> bool:
        """Every lease has evidence."""
        return all(outcome.evidence is not None for outcome in self.outcomes)


class Engine:
    """Steps and leases of one daemon."""

    def __init__(self, core: Core, refusals: Refusals, door: FrontDoor | None = None) -> None:
        self._core = core
        self._refusals = refusals
        self._minter = Minter(core)
        self._beginning = Beginning(core)
        self._lane = RevocationLane(core, lambda: self._minter.busy)
        self._steps = Steps(core, self._lane)
        self._issuing = Issuing(core, self._minter)
        self._reaper = Reaper(core, self._steps)
        self._sweep = PolicySweep(core)
        self._admission = Admission(core, self._steps, door) if door else None
        self._tasks: list[asyncio.Task[None]] = []
        self.orders = Orders(core, self._steps)

    @property
    def draining(self) -> bool:
        """No new steps and intents."""
        return self._core.draining.is_set()

    # --- what agents ask ---

    async def begin_step(self, agent: Agent, asked: Opening) -> Opened:
        """Open a step; the refused scopes are journalled with their references."""
        opened = await self._beginning.begin(agent, asked)
        references: dict[str, str] = {}
        for answer in opened.answers:
            if isinstance(answer.decision, Denied):
                error = refused(answer.decision, opened.step, answer.asked)
                await self._refusals.record(agent, "BeginStep", error)
                references[answer.scope] = error.reference_id
        return with_references(opened, references)

    async def issue(self, agent: Agent, handle: str, asked: Asking) -> Delivered:
        """Mint one credential, or answer a replay."""
        return await self._issuing.issue(agent, handle, asked)

    async def heartbeat(self, agent: Agent, handle: str, held: Sequence[str]) -> Beat:
        """Keep a step alive and claim its leases."""
        return await self._steps.heartbeat(agent, handle, held)

    async def revoke_lease(
        self, agent: Agent, *, request_id: str, handle: str, lease_id: str, wait_seconds: float
    ) -> Outcome:
        """End one lease of the caller's step. Asking again answers how it stands."""
        core, until = self._core, asyncio.get_running_loop().time() + wait_seconds
        check_request_id(request_id)
        step = await core.step_of(agent, handle)

        def operation(tx: Tx) -> Lease:
            core.enter(tx)
            lease = tx.lease(lease_id)
            if lease is None or lease.step_id != step.id:
                raise access_denied()
            digest = payload_hash("RevokeLease", step.id, lease.id)
            if known_request(tx, agent.spiffe_id, request_id, digest) is None:
                core.remember(
                    tx,
                    step,
                    caller=agent,
                    method="RevokeLease",
                    request_id=request_id,
                    digest=digest,
                    lease_id=lease.id,
                )
            moves.withdraw(tx, lease, at=core.clock.now(), reason=EndReason.REVOKED_BY_AGENT)
            return tx.lease(lease_id) or lease

        lease = await core.store.write(operation, quick=True)
        self._lane.take([lease])
        outcomes = await self._wait([lease], until)
        core.epoch.must_be_fresh()
        return outcomes[0]

    async def end_step(self, agent: Agent, *, request_id: str, handle: str, wait_seconds: float) -> Ended:
        """End a step of the caller's, or one that it opened for another; with all of its leases.

        Asking again answers how they stand.
        """
        core, until = self._core, asyncio.get_running_loop().time() + wait_seconds
        check_request_id(request_id)
        leases = await self._steps.end(agent, handle, request_id=request_id)
        outcomes = await self._wait(leases, until)
        core.epoch.must_be_fresh()
        return Ended(outcomes=tuple(outcomes))

    async def _wait(self, leases: Sequence[Lease], until: float) -> list[Outcome]:
        """`until`: on the event loop's clock; what writing the end took is part of the caller's patience."""
        seconds = max(0.0, until - asyncio.get_running_loop().time())
        return await wait_for_evidence(self._core, leases, seconds)

    async def check_access(self, key: StepKey, scopes: Sequence[str], *, address: str) -> tuple[ScopeAnswer, ...]:
        """The verdicts of BeginStep; opens nothing and journals nothing."""
        return await self._beginning.check(key, scopes, address=address)

    async def check_open(self, agent: Agent, handle: str, scopes: Sequence[str]) -> tuple[ScopeAnswer, ...]:
        """The verdicts of IssueCredential in an open step; mints nothing and journals nothing."""
        return await self._beginning.check_open(agent, handle, scopes)

    # --- its own life ---

    @property
    def door_overdue(self) -> bool:
        """Nobody can look at the front door's files: what is denied in them is not seen."""
        return self._admission is not None and self._admission.overdue()

    async def settle_door(self) -> None:
        """Read bundles, lists and certificates until they are at rest, whether something tells of a change or not.

        Raises StoreError: what came of it is not written yet.
        """
        if self._admission:
            await self._admission.settled()

    async def start(self) -> None:
        """Take the epoch, take up what was left, and run."""
        await self.take_up()
        if (await self._core.store.read(lambda tx: tx.control())).frozen:
            log.warning(
                "the broker is frozen: it ends and answers, and mints nothing until stepcred admin unfreeze all, or recover --unfreeze"
            )
        self._run(self._renew_for_ever(), "epoch")
        self._run(self._lane.run(), "revocations")
        self._run(self._reaper.run(), "reaper")
        self._run(self._sweep.run(), "policy sweep")
        self._run(self._flush_for_ever(), "refusals")
        if self._admission:
            self._run(self._admission.run(), "admission")

    async def take_up(self) -> None:
        """A new epoch, and everything unfinished is due at once."""
        self._core.metrics.epoch(await self._core.epoch.take())
        self._core.lane.set()

    async def drain(self, *, revoke: bool) -> list[Lease]:
        """No new intents; mints settle; REVOKING rows are worked until the grace ends (DESIGN section 4).

        ACTIVE leases and open steps stay for the next epoch, unless `revoke`: then they end first, for a mint may hang
        for longer than the grace. Returns what was asked to die and is not seen dead.
        """
        core = self._core
        core.draining.set()
        grace = core.timings.drain_grace.total_seconds()
        over = asyncio.get_running_loop().time() + grace
        try:
            async with asyncio.timeout(grace):
                if revoke:
                    await self._end_all_steps()
                await self._minter.settled()
                await self._work_off(over)
        except TimeoutError:
            log.warning("drain grace is over with work left; the next start goes on")
        except StoreError:
            log.warning("the drain cannot read what is left; the next start goes on")
            return []
        return await core.store.read(lambda tx: tx.leases_in(LeaseState.REVOKING, LeaseState.IN_DOUBT))

    async def stop(self) -> None:
        """After drain: end the background tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._lane.cancel()
        await self._minter.cancel()
        try:
            await self._refusals.flush(everything=True)
        except StoreError:
            log.warning("counted refusals could not be written")

    def _run(self, work: Coroutine[None, None, None], name: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=name))

    async def _end_all_steps(self) -> None:
        steps = await self._core.store.read(lambda tx: tx.open_steps())
        await self._steps.end_all([(step, EndReason.BROKER_STOPPED) for step in steps], by="broker")

    async def _work_off(self, deadline: float) -> None:
        """Until nothing is left that may still be ended before `deadline` (of the event loop's clock)."""
        core, loop = self._core, asyncio.get_running_loop()

        def left(tx: Tx) -> bool:
            horizon = core.clock.now() + timedelta(seconds=deadline - loop.time())
            due = tx.due_leases(horizon, DRAIN_PAGE)
            known = (lease for lease in due if lease.provider in core.providers)
            # A doubt is looked at once: until a late mint can no longer land, more looks prove nothing.
            return any(lease.state is LeaseState.REVOKING or not lease.attempts for lease in known)

        while self._minter.busy or self._lane.busy or await core.store.read(left):
            core.lane.set()
            await asyncio.sleep(0.02)

    async def _renew_for_ever(self) -> None:
        """Looked at each second: after the machine has slept, nothing may be written until there is a new one."""
        core = self._core
        renewed = core.clock.boottime()
        while True:
            await core.clock.sleep(LOOK_AT_EPOCH)
            due = core.clock.boottime() - renewed >= core.timings.epoch_renew.total_seconds()
            if core.epoch.fresh() and not due:
                continue
            try:
                await self.renew()
                renewed = core.clock.boottime()
            except Exception:  # without a fresh epoch nothing is written: keep trying
                log.exception("the epoch could not be renewed")

    async def renew(self) -> None:
        """Keep the epoch, or take a new one when it ran out."""
        if await self._core.epoch.renew():
            self._core.lane.set()
        self._core.metrics.epoch(self._core.epoch.id)

    async def _flush_for_ever(self) -> None:
        while True:
            await self._core.clock.sleep(FLUSH_EVERY)
            try:
                await self._refusals.flush()
            except StoreError:
                log.warning("counted refusals could not be written")
