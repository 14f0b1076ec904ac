"""Row ↔ domain. A column is named as its field; times are microseconds since 1970, JSON is canonical text."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from enum import Enum
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar

from broker.alert import Alert, AlertRule
from broker.journal.chain import Entry, Head
from broker.model import (
    Bind,
    Certificate,
    EndReason,
    Evidence,
    JsonValue,
    Lease,
    LeaseState,
    Revocability,
    Step,
    StepKey,
    StepState,
    Tier,
)
from broker.store.approvals import Approval, ApprovalState, Vote
from broker.store.base import Epoch, KeptMap, Request, RequestOutcome
from broker.store.guard import GuardClock, GuardRow, GuardState
from broker.store.halts import Freeze, Review, SecondFactor
from broker.store.notices import AlertRow, Delivery, Notice

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

SqlValue: TypeAlias = int | float | str | bytes | None
D = TypeVar("D", bound="DataclassInstance")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_TICK = timedelta(microseconds=1)
_CANONICAL = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def micros(at: datetime) -> int:
    """Exact, without floats. A naive time raises TypeError."""
    return (at - _EPOCH) // _TICK


def time_of(value: int) -> datetime:
    """Aware, UTC."""
    return _EPOCH + timedelta(microseconds=value)


def canonical(value: JsonValue) -> str:
    """One text for one value: sorted keys, no blanks."""
    return _CANONICAL.encode(value)


@dataclass(frozen=True, slots=True)
class Codec:
    """How one field is stored. None stays NULL."""

    to_sql: Callable[[Any], SqlValue]
    to_field: Callable[[Any], Any]


def _enum(kind: type[Enum]) -> Codec:
    return Codec(attrgetter("_value_"), {member.value: member for member in kind}.__getitem__)  # not through properties


_TIME = Codec(micros, time_of)
_SPAN = Codec(lambda span: span // _TICK, lambda value: timedelta(microseconds=value))
_FLAG = Codec(int, bool)
_JSON = Codec(canonical, json.loads)
_NAMES = Codec(lambda names: canonical(list(names)), lambda text: tuple(json.loads(text)))
_TIMES = Codec(
    lambda times: canonical([micros(at) for at in times]),
    lambda text: tuple(time_of(value) for value in json.loads(text)),
)


class Shape(Generic[D]):
    """Converts one dataclass, field by field."""

    def __init__(self, kind: type[D], *, without: tuple[str, ...] = (), **codecs: Codec) -> None:
        self._kind = kind
        self._names = [field.name for field in fields(kind) if field.name not in without]
        self._fields = attrgetter(*self._names)
        self._codecs = list(codecs.items())  # most fields are stored as they are: only these cost a call

    def row(self, value: D) -> dict[str, SqlValue]:
        """Column → value."""
        found = dict(zip(self._names, self._fields(value), strict=True))
        for name, codec in self._codecs:
            if found[name] is not None:
                found[name] = codec.to_sql(found[name])
        return found

    def values(self, row: sqlite3.Row) -> dict[str, Any]:
        """Field → value."""
        found = {name: row[name] for name in self._names}
        for name, codec in self._codecs:
            if found[name] is not None:
                found[name] = codec.to_field(found[name])
        return found

    def of(self, row: sqlite3.Row) -> D:
        """The domain object."""
        return self._kind(**self.values(row))


CERTIFICATE = Shape(Certificate)
_LEASE = Shape(
    Lease,
    without=("certificate",),
    params=_JSON,
    refs=_JSON,
    tier=_enum(Tier),
    revocability=_enum(Revocability),
    state=_enum(LeaseState),
    end_reason=_enum(EndReason),
    evidence=_enum(Evidence),
    intent_at=_TIME,
    expires_at=_TIME,
    active_at=_TIME,
    claimed_at=_TIME,
    doomed_at=_TIME,
    revoking_at=_TIME,
    ended_at=_TIME,
    first_mint_at=_TIME,
    next_try_at=_TIME,
)
REQUEST = Shape(Request, created_at=_TIME, keep_until=_TIME, outcome=_enum(RequestOutcome))
GUARD_ROW = Shape(
    GuardRow,
    about=_JSON,
    state=_enum(GuardState),
    until=_TIME,
    cool=_SPAN,
    refilled_at=_TIME,
    locked_at=_TIMES,
    hour_exhausted_at=_TIMES,
    reset_at=_TIME,
)
GUARD_CLOCK = Shape(GuardClock, at=_TIME, wall=_TIME)
EPOCH = Shape(Epoch)
KEPT_MAP = Shape(KeptMap, without=("contents",), loaded_at=_TIME, signers=_NAMES)
ENTRY = Shape(Entry)
HEAD = Shape(Head)
STEP_KEY = Shape(StepKey)
_STEP = Shape(
    Step,
    without=("key", "certificate"),
    bind=_enum(Bind),
    scopes=_NAMES,
    state=_enum(StepState),
    proven=_FLAG,
    opened_at=_TIME,
    deadline_at=_TIME,
    last_heartbeat_at=_TIME,
    started_at=_TIME,
    ended_at=_TIME,
    end_reason=_enum(EndReason),
)


_APPROVAL = Shape(
    Approval,
    without=("key",),
    captures=_JSON,
    ttl=_SPAN,
    state=_enum(ApprovalState),
    requested_at=_TIME,
    expires_at=_TIME,
    decided_at=_TIME,
)
VOTE = Shape(Vote, approve=_FLAG, at=_TIME, good_for=_SPAN)
FREEZE = Shape(Freeze, at=_TIME)
REVIEW = Shape(Review, about=_JSON, at=_TIME, closed_at=_TIME)
SECOND_FACTOR = Shape(SecondFactor, failed_at=_TIME)
_ALERT_ROW = Shape(AlertRow, without=("alert",), since=_TIME, last_at=_TIME, resolved_at=_TIME)
DELIVERY = Shape(Delivery, next_try_at=_TIME)
NOTICE = Shape(Notice, body=_JSON, created_at=_TIME, next_try_at=_TIME, sent_at=_TIME)


def approval_row(approval: Approval) -> dict[str, SqlValue]:
    """The fields of its key are columns like the others."""
    return _APPROVAL.row(approval) | STEP_KEY.row(approval.key)


def approval_of(row: sqlite3.Row) -> Approval:
    """With its key."""
    return Approval(key=STEP_KEY.of(row), **_APPROVAL.values(row))


def alert_row_of(row: sqlite3.Row) -> AlertRow:
    """With what it is about."""
    alert = Alert(rule=AlertRule(row["rule"]), summary=row["summary"], labels=json.loads(row["labels"]))
    return AlertRow(alert=alert, **_ALERT_ROW.values(row))


def step_row(step: Step) -> dict[str, SqlValue]:
    """The fields of its key and certificate are columns like the others."""
    return _STEP.row(step) | STEP_KEY.row(step.key) | CERTIFICATE.row(step.certificate)


def step_of(row: sqlite3.Row) -> Step:
    """With its key and certificate."""
    return Step(key=STEP_KEY.of(row), certificate=CERTIFICATE.of(row), **_STEP.values(row))


def lease_row(lease: Lease) -> dict[str, SqlValue]:
    """The same for a lease."""
    return _LEASE.row(lease) | CERTIFICATE.row(lease.certificate)


def lease_of(row: sqlite3.Row) -> Lease:
    """With its certificate."""
    return Lease(certificate=CERTIFICATE.of(row), **_LEASE.values(row))
