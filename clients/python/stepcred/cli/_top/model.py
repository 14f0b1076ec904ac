"""What the broker answered, as plain values. Every text has gone through `said`: nothing else reaches a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from stepcred.cli._top.words import said
from stepcred.v1 import lease_pb2, operator_pb2

OVERDUE = timedelta(minutes=1)  # a revocation without evidence for longer alarms (DESIGN, lease states)
ENDING = frozenset({"REVOKING", "IN_DOUBT"})
_REVOCABILITY = {
    number: name.removeprefix("REVOCABILITY_") for name, number in lease_pb2.Revocability.items() if number
}


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


def health(told: operator_pb2.GetHealthResponse) -> Health:
    return Health(
        environment=said(told.environment),
        epoch=told.epoch,
        draining=told.draining,
        providers=tuple(
            Provider(
                name=said(one.name),
                problems=_texts(one.problems),
                breaker_open=one.breaker_open,
                active=one.active,
                revoking=one.revoking,
                in_doubt=one.in_doubt,
            )
            for one in told.providers
        ),
        open_steps=told.open_steps,
        intents=told.intents,
        overdue=told.overdue,
        oldest_revoking=moment(told, "oldest_revoking"),
        freezes=told.freezes,
        approvals_waiting=told.approvals_waiting,
        keys_locked=told.keys_locked,
        keys_held=told.keys_held,
        problems=_texts(told.problems),
        alerts_firing=told.alerts_firing,
    )


def step(told: operator_pb2.OperatorStep) -> Step:
    return Step(
        step_id=said(told.step_id),
        place=_place(told),
        attempt=told.attempt,
        opened_at=moment(told, "opened_at"),
        deadline=moment(told, "deadline"),
        last_heartbeat=moment(told, "last_heartbeat"),
        launcher=said(told.launcher),
        scopes=_texts(told.scopes),
        live_leases=told.live_leases,
    )


def lease(told: operator_pb2.OperatorLease) -> Lease:
    return Lease(
        lease_id=said(told.lease.lease_id),
        place=_place(told),
        state=said(told.state),
        scope=said(told.lease.scope),
        tier=said(told.tier),
        provider=said(told.provider),
        revocability=_REVOCABILITY.get(told.lease.revocability, ""),
        intent_at=moment(told, "intent_at"),
        expires_at=moment(told.lease, "expires_at"),
        revoking_at=moment(told, "revoking_at"),
        tries=told.attempts,
        problem=said(told.last_problem),
        doomed=told.doomed,
        end_reason=said(told.end_reason),
        approval_id=said(told.approval_id),
    )


def key(told: operator_pb2.GuardKey) -> Key:
    return Key(
        key=said(told.key),
        hour=told.hour,
        state=said(told.state),
        tier=said(told.tier),
        workload=said(told.workload),
        captures=_pairs(told.captures),
        workflow=said(told.workflow),
        run=said(told.run),
        step=said(told.step),
        scope=said(told.scope),
        spent=told.spent,
        allowed=told.allowed,
        admitted=told.admitted,
        ceiling=told.ceiling,
        until=moment(told, "until"),
        reset_by=said(told.reset_by),
        reset_at=moment(told, "reset_at"),
    )


def approval(told: operator_pb2.Approval) -> Approval:
    return Approval(
        approval_id=said(told.approval_id),
        place=_place(told),
        state=said(told.state),
        scope=said(told.scope),
        tier=said(told.tier),
        rule=said(told.rule),
        needed=told.needed,
        votes=tuple(
            Vote(operator=said(one.operator), approve=one.approve, reason=said(one.reason)) for one in told.votes
        ),
        requested_at=moment(told, "requested_at"),
        expires_at=moment(told, "expires_at"),
        digest=said(told.digest),
        you_may_not=said(told.you_may_not),
    )


def freeze(told: operator_pb2.FreezeEntry) -> Freeze:
    chosen = told.selection
    fields = ("agent", "workflow", "run", "step", "scope", "provider")
    what = (
        "everything"
        if chosen.everything
        else " ".join(f"{name} {getattr(chosen, name)}" for name in fields if getattr(chosen, name))
    )
    return Freeze(
        freeze_id=said(told.freeze_id),
        what=said(what),
        by=said(told.by),
        reason=said(told.reason),
        at=moment(told, "at"),
    )


def alert(told: operator_pb2.Alert) -> Alert:
    return Alert(
        fingerprint=said(told.fingerprint),
        rule=said(told.rule),
        severity=said(told.severity),
        labels=_pairs(told.labels),
        summary=said(told.summary),
        runbook=said(told.runbook),
        since=moment(told, "since"),
        count=told.count,
        waiting_for=_texts(told.waiting_for),
    )


def moment(told: Any, name: str) -> datetime | None:
    """None while it is unset."""
    if not told.HasField(name):
        return None
    found: datetime = getattr(told, name).ToDatetime(UTC)
    return found


def _place(told: Any) -> Place:
    return Place(agent=said(told.agent), workflow=said(told.workflow), run=said(told.run), step=said(told.step))


def _texts(told: Sequence[str]) -> tuple[str, ...]:
    return tuple(said(text) for text in told)


def _pairs(told: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((said(name), said(value)) for name, value in told.items()))
