"""What people have to say yes to, as rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from broker.clock import Moment
from broker.model import StepKey


class ApprovalState(Enum):
    """PENDING and APPROVED are open: at most one of these for a step key and scope."""

    PENDING = "PENDING"
    APPROVED = "APPROVED"
    CONSUMED = "CONSUMED"  # by the intent of a lease; APPROVED again when that is proven VOID
    DENIED = "DENIED"
    EXPIRED = "EXPIRED"
    REPLACED = "REPLACED"  # the grant, scope, tier, code or launcher is another one by now


OPEN = (ApprovalState.PENDING, ApprovalState.APPROVED)


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    """A question to operators, asked by IssueCredential: one per step key and scope, across attempts."""

    id: str  # 16 characters of [a-z2-7]
    key: StepKey
    scope: str
    step_id: str  # of the attempt that asked
    launcher: str  # SPIFFE ID; "" when its own agent opened the step
    address: str  # IP address that it was asked from
    workload: str
    captures: Mapping[str, str]
    tier: str
    rule: str
    ttl: timedelta
    digest: str  # of its grants, scope, tier and proven code, hex
    needed: int
    state: ApprovalState
    requested_at: datetime
    expires_at: datetime  # to be decided until then; once approved, to be used
    boot_id: str = ""
    expires_boot: float = 0.0  # the same by elapsed time
    decided_at: datetime | None = None
    lease_id: str = ""  # of the lease that consumed it


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    """What one operator said, once."""

    approval_id: str
    operator: str  # its name
    approve: bool
    reason: str
    at: datetime
    good_for: timedelta | None = None  # less than the broker's own bound


def past_approval(approval: Approval, now: Moment) -> timedelta:
    """For how long it is over; negative before. By whichever clock says so first: a clock set forward ends it (fail-safe)."""
    elapsed = now.since(wall=approval.expires_at, boot=approval.expires_boot, boot_id=approval.boot_id)
    return max(elapsed, now.wall - approval.expires_at)


class ApprovalsTx(Protocol):
    """Part of `Tx`."""

    def insert_approval(self, approval: Approval) -> None:
        """Raises StoreConflict on a second open one of the same step key and scope."""
        ...

    def approval(self, approval_id: str) -> Approval | None: ...
    def open_approval(self, key: StepKey, scope: str) -> Approval | None:
        """PENDING or APPROVED."""
        ...

    def open_approval_count(self, agent: str) -> int: ...
    def put_approval(self, approval: Approval) -> None:
        """In the place of the row with its id."""
        ...

    def approvals(self, *states: ApprovalState, after: str = "", limit: int = 200) -> list[Approval]:
        """The newest first; of any state when none is named. `after`: the id of the last one of the page before."""
        ...

    def approvals_past(self, now: Moment, *, limit: int) -> list[Approval]:
        """The open ones that are over, as `past_approval` says; those first that were to end first."""
        ...

    def waiting_approvals(self, *, before: datetime, now: datetime, limit: int) -> list[Approval]:
        """PENDING, asked for until then, or after now: the clock was set back since. The oldest first."""
        ...

    def approval_counts(self) -> Mapping[ApprovalState, int]:
        """Of the open ones; a state without any may be missing."""
        ...

    def add_vote(self, vote: Vote) -> None:
        """Raises StoreConflict on a second one of the same operator."""
        ...

    def votes(self, approval_id: str) -> Sequence[Vote]:
        """In their order."""
        ...
