"""What people have to say yes to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from broker.clock import Moment
from broker.model import StepKey
from broker.store.approvals import OPEN, Approval, ApprovalState, Vote
from broker.store.sqlite import sql
from broker.store.sqlite.rows import STEP_KEY, VOTE, SqlValue, approval_of, approval_row, canonical, micros
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("approvals")


class ApprovalsArea(Area):
    """One open approval for a step key and scope."""

    def insert_approval(self, approval: Approval) -> None:
        self.must_have_room()
        self._db.run(_SQL["insert_approval"], approval_row(approval))

    def approval(self, approval_id: str) -> Approval | None:
        row = self._db.one(_SQL["approval"], {"id": approval_id})
        return approval_of(row) if row else None

    def open_approval(self, key: StepKey, scope: str) -> Approval | None:
        row = self._db.one(_SQL["open_approval"], STEP_KEY.row(key) | {"scope": scope})
        return approval_of(row) if row else None

    def open_approval_count(self, agent: str) -> int:
        (row,) = self._db.all(_SQL["open_approval_count"], {"agent": agent})
        return int(row["approvals"])

    def put_approval(self, approval: Approval) -> None:
        self._db.run(_SQL["put_approval"], approval_row(approval))

    def approvals(self, *states: ApprovalState, after: str = "", limit: int = 200) -> list[Approval]:
        named = canonical([state.value for state in states or ApprovalState])
        query = _SQL["open_approvals"] if states and set(states) <= set(OPEN) else _SQL["approvals"]
        rows = self._db.all(query, {"states": named, "after": after, "limit": limit})
        return [approval_of(row) for row in rows]

    def approvals_past(self, now: Moment, *, limit: int) -> list[Approval]:
        parameters: dict[str, SqlValue] = {
            "now": micros(now.wall),
            "boot": now.boot,
            "boot_id": now.boot_id,
            "limit": limit,
        }
        return [approval_of(row) for row in self._db.all(_SQL["approvals_past"], parameters)]

    def waiting_approvals(self, *, before: datetime, now: datetime, limit: int) -> list[Approval]:
        asked: dict[str, SqlValue] = {"before": micros(before), "now": micros(now), "limit": limit}
        return [approval_of(row) for row in self._db.all(_SQL["waiting_approvals"], asked)]

    def approval_counts(self) -> Mapping[ApprovalState, int]:
        return {ApprovalState(row["state"]): int(row["approvals"]) for row in self._db.all(_SQL["approval_counts"])}

    def add_vote(self, vote: Vote) -> None:
        self._db.run(_SQL["add_vote"], VOTE.row(vote))

    def votes(self, approval_id: str) -> Sequence[Vote]:
        return [VOTE.of(row) for row in self._db.all(_SQL["votes"], {"approval_id": approval_id})]
