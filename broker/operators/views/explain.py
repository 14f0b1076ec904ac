"""The whole story of one reference id, lease or approval, for people and as the journal's records.

What agents said is shown so that it cannot steer a terminal (`policy.problems.show`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from broker.errors import BrokerError, Reason
from broker.journal.chain import Entry
from broker.journal.records import Kind
from broker.model import JsonValue, Lease, Step
from broker.policy.problems import show
from broker.policy.scope_map import ScopeMap
from broker.policy.usage.denial import story
from broker.store.approvals import Approval
from broker.store.base import Tx

MOST = 1000  # records of one step that are looked through
_LONGEST = 64  # characters of a reference

Record = Mapping[str, JsonValue]


@dataclass(frozen=True, kw_only=True, slots=True)
class Story:
    """Lines for people, and the records that they come from."""

    lines: Sequence[str]
    records: Sequence[Record]


def explain(tx: Tx, reference: str, *, scope_map: ScopeMap, now: datetime) -> Story:
    """A refusal's reference id, a lease id or an approval's. Raises NOT_FOUND."""
    if 0 < len(reference) <= _LONGEST:
        if entries := tx.journal_of_reference(reference, limit=MOST):
            return _refusal([json.loads(entry.body) for entry in entries], scope_map, now)
        if lease := tx.lease(reference):
            return _lease(tx, lease)
        if approval := tx.approval(reference):
            return _approval(tx, approval)
    raise BrokerError(
        Reason.NOT_FOUND, "no refusal has this reference, and there is no lease and no approval of this id"
    )


# --- a refusal ---


def _refusal(records: Sequence[Record], scope_map: ScopeMap, now: datetime) -> Story:
    first = records[0]
    if first.get("kind") == Kind.OPERATOR_DENIED.value:  # no question to the scope map
        return Story(lines=list(_operator_denied(first, _more(records))), records=records)
    told = story(first, _more(records), scope_map, now)
    return Story(lines=[line for _, line in told.lines()], records=records)


def _more(records: Sequence[Record]) -> int | None:
    """Further refusals under the reference of the first; None: the journal does not say, or there can be none."""
    counts = [_data(one).get("count") for one in records if one.get("kind") == Kind.DENIALS_COUNTED.value]
    if not counts or not isinstance(counts[0], int):
        return None
    return counts[0] if records[0].get("kind") == Kind.DENIALS_COUNTED.value else counts[0] - 1


def _operator_denied(record: Record, more: int | None) -> Iterator[str]:
    data = _data(record)
    yield f"refusal {_shown(record.get('reference_id'))}, of an operator"
    yield f"  at: {_shown(record.get('at'))}"
    yield f"  who: {_shown(data.get('operator') or record.get('agent'))}"
    yield f"  certificate: {_shown(record.get('cert_sha256'))}, from {_shown(record.get('peer'))}"
    yield f"  asked: {_shown(data.get('method'))}"
    yield f"  reason: {_shown(record.get('reason'))}; docs/errors.md says what to do"
    if more:
        yield f"  {more} more in that minute, of the same operator and reason, were told this reference"


# --- a lease ---


def _lease(tx: Tx, lease: Lease) -> Story:
    step = tx.step(lease.step_id)
    entries = tx.journal_of_step(lease.step_id, limit=MOST)
    records = [body for body in map(_body, entries) if body.get("lease_id") == lease.id]
    lines = [*_what(lease), *_whose(lease, step), *_allowed_by(tx, lease, records), *_end(lease, step)]
    lines += ["  what the journal has of it", *(f"    {line}" for line in told(records))]
    return Story(lines=lines, records=records)


def _what(lease: Lease) -> Iterator[str]:
    yield f"lease {lease.id} is {lease.state.value}"
    yield f"  scope: {show(lease.scope)}, tier {lease.tier.value}, of {lease.provider}"
    yield f"  it can be ended: {lease.revocability.value}"


def _whose(lease: Lease, step: Step | None) -> Iterator[str]:
    yield f"  agent: {show(lease.agent)}"
    if step is not None:
        key = step.key
        yield f"  workflow {show(key.workflow)}, run {show(key.run)}, step {show(key.step)}, attempt {step.attempt}"
        if step.launched:
            yield f"  opened by its launcher: {show(step.opened_by)}"
    yield f"  asked for at {_at(lease.intent_at)}" + (f" from {show(lease.address)}" if lease.address else "")
    yield f"  to end at {_at(lease.expires_at)}"


def _allowed_by(tx: Tx, lease: Lease, records: Sequence[Record]) -> Iterator[str]:
    rule = next((record["rule"] for record in records if record.get("rule")), "")
    if rule:
        yield f"  rule: {show(str(rule))}, of generation {lease.policy_generation}"
    if lease.replaces:
        yield f"  in the place of {lease.replaces}, as successor {lease.successor_no}"
    if lease.replaced_by:
        yield f"  replaced by {lease.replaced_by}"
    approval = tx.approval(lease.approval_id) if lease.approval_id else None
    if approval is not None:
        yield f"  approval {approval.id}, asked for at {_at(approval.requested_at)}"
        yield from (f"  {line}" for line in _votes(tx, approval))


def _end(lease: Lease, step: Step | None) -> Iterator[str]:
    if lease.end_reason is not None:
        since = lease.doomed_at or lease.revoking_at
        yield f"  to be ended because: {lease.end_reason.value}" + (f", since {_at(since)}" if since else "")
    if step is not None and step.end_reason is not None and step.ended_at is not None:
        yield f"  its step ended at {_at(step.ended_at)}: {step.end_reason.value}"
    if lease.ended_at is not None and lease.evidence is not None:
        yield f"  ended at {_at(lease.ended_at)}; known by {lease.evidence.value}"
    elif lease.attempts:
        yield f"  tried {lease.attempts} times; in the way: {show(lease.last_problem)}"


# --- an approval ---


def _approval(tx: Tx, approval: Approval) -> Story:
    key = approval.key
    entries = tx.journal_of_run(key.run, limit=MOST)  # its votes are operators' records, of no step
    records = [body for body in map(_body, entries) if _data(body).get("approval_id") == approval.id]
    lines = [
        f"approval {approval.id} is {approval.state.value}",
        f"  scope: {show(approval.scope)}, tier {approval.tier}, for {_seconds(approval.ttl)}",
        f"  agent: {show(key.agent)}",
        f"  workflow {show(key.workflow)}, run {show(key.run)}, step {show(key.step)}",
        f"  rule: {show(approval.rule)}",
        f"  asked for at {_at(approval.requested_at)}, good until {_at(approval.expires_at)}",
        *(f"  {line}" for line in _votes(tx, approval)),
    ]
    if approval.lease_id:
        lines.append(f"  used by lease {approval.lease_id}")
    lines += ["  what the journal has of it", *(f"    {line}" for line in told(records))] if records else []
    return Story(lines=lines, records=records)


def _votes(tx: Tx, approval: Approval) -> Iterator[str]:
    votes = tx.votes(approval.id)
    yield f"needs {approval.needed}, has {sum(vote.approve for vote in votes)}"
    for vote in votes:
        word = "yes" if vote.approve else "no"
        yield f"{word} by {show(vote.operator)} at {_at(vote.at)}: {show(vote.reason)}"


# --- records ---


def told(records: Sequence[Record]) -> Iterator[str]:
    """One line for each."""
    for record in records:
        words = [_shown(record.get("at"))[:23], _shown(record.get("kind"))]
        if record.get("reason"):
            words.append(_shown(record["reason"]))
        data = _data(record)
        if "approve" in data:
            words.append("yes" if data["approve"] else "no")
        facts = ("by", "operator", "why", "problem", "seconds_to_dead")
        words += [f"{name} {_shown(data[name])}" for name in facts if data.get(name) not in (None, "")]
        yield "  ".join(words)


def _body(entry: Entry) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = json.loads(entry.body)
    return found


def _data(record: Record) -> Mapping[str, JsonValue]:
    data = record.get("data")
    return data if isinstance(data, dict) else {}


def _shown(value: JsonValue) -> str:
    """Without quotes where nothing in it could be taken for something else."""
    text = value if isinstance(value, str) else json.dumps(value)
    quoted = show(text)
    return text if quoted == f"'{text}'" else quoted


def _at(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _seconds(span: timedelta) -> str:
    return f"{span.total_seconds():.0f} s"
