"""From the broker's answers to the model. Every text goes through `said` here: nothing else reaches a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from stepcred.cli._top.model import Alert, Approval, Freeze, Health, Key, Lease, Place, Provider, Step, Vote
from stepcred.cli._top.words import said
from stepcred.v1 import lease_pb2, operator_pb2

_REVOCABILITY = {
    number: name.removeprefix("REVOCABILITY_") for name, number in lease_pb2.Revocability.items() if number
}


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
