"""Rows and views → protobuf messages, and selections back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from google.protobuf import struct_pb2

from broker.errors import BrokerError, Reason
from broker.guard.listing import Listed
from broker.journal.chain import Entry
from broker.leases.selection import Selection
from broker.model import JsonValue, StepKey
from broker.operators.views.leases import LeaseView, StepView
from broker.operators.views.paging import Page, page_of
from broker.operators.views.people import ApprovalView
from broker.rpc.convert import lease_message, timestamp
from broker.rpc.status import duration
from broker.store.halts import Freeze, Review
from broker.store.notices import AlertRow
from stepcred.v1 import operator_pb2 as pb

_MAX_IDS = 500  # lease ids in a selection; more would not fit into a message
_NAMES = ("agent", "workflow", "run", "step", "scope", "provider")


def selection_of(message: pb.Selection) -> Selection:
    """What is to be changed: with nothing set it selects nothing. Raises INVALID_ARGUMENT."""
    if len(message.lease_ids) > _MAX_IDS:
        raise BrokerError(Reason.INVALID_ARGUMENT, f"more than {_MAX_IDS} lease ids in one selection")
    names = {name: getattr(message, name) for name in _NAMES}
    return Selection(**names, leases=frozenset(message.lease_ids), everything=message.everything)


def filter_of(message: pb.Selection) -> Selection:
    """What is to be shown: with nothing set it is everything."""
    found = selection_of(message)
    return found if found != Selection() else Selection(everything=True)


def selection_message(freeze: Freeze) -> pb.Selection:
    """Of a freeze of everything: everything."""
    names = {name: getattr(freeze, name) for name in _NAMES if name != "step"}
    return pb.Selection(**names, everything=not any(names.values()))


def page(message: pb.Page) -> Page:
    """Raises INVALID_ARGUMENT."""
    return page_of(message.size, message.token)


def step(view: StepView) -> pb.OperatorStep:  # noqa: D103 - named by what it makes, as those below
    row = view.step
    message = pb.OperatorStep(
        step_id=row.id,
        **names_of(row.key),
        agent=row.key.agent,
        attempt=row.attempt,
        open=row.ended_at is None,
        opened_at=timestamp(row.opened_at),
        deadline=timestamp(row.deadline_at),
        last_heartbeat=timestamp(row.last_heartbeat_at),
        launcher=row.launcher,
        scopes=row.scopes,
        end_reason=row.end_reason.value if row.end_reason else "",
        live_leases=view.live,
    )
    _set(message, ended_at=row.ended_at)
    return message


def lease(view: LeaseView) -> pb.OperatorLease:  # noqa: D103
    row = view.lease
    message = pb.OperatorLease(
        lease=lease_message(row),
        agent=row.agent,
        **(names_of(view.step.key) if view.step else {}),
        step_id=row.step_id,
        provider=row.provider,
        intent_at=timestamp(row.intent_at),
        evidence=row.evidence.value if row.evidence else "",
        end_reason=row.end_reason.value if row.end_reason else "",
        attempts=row.attempts,
        last_problem=row.last_problem,
        doomed=row.doomed_at is not None,
        approval_id=row.approval_id,
        state=row.state.value,
        tier=row.tier.value,
    )
    _set(message, revoking_at=row.revoking_at, ended_at=row.ended_at)
    return message


def guard_key(view: Listed) -> pb.GuardKey:  # noqa: D103
    row, captures = view.row, view.row.about.get("captures") or {}
    message = pb.GuardKey(
        key=row.key,
        hour=view.hour,
        tier=row.tier,
        state=view.state.value,
        workload=view.about("workload"),
        captures={str(name): str(value) for name, value in captures.items()},
        workflow=view.about("workflow"),
        run=view.about("run"),
        step=view.about("step"),
        scope=view.about("scope"),
        spent=view.spent,
        allowed=view.allowed,
        admitted=row.admitted,
        ceiling=view.ceiling,
        reset_by=row.reset_by,
    )
    _set(message, until=view.until, reset_at=row.reset_at)
    return message


def approval(view: ApprovalView) -> pb.Approval:  # noqa: D103
    row = view.approval
    return pb.Approval(
        approval_id=row.id,
        state=row.state.value,
        agent=row.key.agent,
        **names_of(row.key),
        step_id=row.step_id,
        scope=row.scope,
        tier=row.tier,
        workload=row.workload,
        owners=view.owners,
        rule=row.rule,
        needed=row.needed,
        votes=[
            pb.ApprovalVote(operator=vote.operator, approve=vote.approve, reason=vote.reason, at=timestamp(vote.at))
            for vote in view.votes
        ],
        requested_at=timestamp(row.requested_at),
        expires_at=timestamp(row.expires_at),
        digest=row.digest,
        lease_id=row.lease_id,
        ttl=duration(row.ttl),
        you_may_not=view.you_may_not,
    )


def freeze(row: Freeze) -> pb.FreezeEntry:  # noqa: D103
    return pb.FreezeEntry(
        freeze_id=row.id, selection=selection_message(row), by=row.by, reason=row.reason, at=timestamp(row.at)
    )


def review(row: Review) -> pb.Review:  # noqa: D103
    message = pb.Review(
        review_id=row.id,
        kind=row.kind,
        about=struct(row.about),
        by=row.by,
        reason=row.reason,
        at=timestamp(row.at),
        closed_by=row.closed_by,
        note=row.note,
    )
    _set(message, closed_at=row.closed_at)
    return message


def alert(row: AlertRow, waiting_for: Sequence[str]) -> pb.Alert:  # noqa: D103
    message = pb.Alert(
        rule=row.alert.rule.value,
        severity=row.alert.rule.severity.value,
        labels=row.alert.labels,
        summary=row.alert.summary,
        runbook=f"alerts.md#{row.alert.rule.value}",
        since=timestamp(row.since),
        last_at=timestamp(row.last_at),
        count=row.count,
        waiting_for=waiting_for,
        fingerprint=row.alert.fingerprint,
    )
    _set(message, resolved_at=row.resolved_at)
    return message


def entries(rows: Iterable[Entry]) -> list[pb.JournalEntry]:
    """As they are kept."""
    return [pb.JournalEntry(chain=row.chain, seq=row.seq, body=row.body, hash=row.hash.hex()) for row in rows]


def struct(value: Mapping[str, JsonValue]) -> struct_pb2.Struct:
    """A JSON object. Numbers are floats then, as Struct has it."""
    message = struct_pb2.Struct()
    message.update(dict(value))
    return message


def names_of(key: StepKey) -> dict[str, Any]:
    """Of a step key."""
    return {"workflow": key.workflow, "run": key.run, "step": key.step}


def _set(message: Any, **times: datetime | None) -> None:
    """Those that are known."""
    for name, at in times.items():
        if at is not None:
            getattr(message, name).CopyFrom(timestamp(at))
