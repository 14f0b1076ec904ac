"""How a mint settled, written: VOID, IN_DOUBT, ACTIVE, or what must not be delivered.

Each is ONE transaction. The secret is never in the row.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.errors import BrokerError, Reason, StoreError, access_denied
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.background import Background
from broker.leases.core import Core, PolicyMoved, ref_of, step_ended
from broker.leases.ending import ATTEMPT_LIMIT
from broker.leases.epoch import EpochLost
from broker.leases.freezing import frozen, stopped
from broker.leases.standing import still_given
from broker.log import get_logger
from broker.metrics import IssueOutcome
from broker.model import Credential, EndReason, Evidence, JsonValue, Lease, LeaseState, Step, StepState
from broker.providers.base import Minted
from broker.store.base import RequestOutcome, Tx

log = get_logger(__name__)

RETRY_MINT_AFTER = timedelta(seconds=1)  # told with PROVIDER_FAILED; a new, charged request
SWAP_TRIES = 20  # looks, while a map is durable and not yet the one that decides
SWAP_WAIT = 0.1  # seconds between them


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivered:
    """A credential on its way to the agent."""

    lease: Lease
    credential: Credential


class Commit:
    """Writes what became of a mint; what the disk refuses is written later, in the background."""

    def __init__(self, core: Core, background: Background) -> None:
        self._core = core
        self._background = background

    async def void(self, lease: Lease, why: str) -> Delivered:
        """Definitely nothing made: the charge is given back with the proof."""
        core, told = self._core, _Told()

        def operation(tx: Tx) -> None:
            at = core.clock.now()
            if moves.end_lease(tx, lease, LeaseState.VOID, evidence=Evidence.NOT_MINTED, at=at, problem=why):
                core.give_back(tx, lease)
            told.until = self._fail(tx, lease, why)

        await self._background.write_surely(operation, then=lambda: core.endings.tell(lease.id))
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.FAILED)
        log.warning("mint refused", provider=lease.provider, scope=lease.scope, lease=lease.id, problem=why)
        raise mint_failed(lease, why, again=told.until, now=core.clock.now())

    async def in_doubt(self, lease: Lease, why: str) -> Delivered:
        core, told = self._core, _Told()

        def operation(tx: Tx) -> None:
            moves.in_doubt(tx, lease, at=core.clock.now(), problem=why)
            told.until = self._fail(tx, lease, why)

        await self._background.write_surely(operation, then=core.lane.set)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.IN_DOUBT)
        core.metrics.mint_in_doubt(lease.provider)
        log.warning("mint in doubt", provider=lease.provider, scope=lease.scope, lease=lease.id, problem=why)
        raise mint_failed(lease, why, again=told.until, now=core.clock.now())

    def _fail(self, tx: Tx, lease: Lease, why: str) -> datetime | None:
        """When the guard lets the step ask again, by the wall; None: it is locked or held, or not asked."""
        until = None
        if lease.replaces:  # not charged: its failure must not make the guard take what was for a provider's outage
            tx.clear_replaced_by(lease.replaces, lease.id)
        else:
            until = self._core.guard.mint_failed(tx, lease.guard_key, now=self._core.clock.moment())
        tx.finish_request(
            lease.agent,
            lease.request_id,
            RequestOutcome.FAILED,
            reason=Reason.PROVIDER_FAILED.value,
            message=why,
        )
        return until

    async def active(self, lease: Lease, step: Step, minted: Minted) -> Delivered:
        """ONE transaction makes it ACTIVE, or finds why it must not live. The secret is never in the row."""
        core = self._core
        try:
            committed = await self._committed(lease, step, minted)
        except EpochLost:
            # The row is a successor's now: it settles the doubt. Drop the secret, write nothing.
            raise BrokerError(
                Reason.REPLAY_LOST, "the broker lost its right to write", retry_after=timedelta(0)
            ) from None
        except StoreError:
            self._background.run(self._kill_then_write(lease, minted))
            raise
        if isinstance(committed, EndReason):
            core.lane.set()
            raise await self._must_not_deliver(step, committed)
        core.metrics.issue(scope=lease.scope, provider=lease.provider, outcome=IssueOutcome.ISSUED)
        return Delivered(lease=committed, credential=minted.credential)

    async def _committed(self, lease: Lease, step: Step, minted: Minted) -> Lease | EndReason:
        core = self._core
        for _ in range(SWAP_TRIES):
            try:
                return await core.store.write(lambda tx: self._activate(tx, lease, step, minted), quick=True)
            except PolicyMoved:
                await core.clock.sleep(SWAP_WAIT)
        return await core.store.write(lambda tx: self._activate(tx, lease, step, minted, wait=False), quick=True)

    async def _must_not_deliver(self, step: Step, why: EndReason) -> BrokerError:
        if why is EndReason.FROZEN:
            return frozen()
        if why in (EndReason.POLICY_CHANGED, EndReason.AGENT_DENIED):
            return access_denied()
        now_step = await self._core.store.read(lambda tx: tx.step(step.id), quick=True)
        if now_step is not None and now_step.state is StepState.OPEN:
            return lease_ended()  # only this lease was asked to die
        return step_ended(now_step or step)

    def _activate(self, tx: Tx, lease: Lease, step: Step, minted: Minted, *, wait: bool = True) -> Lease | EndReason:
        """An EndReason: doomed or refused meanwhile, and now REVOKING. Raises EpochLost, PolicyMoved."""
        core, at = self._core, self._core.clock.now()
        core.epoch.fence(tx)
        if lease.epoch != core.epoch.id:
            raise EpochLost
        why = self._must_not_live(tx, lease, step, wait=wait)
        refs = dict(lease.refs) | dict(minted.refs)
        if why is None and tx.activate(lease.id, epoch=lease.epoch, refs=refs, at=at):
            if not lease.replaces:
                core.guard.mint_succeeded(tx, lease.guard_key)
            tx.finish_request(lease.agent, lease.request_id, RequestOutcome.DONE)
            data = {"provider_request_id": minted.provider_request_id, "refs": dict(minted.refs)}
            moves.record_lease(tx, Kind.LEASE_ACTIVE, lease, at=at, data=data)
            first = lease.first_mint_at or at
            return replace(lease, state=LeaseState.ACTIVE, refs=refs, active_at=at, first_mint_at=first)
        row = tx.lease(lease.id)
        if row is None or row.state is not LeaseState.INTENT or row.epoch != lease.epoch:
            raise EpochLost
        reason = row.end_reason or why or EndReason.STEP_ENDED
        moves.revoke_settled(tx, row, at=at, reason=reason, refs=refs)
        tx.finish_request(lease.agent, lease.request_id, RequestOutcome.DONE)
        return reason

    def _must_not_live(self, tx: Tx, lease: Lease, step: Step, *, wait: bool) -> EndReason | None:
        """The predicate of the intent, once more: time has passed and other transactions with it.

        A newer map is durable before it decides. What the older one says then counts for nothing: PolicyMoved,
        and without `wait` POLICY_CHANGED.
        """
        core = self._core
        control, now_step = tx.control(), tx.step(step.id)
        if now_step is None or now_step.state is not StepState.OPEN:
            return EndReason.STEP_ENDED
        if stopped(tx, now_step, scope=lease.scope, provider=lease.provider):
            return EndReason.FROZEN
        if core.denies(lease.agent, lease.certificate):
            return EndReason.AGENT_DENIED
        if control.policy_generation == lease.policy_generation:
            return None
        swapped = core.policies.generation >= control.policy_generation
        if not swapped and wait:
            raise PolicyMoved
        if not swapped or not still_given(core.policies.map, now_step, lease, core.clock.now()):
            return EndReason.POLICY_CHANGED
        return None

    async def _kill_then_write(self, lease: Lease, minted: Minted) -> None:
        """The commit did not get to disk and the credential lives: kill it first, then write (disk full)."""
        core, provider = self._core, self._core.providers[lease.provider]
        refs = dict(lease.refs) | dict(minted.refs)
        try:
            async with asyncio.timeout(ATTEMPT_LIMIT):
                await provider.revoke(replace(ref_of(lease), refs=refs))
        except Exception:  # whatever it was, the row must still say what there is to revoke
            log.exception("could not be revoked at once; the revocation lane goes on", lease=lease.id)

        def operation(tx: Tx) -> None:
            moves.revoke_settled(tx, lease, at=core.clock.now(), reason=EndReason.MINT_FAILED, refs=refs)

        await self._background.insist(operation, then=core.lane.set)


def lease_ended() -> BrokerError:
    """Of an earlier request."""
    return BrokerError(Reason.LEASE_ENDED, "the lease of this request has ended")


@dataclass(slots=True)
class _Told:
    """What a transaction found, for the answer that is given after it."""

    until: datetime | None = None


def mint_failed(
    lease: Lease | None, why: str, *, again: datetime | None = None, now: datetime | None = None
) -> BrokerError:
    """ABORTED, never UNAVAILABLE, which gRPC would retry by itself.

    `again`: not before the guard's cool-down is over, or an honest client comes back only to be told COOLING.

    `why` names paths, roles and statuses that are the operators' to see: it is journalled, under the reference.
    """
    about: dict[str, JsonValue] = {"why": why}
    if lease is not None:
        about |= {"lease_id": lease.id, "step_id": lease.step_id, "scope": lease.scope}
    return BrokerError(
        Reason.PROVIDER_FAILED,
        "the provider did not mint the credential; the reference leads an operator to the cause",
        retry_after=max(RETRY_MINT_AFTER, again - now) if again and now else RETRY_MINT_AFTER,
        about=about,
    )
