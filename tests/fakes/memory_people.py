"""The parts of the memory store that are about people: approvals, freezes, reviews, alerts, notices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from broker.alert import Alert, AlertRule
from broker.clock import Moment
from broker.errors import StoreConflict, StoreError
from broker.model import StepKey
from broker.store.approvals import OPEN, Approval, ApprovalState, Vote, past_approval
from broker.store.halts import Freeze, Review, SecondFactor
from broker.store.notices import FAR, AlertRow, Delivery, Notice

_LONG_AGO = datetime.min.replace(tzinfo=UTC)


def _is_due(next_try_at: datetime, now: datetime) -> bool:
    return next_try_at <= now or next_try_at > now + FAR


@dataclass(kw_only=True)
class PeopleState:
    """Values are frozen, so a copy of the containers is a copy of everything."""

    approvals: dict[str, Approval] = field(default_factory=dict)
    votes: dict[tuple[str, str], Vote] = field(default_factory=dict)
    freezes: dict[str, Freeze] = field(default_factory=dict)
    reviews: dict[str, Review] = field(default_factory=dict)
    factors: dict[str, SecondFactor] = field(default_factory=dict)
    alerts: dict[str, AlertRow] = field(default_factory=dict)
    deliveries: dict[tuple[str, str], Delivery] = field(default_factory=dict)
    notices: dict[str, Notice] = field(default_factory=dict)

    def copy(self) -> PeopleState:
        return PeopleState(**{name: value.copy() for name, value in vars(self).items()})


class PeopleTx:
    """ApprovalsTx, HaltsTx and NoticesTx."""

    _people: PeopleState
    _writable: bool

    def _p(self) -> PeopleState:
        if not self._writable:
            raise StoreError("read-only")
        return self._people

    # approvals

    def insert_approval(self, approval: Approval) -> None:
        if self.open_approval(approval.key, approval.scope) and approval.state in OPEN:
            raise StoreConflict("one is open")
        self._p().approvals[approval.id] = approval

    def approval(self, approval_id: str) -> Approval | None:
        return self._people.approvals.get(approval_id)

    def open_approval(self, key: StepKey, scope: str) -> Approval | None:
        found = (row for row in self._people.approvals.values() if (row.key, row.scope) == (key, scope))
        return next((row for row in found if row.state in OPEN), None)

    def open_approval_count(self, agent: str) -> int:
        return sum(row.key.agent == agent and row.state in OPEN for row in self._people.approvals.values())

    def put_approval(self, approval: Approval) -> None:
        before = self._p().approvals.get(approval.id)
        if before is None:
            return
        if (before.key, before.scope, before.digest, before.needed) != (
            approval.key,
            approval.scope,
            approval.digest,
            approval.needed,
        ):
            raise StoreError("what was asked to be approved is never changed")
        states = (before.state, approval.state)
        if approval.state is ApprovalState.CONSUMED and states != (ApprovalState.APPROVED, ApprovalState.CONSUMED):
            raise StoreError("only what is approved can be used, and once")
        other = self.open_approval(approval.key, approval.scope)
        if approval.state in OPEN and other is not None and other.id != approval.id:
            raise StoreConflict("one is open")
        self._people.approvals[approval.id] = approval

    def approvals(self, *states: ApprovalState, after: str = "", limit: int = 200) -> list[Approval]:
        rows = sorted(self._people.approvals.values(), key=lambda row: (row.requested_at, row.id), reverse=True)
        found = [row for row in rows if row.state in (states or tuple(ApprovalState))]
        if after:
            last = self._people.approvals.get(after)
            edge = (last.requested_at, last.id) if last else (datetime.max.replace(tzinfo=UTC), after)
            found = [row for row in found if (row.requested_at, row.id) < edge]
        return found[:limit]

    def approvals_past(self, now: Moment, *, limit: int) -> list[Approval]:
        found = (row for row in self._people.approvals.values() if row.state in OPEN)
        past = [row for row in found if past_approval(row, now) >= timedelta(0)]
        return sorted(past, key=lambda row: (row.expires_at, row.id))[:limit]

    def waiting_approvals(self, *, before: datetime, now: datetime, limit: int) -> list[Approval]:
        rows = [row for row in self._people.approvals.values() if row.state is ApprovalState.PENDING]
        found = [row for row in rows if row.requested_at <= before or row.requested_at > now]
        return sorted(found, key=lambda row: (row.requested_at, row.id))[:limit]

    def approval_counts(self) -> Mapping[ApprovalState, int]:
        return Counter(row.state for row in self._people.approvals.values() if row.state in OPEN)

    def add_vote(self, vote: Vote) -> None:
        if (vote.approval_id, vote.operator) in self._p().votes:
            raise StoreConflict("voted already")
        self._people.votes[vote.approval_id, vote.operator] = vote

    def votes(self, approval_id: str) -> Sequence[Vote]:
        found = [vote for vote in self._people.votes.values() if vote.approval_id == approval_id]
        return sorted(found, key=lambda vote: (vote.at, vote.operator))

    # halts

    def add_freeze(self, freeze: Freeze) -> bool:
        if freeze.id in self._p().freezes:
            return False
        self._people.freezes[freeze.id] = freeze
        return True

    def remove_freeze(self, freeze_id: str) -> bool:
        return self._p().freezes.pop(freeze_id, None) is not None

    def freezes(self) -> Sequence[Freeze]:
        return sorted(self._people.freezes.values(), key=lambda one: (one.at, one.id))

    def add_review(self, review: Review) -> None:
        self._p().reviews[review.id] = review

    def review(self, review_id: str) -> Review | None:
        return self._people.reviews.get(review_id)

    def close_review(self, review_id: str, *, by: str, at: datetime, note: str) -> bool:
        review = self._p().reviews.get(review_id)
        if review is None or review.closed_at is not None:
            return False
        if review.by == by:
            raise StoreConflict("nobody signs for himself")
        self._people.reviews[review_id] = replace(review, closed_by=by, closed_at=at, note=note)
        return True

    def reviews(self, *, closed_too: bool = False) -> Sequence[Review]:
        rows = sorted(self._people.reviews.values(), key=lambda one: one.id)
        rows.sort(key=lambda one: one.at, reverse=True)
        return [row for row in rows if closed_too or row.closed_at is None][:200]

    def second_factor(self, operator: str) -> SecondFactor | None:
        return self._people.factors.get(operator)

    def put_second_factor(self, factor: SecondFactor) -> None:
        self._p().factors[factor.operator] = factor

    # notices

    def raise_alert(self, alert: Alert, *, at: datetime) -> bool:
        known = self._p().alerts.get(alert.fingerprint)
        if known is not None and known.resolved_at is None:
            self._people.alerts[alert.fingerprint] = replace(
                known,
                alert=replace(known.alert, summary=alert.summary),
                last_at=max(known.last_at, at),
                count=known.count + 1,
            )
            return False
        serial = known.serial + 1 if known else 1
        row = AlertRow(alert=alert, since=at, last_at=at, count=1, serial=serial)
        self._people.alerts[alert.fingerprint] = row
        return True

    def resolve_alert(self, fingerprint: str, *, at: datetime) -> bool:
        known = self._p().alerts.get(fingerprint)
        if known is None or known.resolved_at is not None:
            return False
        self._people.alerts[fingerprint] = replace(known, resolved_at=at, serial=known.serial + 1)
        return True

    def alert(self, fingerprint: str) -> AlertRow | None:
        return self._people.alerts.get(fingerprint)

    def firing_counts(self) -> Mapping[AlertRule, int]:
        return Counter(row.alert.rule for row in self._people.alerts.values() if row.resolved_at is None)

    def alerts(self, *, resolved_too: bool = False) -> Sequence[AlertRow]:
        rows = sorted(self._people.alerts.values(), key=lambda row: row.alert.fingerprint)
        rows.sort(key=lambda row: row.since, reverse=True)
        firing = [row for row in rows if row.resolved_at is None]
        resolved = sorted(
            (row for row in rows if row.resolved_at is not None),
            key=lambda row: row.resolved_at or _LONG_AGO,
            reverse=True,
        )
        return firing + (resolved[:200] if resolved_too else [])

    def forget_alerts(self, before: datetime, limit: int) -> int:
        over = [(row.resolved_at, key) for key, row in self._p().alerts.items() if row.resolved_at is not None]
        old = [key for at, key in sorted(over) if at < before][:limit]
        for fingerprint in old:
            del self._people.alerts[fingerprint]
            for key in [key for key in self._people.deliveries if key[1] == fingerprint]:
                del self._people.deliveries[key]
        return len(old)

    def undelivered(self, sink: str, now: datetime, limit: int) -> Sequence[tuple[AlertRow, Delivery | None]]:
        found = []
        for fingerprint, row in self._people.alerts.items():
            delivery = self._people.deliveries.get((sink, fingerprint))
            taken = delivery.serial if delivery else 0
            due = delivery is None or delivery.next_try_at is None or _is_due(delivery.next_try_at, now)
            if taken < row.serial and due:
                found.append((row, delivery))
        found.sort(key=lambda pair: (pair[0].resolved_at or pair[0].since, pair[0].alert.fingerprint))
        return found[:limit]

    def put_delivery(self, delivery: Delivery) -> None:
        self._p().deliveries[delivery.sink, delivery.fingerprint] = delivery

    def waiting_for(self, sinks: Collection[str]) -> Mapping[str, Sequence[str]]:
        found: dict[str, list[str]] = {}
        for fingerprint, row in sorted(self._people.alerts.items()):
            for sink in sorted(sinks):
                delivery = self._people.deliveries.get((sink, fingerprint))
                if (delivery.serial if delivery else 0) < row.serial:
                    found.setdefault(fingerprint, []).append(sink)
        return found

    def add_notice(self, notice: Notice) -> None:
        self._p().notices[notice.id] = notice

    def due_notices(self, target: str, now: datetime, limit: int) -> Sequence[Notice]:
        unsent = [one for one in self._people.notices.values() if one.sent_at is None and one.target == target]
        return sorted(
            (one for one in unsent if _is_due(one.next_try_at, now)), key=lambda one: (one.next_try_at, one.id)
        )[:limit]

    def put_notice(self, notice: Notice) -> None:
        if known := self._p().notices.get(notice.id):
            self._people.notices[notice.id] = replace(
                known, next_try_at=notice.next_try_at, attempts=notice.attempts, sent_at=notice.sent_at
            )

    def unsent_notices(self) -> Mapping[str, tuple[int, datetime]]:
        found: dict[str, list[datetime]] = {}
        for one in self._people.notices.values():
            if one.sent_at is None:
                found.setdefault(one.target, []).append(one.created_at)
        return {target: (len(times), min(times)) for target, times in found.items()}

    def forget_notices(self, before: datetime) -> int:
        old = [one.id for one in self._p().notices.values() if one.sent_at is not None and one.sent_at < before]
        for notice_id in old:
            del self._people.notices[notice_id]
        return len(old)
