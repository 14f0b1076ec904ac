"""Every state change of a step or lease, each with its journal record, in the caller's transaction (I3)."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from broker.journal.records import Kind, Record
from broker.model import EndReason, Evidence, JsonValue, Lease, LeaseState, Step, StepKey
from broker.store.base import Tx

_ENDED_KIND = {
    LeaseState.REVOKED: Kind.LEASE_REVOKED,
    LeaseState.EXPIRED: Kind.LEASE_EXPIRED,
    LeaseState.VOID: Kind.LEASE_VOID,
}

_WITHDRAWN = (LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.ACTIVE)  # what `withdraw` changes


def record_lease(  # noqa: D103 - named by what it does
    tx: Tx,
    kind: Kind,
    lease: Lease,
    *,
    at: datetime,
    reason: str = "",
    rule: str = "",
    key: StepKey | None = None,
    data: Mapping[str, JsonValue] | None = None,
) -> None:
    tx.append(
        Record(
            kind=kind,
            at=at,
            agent=lease.agent,
            workflow=key.workflow if key else "",
            run=key.run if key else "",
            step=key.step if key else "",
            step_id=lease.step_id,
            lease_id=lease.id,
            scope=lease.scope,
            reason=reason,
            rule=rule,
            data=data or {},
        )
    )


def in_doubt(tx: Tx, lease: Lease, *, at: datetime, problem: str) -> bool:
    """INTENT → IN_DOUBT: it failed, and that does not mean that nothing was minted."""
    if not tx.to_in_doubt(lease.id, at=at, problem=problem):
        return False
    record_lease(tx, Kind.LEASE_IN_DOUBT, lease, at=at, reason=problem)
    return True


def withdraw(tx: Tx, lease: Lease, *, at: datetime, reason: EndReason, by: str = "") -> bool:
    """Ask a lease to die. ACTIVE → REVOKING; INTENT and IN_DOUBT are only doomed: the mint has to settle first.

    `by`: the operator who asked for it. False when it was already on its way.
    """
    if lease.state in (LeaseState.INTENT, LeaseState.IN_DOUBT):
        changed = tx.doom(lease.id, at=at, reason=reason)
        kind = Kind.LEASE_DOOMED
    elif lease.state is LeaseState.ACTIVE:
        changed = tx.to_revoking(lease.id, at=at, reason=reason)
        kind = Kind.LEASE_REVOKING
    else:
        return False
    if changed:
        record_lease(tx, kind, lease, at=at, reason=reason.value, data={"by": by} if by else {})
    return changed


def revoke_settled(
    tx: Tx, lease: Lease, *, at: datetime, reason: EndReason, refs: Mapping[str, JsonValue] | None = None
) -> bool:
    """INTENT → REVOKING for a mint that has settled and must not be delivered."""
    if not tx.to_revoking(lease.id, at=at, reason=reason, refs=refs):
        return False
    record_lease(tx, Kind.LEASE_REVOKING, lease, at=at, reason=reason.value)
    return True


def end_lease(tx: Tx, lease: Lease, state: LeaseState, *, evidence: Evidence, at: datetime, problem: str = "") -> bool:
    """To a terminal state, with the evidence; `problem`: why nothing was minted."""
    if not tx.to_ended(lease.id, state, evidence=evidence, at=at):
        return False
    asked = lease.doomed_at or lease.revoking_at
    data: dict[str, JsonValue] = {"seconds_to_dead": round((at - asked).total_seconds(), 6)} if asked else {}
    if problem:
        data["problem"] = problem
    record_lease(tx, _ENDED_KIND[state], lease, at=at, reason=evidence.value, data=data)
    return True


def end_step(tx: Tx, step: Step, *, at: datetime, reason: EndReason, by: str = "") -> list[Lease] | None:
    """End a step and ask all of its leases to die. Returns those that were live; None when it had ended before."""
    if not tx.end_step(step.id, at, reason):
        return None
    tx.append(
        Record(
            kind=Kind.STEP_ENDED,
            at=at,
            agent=step.key.agent,
            workflow=step.key.workflow,
            run=step.key.run,
            step=step.key.step,
            step_id=step.id,
            reason=reason.value,
            data={"by": by} if by else {},
        )
    )
    leases = tx.leases_of(step.id, *_WITHDRAWN)
    tx.must_be_quick(len(leases))
    return [lease for lease in leases if withdraw(tx, lease, at=at, reason=reason, by=by)]
