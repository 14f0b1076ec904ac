"""What the broker answered, as plain values."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

OVERDUE = timedelta(minutes=1)  # a revocation without evidence for longer alarms (DESIGN, lease states)
ENDING = frozenset({"REVOKING", "IN_DOUBT"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Whose it is. `step` is empty where a thing belongs to more than one."""

    agent: str
    workflow: str
    run: str
    step: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    step_id: str
    place: Place
    attempt: int
    opened_at: datetime | None
    deadline: datetime | None
    last_heartbeat: datetime | None
    launcher: str
    scopes: tuple[str, ...]
    live_leases: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Lease:
    lease_id: str
    place: Place
    state: str
    scope: str
    tier: str
    provider: str
    revocability: str
    intent_at: datetime | None
    expires_at: datetime | None
    revoking_at: datetime | None
    tries: int
    problem: str
    doomed: bool
    end_reason: str
    approval_id: str

    @property
    def ending(self) -> bool:
        return self.state in ENDING

    def overdue(self, now: datetime) -> bool:
        """Asked to die for longer than the broker's own alarm allows."""
        return self.state == "REVOKING" and self.revoking_at is not None and now - self.revoking_at > OVERDUE


@dataclass(frozen=True, kw_only=True, slots=True)
class Key:
    """Of the guard: one step's budget for a scope, or a workload's rolling hour."""

    key: str
    hour: bool
    state: str
    tier: str
    workload: str
    captures: tuple[tuple[str, str], ...]
    workflow: str
    run: str
    step: str
    scope: str
    spent: int
    allowed: int
    admitted: int
    ceiling: int
    until: datetime | None
    reset_by: str
    reset_at: datetime | None

    @property
    def left(self) -> int:
        return max(0, self.allowed - self.spent)


@dataclass(frozen=True, kw_only=True, slots=True)
class Vote:
    operator: str
    approve: bool
    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Approval:
    approval_id: str
    place: Place
    state: str
    scope: str
    tier: str
    rule: str
    needed: int
    votes: tuple[Vote, ...]
    requested_at: datetime | None
    expires_at: datetime | None
    digest: str
    you_may_not: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Freeze:
    freeze_id: str
    what: str
    by: str
    reason: str
    at: datetime | None


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    fingerprint: str
    rule: str
    severity: str
    labels: tuple[tuple[str, str], ...]
    summary: str
    runbook: str
    since: datetime | None
    count: int
    waiting_for: tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Provider:
    name: str
    problems: tuple[str, ...]
    breaker_open: bool
    active: int
    revoking: int
    in_doubt: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Health:
    environment: str
    epoch: int
    draining: bool
    providers: tuple[Provider, ...]
    open_steps: int
    intents: int
    overdue: int
    oldest_revoking: datetime | None
    freezes: int
    approvals_waiting: int
    keys_locked: int
    keys_held: int
    problems: tuple[str, ...]
    alerts_firing: int

    @property
    def live(self) -> int:
        """Leases that are not terminal."""
        return self.intents + sum(one.active for one in self.providers) + self.ending

    @property
    def ending(self) -> int:
        """Revocations outstanding."""
        return sum(one.revoking + one.in_doubt for one in self.providers)


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """All of it, asked for at once. `at` is the broker's clock, by which every age is reckoned.

    `cut` names the lists of which there is more than was asked for.
    """

    at: datetime
    health: Health
    steps: tuple[Step, ...]
    leases: tuple[Lease, ...]
    keys: tuple[Key, ...]
    approvals: tuple[Approval, ...]
    freezes: tuple[Freeze, ...]
    alerts: tuple[Alert, ...]
    cut: frozenset[str]
