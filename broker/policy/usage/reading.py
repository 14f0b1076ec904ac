"""Journal records → events: one pass in the journal's order, in bounded memory.

Total: whatever a record holds, it is an event, none, or `Unusable`; an export may come from anywhere.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Generic, TypeVar

from broker.errors import Reason
from broker.journal.records import Kind
from broker.model import EndReason, JsonValue
from broker.policy.decision import AccessRequest, Denial
from broker.policy.patterns import BINDING
from broker.policy.usage.events import Event, LeaseOver, Outcome, Period, Question, StepOver, Uncounted, Unusable

T = TypeVar("T")

MAX_OPEN = 100_000  # steps, and leases, remembered at once; the oldest is forgotten first
GRANTED, APPROVAL = "granted", "needs approval"  # what STEP_BEGUN says of a scope that is not refused
_NAMELESS = "the record names no step or no scope"
_DENIALS = frozenset(denial.value for denial in Denial)
# The rest ended because somebody else wanted it: how long the step needed it, nobody knows.
_OWN_ENDS = frozenset(
    reason.value
    for reason in (
        EndReason.STEP_ENDED,
        EndReason.REVOKED_BY_AGENT,
        EndReason.REPLACED,
        EndReason.LEASE_EXPIRED,
        EndReason.DEADLINE,
    )
)


class Recent(Generic[T]):
    """A bounded memory by id."""

    def __init__(self, limit: int = MAX_OPEN) -> None:
        self._limit = limit
        self._held: OrderedDict[str, T] = OrderedDict()

    def put(self, key: str, value: T) -> None:
        """Remember; forgets the oldest when full."""
        self._held[key] = value
        if len(self._held) > self._limit:
            self._held.popitem(last=False)

    def get(self, key: str) -> T | None:
        return self._held.get(key)

    def pop(self, key: str) -> T | None:
        return self._held.pop(key, None)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Begun:
    """What STEP_BEGUN said."""

    at: datetime
    fields: Mapping[str, JsonValue]  # agent, names, and circumstances
    scopes: Mapping[str, str]


class Reader:
    """Give it every record from the journal's beginning: what a step is, its first record says."""

    def __init__(self, *, since: datetime | None = None, until: datetime | None = None) -> None:
        self._since = since
        self._until = until
        self._steps: Recent[_Begun] = Recent()
        self._leases: Recent[datetime] = Recent()
        self.period = Period()

    def read(self, record: Mapping[str, JsonValue]) -> Iterator[Event]:
        """The events of one record, when it lies in the period asked for."""
        at = instant(record.get("at"))
        if at is None:
            yield Unusable(why="its time cannot be read")
            return
        events = list(self._events(record, at))  # also before the period: what begins there ends in it
        if (self._since is None or at >= self._since) and (self._until is None or at < self._until):
            self.period.note(at)
            yield from events

    def _events(self, record: Mapping[str, JsonValue], at: datetime) -> Iterator[Event]:
        data = _mapping(record.get("data"))
        match text(record, "kind"):
            case Kind.STEP_BEGUN.value:
                yield from self._begun(record, data, at)
            case Kind.LEASE_INTENT.value:
                yield self._asked(record, data, at)
            case Kind.DENIED.value:
                yield from self._denied(record, data, at)
            case Kind.DENIALS_COUNTED.value:
                yield Uncounted(reason=text(record, "reason"), count=max(0, _number(data.get("count")) - 1))
            case Kind.STEP_ENDED.value:
                yield from self._step_over(record, at)
            case Kind.LEASE_ACTIVE.value:
                self._leases.put(text(record, "lease_id"), at)
            case Kind.LEASE_REVOKING.value:
                yield from self._lease_over(record, at, reason=text(record, "reason"))
            case Kind.LEASE_EXPIRED.value:  # to its very end, unless its end was asked for before
                yield from self._lease_over(record, at, reason=EndReason.LEASE_EXPIRED.value)

    def _begun(self, record: Mapping[str, JsonValue], data: Mapping[str, JsonValue], at: datetime) -> Iterator[Event]:
        known = {**data, **{name: record.get(name) for name in ("agent", *BINDING)}}
        scopes = {scope: str(word) for scope, word in _mapping(data.get("scopes")).items() if isinstance(scope, str)}
        self._steps.put(text(record, "step_id"), _Begun(at=at, fields=known, scopes=scopes))
        if not _whole(known):
            yield Unusable(why=_NAMELESS)
            return
        for scope, word in scopes.items():
            outcome = {GRANTED: Outcome.ALLOWED, APPROVAL: Outcome.APPROVAL}.get(word, Outcome.REFUSED)
            reason = word if outcome is Outcome.REFUSED else ""
            yield question(known, record, scope, at, outcome=outcome, named=True, reason=reason)

    def _asked(self, record: Mapping[str, JsonValue], data: Mapping[str, JsonValue], at: datetime) -> Event:
        step, scope = self._steps.get(text(record, "step_id")), text(record, "scope")
        known = _told(record, data, step)
        if not _whole(known):
            return Unusable(why="the beginning of its step is not in this journal")
        waited = step is not None and step.scopes.get(scope) == APPROVAL
        return question(known, record, scope, at, outcome=Outcome.APPROVAL if waited else Outcome.ALLOWED)

    def _denied(self, record: Mapping[str, JsonValue], data: Mapping[str, JsonValue], at: datetime) -> Iterator[Event]:
        step, scope = self._steps.get(text(record, "step_id")), text(record, "scope")
        if step is not None and data.get("method") == "BeginStep" and scope in step.scopes:
            return  # the step's first record has asked it already
        yield _refused(record, at, _told(record, data, step))

    def _step_over(self, record: Mapping[str, JsonValue], at: datetime) -> Iterator[Event]:
        step_id = text(record, "step_id")
        step = self._steps.pop(step_id)
        if step is not None and at >= step.at:
            yield StepOver(step_id=step_id, lasted=at - step.at, own_end=text(record, "reason") in _OWN_ENDS)

    def _lease_over(self, record: Mapping[str, JsonValue], at: datetime, *, reason: str) -> Iterator[Event]:
        active_at = self._leases.pop(text(record, "lease_id"))
        if active_at is not None and at >= active_at:
            yield LeaseOver(scope=text(record, "scope"), lived=at - active_at, own_end=reason in _OWN_ENDS)


def _refused(record: Mapping[str, JsonValue], at: datetime, known: Mapping[str, JsonValue]) -> Question | Unusable:
    """The question of a DENIED record; `known`: its fields and data, with what its step's beginning said."""
    reason, denial = text(record, "reason"), text(_mapping(record.get("data")), "denial")
    scope = text(record, "scope")
    if reason == Reason.NEEDS_APPROVAL.value:
        outcome = Outcome.APPROVAL
    elif denial in _DENIALS:
        outcome = Outcome.REFUSED
    else:
        return Unusable(why=f"refused by something else than the scope map: {reason or 'no reason'}")
    if not (scope and _whole(known)):
        return Unusable(why=_NAMELESS)
    return question(known, record, scope, at, outcome=outcome, reason=denial or reason)


def question(
    known: Mapping[str, JsonValue],
    record: Mapping[str, JsonValue],
    scope: str,
    at: datetime,
    *,
    outcome: Outcome,
    named: bool = False,
    reason: str = "",
) -> Question:
    """`known`: the agent, the names and the circumstances; what is missing there is as if nobody had said it."""
    proven, said = known.get("proven") is True, text(known, "definition_digest")
    agent, opened_by = text(known, "agent"), text(known, "opened_by")
    return Question(
        request=AccessRequest(
            agent=agent,
            workflow=text(known, "workflow"),
            run=text(known, "run"),
            step=text(known, "step"),
            scope=scope,
            now=at,
            proven=proven,
            definition_digest=said if proven else "",
            address=text(known, "address"),
            attempt=max(1, _number(known.get("attempt"))),
        ),
        outcome=outcome,
        named=named,
        launcher=opened_by if opened_by != agent else "",
        said_digest=said,
        reason=reason,
        reference=text(record, "reference_id"),
        step_id=text(record, "step_id"),
        untold=frozenset(name for name in ("address", "attempt") if name not in known),
    )


def _told(
    record: Mapping[str, JsonValue], data: Mapping[str, JsonValue], step: _Begun | None
) -> Mapping[str, JsonValue]:
    """What the record says itself stands before what its step's beginning said."""
    own = {name: record[name] for name in ("agent", *BINDING) if record.get(name)}
    return {**(step.fields if step else {}), **data, **own}


def instant(value: JsonValue) -> datetime | None:
    """A record's time; None when it is none, or has no zone."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return found.astimezone(UTC) if found is not None and found.tzinfo is not None else None
    except (ValueError, OverflowError):
        return None


def text(fields: Mapping[str, JsonValue], name: str) -> str:
    """A field that is text, or ""."""
    value = fields.get(name)
    return value if isinstance(value, str) else ""


def _whole(known: Mapping[str, JsonValue]) -> bool:
    """Does it say who asked in which execution?"""
    return all(text(known, name) for name in ("agent", *BINDING))


def _number(value: JsonValue) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else 0


def _mapping(value: JsonValue) -> Mapping[str, JsonValue]:
    return value if isinstance(value, Mapping) else {}
