"""Approvals on the way of a credential: asked for, used once, and given back with the proof that nothing was made.

Everything here happens in the caller's transaction. Who may say yes is `broker.operators`'.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import timedelta

from broker.clock import Moment
from broker.config import Approvals
from broker.errors import BrokerError, Reason
from broker.journal.records import Kind, Record
from broker.leases.ids import new_approval_id
from broker.model import JsonValue, Lease, Step, StepKey
from broker.policy.decision import Allowed
from broker.store.approvals import OPEN, Approval, ApprovalState, past_approval
from broker.store.base import Tx

MAX_WAITING = 20  # open ones of one agent: with ever new run ids it must not bury its operators
ASK_LATER = timedelta(minutes=5)


def always_on() -> str:
    """Nothing keeps approvals from being used."""
    return ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Standing:
    """How it stands with what one step key and scope have asked for."""

    approval: Approval
    given: int  # operators who said yes

    @property
    def usable(self) -> bool:
        """The next intent may use it."""
        return self.approval.state is ApprovalState.APPROVED


@dataclass(frozen=True, kw_only=True, slots=True)
class Approving:
    """Holds no state: everything is in the transaction."""

    times: Approvals = field(default_factory=Approvals)
    off: Callable[[], str] = always_on  # why nothing that was approved may be used under the map in force

    def standing(self, tx: Tx, key: StepKey, allowed: Allowed, now: Moment, *, launcher: str) -> Standing | None:
        """What is open for this very grant, scope and tier; None when nothing is. Writes nothing.

        `launcher`: who opens the step for its agent; "" when that does it itself.
        """
        found = tx.open_approval(key, allowed.scope)
        if found is None or _why_over(found, allowed, now, launcher) is not None:
            return None
        return Standing(approval=found, given=sum(vote.approve for vote in tx.votes(found.id)))

    def asked(self, tx: Tx, step: Step, allowed: Allowed, now: Moment, *, address: str) -> Standing:
        """The same in the intent's transaction: what is over is ended, and what is not there is asked for.

        Raises RATE_LIMITED for an agent that has asked for too much.
        """
        found = tx.open_approval(step.key, allowed.scope)
        if found is not None and (state := _why_over(found, allowed, now, step.launcher)) is not None:
            end(tx, found, state, now)
        if (standing := self.standing(tx, step.key, allowed, now, launcher=step.launcher)) is not None:
            return standing
        if tx.open_approval_count(step.key.agent) >= MAX_WAITING:
            raise BrokerError(
                Reason.RATE_LIMITED, "too many requests of this agent wait for approval", retry_after=ASK_LATER
            )
        approval = self._request(step, allowed, now, address)
        tx.insert_approval(approval)
        tx.append(_record(Kind.APPROVAL_REQUESTED, approval, now, data={"needed": approval.needed}))
        return Standing(approval=approval, given=0)

    def use(self, tx: Tx, standing: Standing, lease: Lease) -> Lease:
        """Consumed by this lease, once: the table itself lets nobody use it again."""
        tx.put_approval(replace(standing.approval, state=ApprovalState.CONSUMED, lease_id=lease.id))
        return replace(lease, approval_id=standing.approval.id, approval_digest=standing.approval.digest)

    def _request(self, step: Step, allowed: Allowed, now: Moment, address: str) -> Approval:
        life = self.times.pending
        return Approval(
            id=new_approval_id(),
            key=step.key,
            scope=allowed.scope,
            step_id=step.id,
            launcher=step.launcher,
            address=address,
            workload=allowed.workload,
            captures=dict(allowed.captures),
            tier=allowed.tier.value,
            rule=str(allowed.rule),
            ttl=allowed.ttl,
            digest=allowed.approval_digest,
            needed=allowed.approvals,
            state=ApprovalState.PENDING,
            requested_at=now.wall,
            expires_at=now.wall + life,
            boot_id=now.boot_id,
            expires_boot=now.boot + life.total_seconds(),
        )


def give_back(tx: Tx, lease: Lease, now: Moment) -> None:
    """Proven that nothing was minted with it: in the transaction that proves VOID. It may be used until its end."""
    approval = tx.approval(lease.approval_id) if lease.approval_id else None
    if approval is None or approval.lease_id != lease.id:  # a successor's: it was used by the first of the chain
        return
    newer = tx.open_approval(approval.key, approval.scope)
    if newer is not None:
        end(tx, newer, ApprovalState.REPLACED, now)
    returned = replace(approval, state=ApprovalState.APPROVED, lease_id="")
    if returned.boot_id != now.boot_id:  # it was in use when this boot began
        returned = _counted_in(returned, now)
    tx.put_approval(returned)
    tx.append(_record(Kind.APPROVAL_RETURNED, returned, now, data={"lease_id": lease.id}))
    if past_approval(returned, now) >= timedelta(0):
        end(tx, returned, ApprovalState.EXPIRED, now)


def expired(tx: Tx, now: Moment) -> list[Approval]:
    """Whatever nobody decided or used in time; at most 1,000, the rest next time."""
    return tx.approvals_past(now, limit=1000)


def go_on(tx: Tx, now: Moment) -> None:
    """Open ones of another boot are counted in this one from now on."""
    last = ""
    while page := tx.approvals(*OPEN, after=last):
        last = page[-1].id
        for one in page:
            if one.boot_id != now.boot_id:
                tx.put_approval(_counted_in(one, now))


def _counted_in(approval: Approval, now: Moment) -> Approval:
    """With what it has left counted in this boot: by the wall clock, and never more than its whole life."""
    began = approval.requested_at if approval.decided_at is None else approval.decided_at
    left = min(approval.expires_at - now.wall, approval.expires_at - began)
    return replace(approval, boot_id=now.boot_id, expires_boot=now.boot + left.total_seconds())


def end(tx: Tx, approval: Approval, state: ApprovalState, now: Moment) -> None:
    """EXPIRED or REPLACED."""
    tx.put_approval(replace(approval, state=state, decided_at=now.wall))
    tx.append(_record(Kind.APPROVAL_ENDED, approval, now, reason=state.value))


def _why_over(approval: Approval, allowed: Allowed, now: Moment, launcher: str) -> ApprovalState | None:
    """None while it is good. Another launcher has other owners, who may not have said yes."""
    if past_approval(approval, now) >= timedelta(0):
        return ApprovalState.EXPIRED
    changed = (approval.digest, approval.launcher) != (allowed.approval_digest, launcher)
    return ApprovalState.REPLACED if changed or approval.needed < allowed.approvals else None


def _record(
    kind: Kind, approval: Approval, now: Moment, *, reason: str = "", data: dict[str, JsonValue] | None = None
) -> Record:
    key = approval.key
    return Record(
        kind=kind,
        at=now.wall,
        agent=key.agent,
        workflow=key.workflow,
        run=key.run,
        step=key.step,
        step_id=approval.step_id,
        scope=approval.scope,
        rule=approval.rule,
        reason=reason,
        data={"approval_id": approval.id, "digest": approval.digest} | (data or {}),
    )
