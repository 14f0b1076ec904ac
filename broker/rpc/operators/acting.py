"""What operators change: each is the desk's to decide and to journal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from google.protobuf.message import Message

from broker.errors import BrokerError, Reason
from broker.operators.model import Caller
from broker.operators.views import leases, people
from broker.operators.views.paging import MOST
from broker.rpc.operators import convert
from broker.rpc.operators.parts import Parts
from broker.rpc.pipeline import Method
from stepcred.v1 import operator_pb2 as pb

MAX_WORDS = 500  # characters of a reason or a note


class Acting:
    """Every answer says what came of it, in the words of the lists."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._desk = parts.desk
        self._store = parts.core.store

    def methods(self) -> Mapping[str, Method]:
        """Name in the service → implementation."""
        return {
            "RevokeLeases": self.revoke_leases,
            "Freeze": self.freeze,
            "Unfreeze": self.unfreeze,
            "ResetGuardKey": self.reset_guard_key,
            "SignReview": self.sign_review,
            "DecideApproval": self.decide_approval,
        }

    async def revoke_leases(self, request: pb.RevokeLeasesRequest, caller: Caller, _context: Any) -> Message:
        done = await self._desk.revoke(
            caller,
            convert.selection_of(request.selection),
            reason=_words("reason", request.reason, needed=not request.dry_run),
            dry_run=request.dry_run,
            end_steps=request.end_steps,
        )
        shown, steps = await self._store.read(
            lambda tx: (
                leases.lease_views(tx, done.leases[:MOST]),
                [leases.step_view(tx, step) for step in done.steps[:MOST]],
            )
        )
        return pb.RevokeLeasesResponse(
            leases=map(convert.lease, shown),
            lease_count=len(done.leases),
            steps=map(convert.step, steps),
            step_count=len(done.steps),
        )

    async def freeze(self, request: pb.FreezeRequest, caller: Caller, _context: Any) -> Message:
        done = await self._desk.freeze(
            caller,
            convert.selection_of(request.selection),
            reason=_words("reason", request.reason, needed=not request.dry_run),
            dry_run=request.dry_run,
            revoke=request.revoke,
        )
        shown = await self._store.read(lambda tx: leases.lease_views(tx, done.leases[:MOST]))
        return pb.FreezeResponse(
            freeze=convert.freeze(done.freeze), leases=map(convert.lease, shown), lease_count=len(done.leases)
        )

    async def unfreeze(self, request: pb.UnfreezeRequest, caller: Caller, _context: Any) -> Message:
        ended = await self._desk.unfreeze(
            caller,
            request.freeze_id,
            reason=_words("reason", request.reason, needed=not request.dry_run),
            dry_run=request.dry_run,
        )
        return pb.UnfreezeResponse(freeze=convert.freeze(ended))

    async def reset_guard_key(self, request: pb.ResetGuardKeyRequest, caller: Caller, _context: Any) -> Message:
        row, review_id = await self._desk.reset(
            caller,
            request.key,
            reason=_words("reason", request.reason),
            code=request.code,
            break_glass=request.break_glass,
        )
        guard, now = self._parts.core.guard, self._parts.core.clock.moment()
        view = await self._store.read(lambda tx: guard.listed(tx, row, now=now))
        return pb.ResetGuardKeyResponse(key=convert.guard_key(view), review_id=review_id)

    async def sign_review(self, request: pb.SignReviewRequest, caller: Caller, _context: Any) -> Message:
        signed = await self._desk.sign_review(caller, request.review_id, note=_words("note", request.note))
        return pb.SignReviewResponse(review=convert.review(signed))

    async def decide_approval(self, request: pb.DecideApprovalRequest, caller: Caller, _context: Any) -> Message:
        approval, _votes = await self._desk.decide(
            caller,
            request.approval_id,
            approve=request.approve,
            reason=_words("reason", request.reason),
            code=request.code,
            digest=request.digest,
            good_for=request.good_for.ToTimedelta() if request.HasField("good_for") else None,
        )
        policies = self._parts.core.policies
        view = await self._store.read(
            lambda tx: people.approval_view(tx, approval, policies=policies, why_not=lambda *_: "you have decided")
        )
        return pb.DecideApprovalResponse(approval=convert.approval(view))


def _words(name: str, text: str, *, needed: bool = True) -> str:
    """Of an operator's, for those who read the journal. Raises INVALID_ARGUMENT when there are none, or no plain ones."""
    text = text.strip()
    if needed and not text:
        raise BrokerError(Reason.INVALID_ARGUMENT, f"{name}: say why, for those who read the journal")
    if len(text) > MAX_WORDS or not text.isprintable():
        raise BrokerError(Reason.INVALID_ARGUMENT, f"{name}: at most {MAX_WORDS} characters on one line")
    return text
