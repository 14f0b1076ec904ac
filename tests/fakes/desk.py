"""A desk that does what it is told, and remembers it: what the service makes of its answers is what is tested."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from broker.errors import BrokerError, Reason
from broker.leases.orders import Fallen
from broker.leases.selection import Selection
from broker.operators.desk import Desk, Frozen
from broker.operators.model import Caller
from broker.operators.second_factor import NewFactor
from broker.secret import Secret
from broker.store.approvals import Approval, Vote
from broker.store.base import Tx
from broker.store.guard import GuardRow
from broker.store.halts import Freeze, Review
from tests.fakes.world import World


@dataclass
class FakeDesk(Desk):
    broker: World
    asked: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # method, operator, the rest
    off: str = ""

    def _note(self, method: str, caller: Caller, **more: Any) -> None:
        self.asked.append((method, caller.operator.name, more))

    async def revoke(
        self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, end_steps: bool
    ) -> Fallen:
        self._note("revoke", caller, selection=selection, reason=reason, dry_run=dry_run, end_steps=end_steps)
        return await self.broker.engine.orders.would_revoke(selection, end_steps=end_steps)

    async def freeze(self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, revoke: bool) -> Frozen:
        self._note("freeze", caller, selection=selection, reason=reason, dry_run=dry_run, revoke=revoke)
        made = Freeze(
            id="all" if selection.everything else "f" * 16,
            by=caller.operator.name,
            reason=reason,
            at=self.broker.clock.now(),
            scope=selection.scope,
        )
        if not dry_run:
            await self.broker.store.write(lambda tx: tx.add_freeze(made))
        fallen = await self.broker.engine.orders.would_freeze(made, revoke=revoke)
        return Frozen(freeze=made, leases=fallen.leases)

    async def unfreeze(self, caller: Caller, freeze_id: str, *, reason: str, dry_run: bool) -> Freeze:
        self._note("unfreeze", caller, freeze_id=freeze_id, reason=reason, dry_run=dry_run)
        found = [one for one in await self.broker.store.read(lambda tx: tx.freezes()) if one.id == freeze_id]
        if not found:
            raise BrokerError(Reason.NOT_FOUND, "there is no such freeze")
        if not dry_run:
            await self.broker.store.write(lambda tx: tx.remove_freeze(freeze_id))
        return found[0]

    async def reset(
        self, caller: Caller, key: str, *, reason: str, code: str, break_glass: bool
    ) -> tuple[GuardRow, str]:
        self._note("reset", caller, key=key, reason=reason, code=code, break_glass=break_glass)
        row = await self.broker.store.read(lambda tx: tx.guard_row(key))
        if row is None:
            raise BrokerError(Reason.NOT_FOUND, "there is no such key")
        return row, "r" * 16 if break_glass else ""

    async def sign_review(self, caller: Caller, review_id: str, *, note: str) -> Review:
        self._note("sign_review", caller, review_id=review_id, note=note)
        at = self.broker.clock.now()
        await self.broker.store.write(lambda tx: tx.close_review(review_id, by=caller.operator.name, at=at, note=note))
        found = await self.broker.store.read(lambda tx: tx.review(review_id))
        if found is None:
            raise BrokerError(Reason.NOT_FOUND, "there is no such review")
        return found

    async def decide(
        self,
        caller: Caller,
        approval_id: str,
        *,
        approve: bool,
        reason: str,
        code: str,
        digest: str,
        good_for: timedelta | None,
    ) -> tuple[Approval, Sequence[Vote]]:
        self._note(
            "decide",
            caller,
            id=approval_id,
            approve=approve,
            reason=reason,
            code=code,
            digest=digest,
            good_for=good_for,
        )
        found = await self.broker.store.read(lambda tx: tx.approval(approval_id))
        if found is None:
            raise BrokerError(Reason.NOT_FOUND, "there is no such approval")
        vote = Vote(
            approval_id=approval_id,
            operator=caller.operator.name,
            approve=approve,
            reason=reason,
            at=found.requested_at,
        )
        await self.broker.store.write(lambda tx: tx.add_vote(vote))
        return found, [vote]

    async def seal_second_factor(self, caller: Caller) -> NewFactor:
        self._note("seal_second_factor", caller)
        return NewFactor(uri=Secret("otpauth://totp/s3cret"), sealed="c2VhbGVk", revision=2)

    def why_not(self, tx: Tx, caller: Caller, approval: Approval, votes: Sequence[Vote]) -> str:
        return "" if caller.operator.name == "bob" else "you are no approver"

    def approvals_off(self) -> str:
        return self.off
