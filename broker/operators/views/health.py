"""How the broker is, in numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.leases.core import Core
from broker.model import LeaseState
from broker.store.approvals import ApprovalState
from broker.store.base import Tx
from broker.store.guard import GuardState

OVERDUE = timedelta(minutes=1)  # as docs/alerts.md says of revocations


@dataclass(frozen=True, kw_only=True, slots=True)
class ProviderHealth:
    """One provider, and what hangs from it."""

    name: str
    problems: Sequence[str]
    breaker_open: bool
    active: int
    revoking: int
    in_doubt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    """What is under way, and what is in the way."""

    providers: Sequence[ProviderHealth]
    open_steps: int
    intents: int
    overdue: int  # leases that should have been dead for over a minute
    oldest_revoking: datetime | None
    freezes: int
    approvals_waiting: int
    keys_locked: int
    keys_held: int
    alerts_firing: int


def health(tx: Tx, core: Core, problems: Mapping[str, Sequence[str]]) -> Health:
    """`problems`: of each provider, from the latest look at it."""
    now, counts, by_provider = core.clock.now(), tx.lease_counts(), tx.lease_counts_by_provider()
    _, oldest = tx.revoking_since(now)
    overdue, _ = tx.revoking_since(now - OVERDUE)
    keys = tx.guard_counts()
    return Health(
        providers=[
            ProviderHealth(
                name=name,
                problems=problems.get(name, ()),
                breaker_open=breaker.open,
                active=by_provider.get((name, LeaseState.ACTIVE), 0),
                revoking=by_provider.get((name, LeaseState.REVOKING), 0),
                in_doubt=by_provider.get((name, LeaseState.IN_DOUBT), 0),
            )
            for name, breaker in sorted(core.breakers.items())
        ],
        open_steps=tx.open_step_count(),
        intents=counts.get(LeaseState.INTENT, 0),
        overdue=overdue,
        oldest_revoking=oldest,
        freezes=len(tx.freezes()),
        approvals_waiting=tx.approval_counts().get(ApprovalState.PENDING, 0),
        keys_locked=keys.get(GuardState.LOCKED, 0),
        keys_held=keys.get(GuardState.HELD, 0),
        alerts_firing=sum(tx.firing_counts().values()),
    )
