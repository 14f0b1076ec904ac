"""Successors instead of renewal: a long step's next credential, with a count of its own (DESIGN section 4)."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from broker.clock import Moment
from broker.errors import BrokerError, Reason, access_denied
from broker.guard.successors import successor_allowance
from broker.model import Lease, LeaseState, Step, past_expiry
from broker.policy.decision import Allowed
from broker.store.base import Tx

PART_OF_LIFE = 2 / 3  # a successor may be asked for from here on

TRIES = 5  # times the allowance, definite failures included: the guard's ceiling, which successors do not pass


def successor_from(lease: Lease) -> datetime:
    """From when on a lease may be replaced."""
    return lease.intent_at + (lease.expires_at - lease.intent_at) * PART_OF_LIFE


def link_successor(tx: Tx, draft: Lease, step: Step, allowed: Allowed, *, now: Moment) -> Lease:
    """Check what `draft` replaces, mark it replaced, and continue its chain. Exhausted is refused, never locked."""
    older = tx.lease(draft.replaces or "")
    if older is None or older.step_id != step.id or older.scope != draft.scope:
        raise access_denied()
    if older.state is not LeaseState.ACTIVE or _has_successor(tx, older) or not _ripe(older, now):
        raise BrokerError(
            Reason.NOT_REPLACEABLE,
            "only an active lease past two thirds of its life, and not yet replaced, can have a successor",
        )
    first = older.first_mint_at or older.intent_at
    # What may exist counts, delivered or not: a successor that was lost or failed is replaced, never free (I4).
    chain = [row for row in tx.leases_of(step.id) if row.replaces and row.first_mint_at == first]
    number = sum(row.state is not LeaseState.VOID for row in chain) + 1
    allowance = successor_allowance(first_mint=first, step_deadline=step.deadline_at, ttl=allowed.ttl)
    if number > allowance or len(chain) >= TRIES * allowance:
        raise BrokerError(Reason.SUCCESSORS_EXHAUSTED, "this credential has had all of its successors")
    if older.replaced_by:
        tx.clear_replaced_by(older.id, older.replaced_by)
    tx.set_replaced_by(older.id, draft.id)
    return replace(
        draft,
        first_mint_at=first,
        successor_no=number,
        approval_id=older.approval_id,
        approval_digest=older.approval_digest,
    )


def _ripe(lease: Lease, now: Moment) -> bool:
    """By elapsed time, as it ends."""
    return -past_expiry(lease, now) <= (lease.expires_at - lease.intent_at) * (1 - PART_OF_LIFE)


def _has_successor(tx: Tx, older: Lease) -> bool:
    """One that is on its way or in use; after one that was lost, in doubt or ended, there may be another."""
    newer = tx.lease(older.replaced_by) if older.replaced_by else None
    return newer is not None and newer.state in (LeaseState.INTENT, LeaseState.ACTIVE)
