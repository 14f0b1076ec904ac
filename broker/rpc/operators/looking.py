"""What operators see. Nothing is decided and nothing is changed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf.message import Message

from broker.operators.model import Caller
from broker.operators.views import guard, health, leases, people
from broker.operators.views.paging import MOST, Found, Page, answered
from broker.rpc.convert import timestamp
from broker.rpc.operators import convert
from broker.rpc.operators.parts import Parts
from broker.rpc.pipeline import Method
from broker.store.approvals import Approval, Vote
from broker.store.base import Tx
from stepcred.v1 import operator_pb2 as pb


class Looking:
    """Of a list a page at a time; all else in one view of the database."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._store = parts.core.store
        self._clock = parts.core.clock

    def methods(self) -> Mapping[str, Method]:
        """Name in the service → implementation."""
        return {
            "ListSteps": self.list_steps,
            "ListLeases": self.list_leases,
            "ListGuardKeys": self.list_guard_keys,
            "ListApprovals": self.list_approvals,
            "ListFreezes": self.list_freezes,
            "ListReviews": self.list_reviews,
            "ListAlerts": self.list_alerts,
            "GetScopeMap": self.get_scope_map,
            "GetHealth": self.get_health,
        }

    async def list_steps(self, request: pb.ListStepsRequest, _caller: Caller, _context: Any) -> Message:
        asked, page = convert.filter_of(request.selection), convert.page(request.page)
        found = await answered(
            self._store, page, lambda tx, page: leases.steps(tx, asked, page, ended_too=request.ended_too)
        )
        return pb.ListStepsResponse(steps=map(convert.step, found.rows), next_token=found.after)

    async def list_leases(self, request: pb.ListLeasesRequest, _caller: Caller, _context: Any) -> Message:
        asked, page = convert.filter_of(request.selection), convert.page(request.page)
        found = await answered(
            self._store, page, lambda tx, page: leases.leases(tx, asked, page, ended_too=request.ended_too)
        )
        return pb.ListLeasesResponse(leases=map(convert.lease, found.rows), next_token=found.after)

    async def list_guard_keys(self, request: pb.ListGuardKeysRequest, _caller: Caller, _context: Any) -> Message:
        asked, page = convert.filter_of(request.selection), convert.page(request.page)
        own, now = self._parts.core.guard, self._clock.moment()
        found = await answered(
            self._store,
            page,
            lambda tx, page: guard.keys(tx, asked, page, open_too=request.open_too, guard=own, now=now),
        )
        return pb.ListGuardKeysResponse(keys=map(convert.guard_key, found.rows), next_token=found.after)

    async def list_approvals(self, request: pb.ListApprovalsRequest, caller: Caller, _context: Any) -> Message:
        asked, page = convert.filter_of(request.selection), convert.page(request.page)
        policies, desk = self._parts.core.policies, self._parts.desk

        def why_not(tx: Tx, approval: Approval, votes: Sequence[Vote]) -> str:
            return desk.why_not(tx, caller, approval, votes)

        def look(tx: Tx, page: Page) -> Found[people.ApprovalView]:
            if request.approval_id:
                return people.one_approval(tx, request.approval_id, policies=policies, why_not=why_not)
            return people.approvals(
                tx, asked, page, decided_too=request.decided_too, policies=policies, why_not=why_not
            )

        found = await answered(self._store, page, look)
        return pb.ListApprovalsResponse(approvals=map(convert.approval, found.rows), next_token=found.after)

    async def list_freezes(self, _request: pb.ListFreezesRequest, _caller: Caller, _context: Any) -> Message:
        found = await self._store.read(lambda tx: tx.freezes())
        return pb.ListFreezesResponse(freezes=map(convert.freeze, found[:MOST]))

    async def list_reviews(self, request: pb.ListReviewsRequest, _caller: Caller, _context: Any) -> Message:
        found = await self._store.read(lambda tx: tx.reviews(closed_too=request.closed_too))
        return pb.ListReviewsResponse(reviews=map(convert.review, found))

    async def list_alerts(self, request: pb.ListAlertsRequest, _caller: Caller, _context: Any) -> Message:
        sinks = self._parts.sinks
        rows, waiting = await self._store.read(
            lambda tx: (tx.alerts(resolved_too=request.resolved_too), tx.waiting_for(sinks))
        )
        told = (convert.alert(row, waiting.get(row.alert.fingerprint, ())) for row in rows[: 2 * MOST])
        return pb.ListAlertsResponse(alerts=told)

    async def get_scope_map(self, _request: pb.GetScopeMapRequest, _caller: Caller, _context: Any) -> Message:
        policies, desk, registry = self._parts.core.policies, self._parts.desk, self._parts.registry
        found, off = await self._store.read(lambda tx: (people.scope_map(tx, policies), desk.approvals_off()))
        owners = [owner.name if (owner := registry.owner_of_key(key)) else "" for key in found.signers]
        message = pb.GetScopeMapResponse(
            file=found.file,
            digest=found.digest,
            generation=found.generation,
            serial=found.serial,
            signers=found.signers,
            signed_by=owners,
            problems=found.problems[:MOST],
            teams_refused=found.teams_refused,
            workloads=found.workloads,
            scopes=found.scopes,
            grants=found.grants,
            approvals_off=off,
        )
        if found.loaded_at is not None:
            message.loaded_at.CopyFrom(timestamp(found.loaded_at))
        return message

    async def get_health(self, _request: pb.GetHealthRequest, _caller: Caller, _context: Any) -> Message:
        core, problems = self._parts.core, self._parts.provider_problems()
        found = await self._store.read(lambda tx: health.health(tx, core, problems))
        message = pb.GetHealthResponse(
            environment=self._parts.environment,
            server_time=timestamp(self._clock.now()),
            epoch=core.epoch.id,
            draining=core.draining.is_set(),
            providers=[
                pb.ProviderHealth(
                    name=one.name,
                    problems=one.problems,
                    breaker_open=one.breaker_open,
                    active=one.active,
                    revoking=one.revoking,
                    in_doubt=one.in_doubt,
                )
                for one in found.providers
            ],
            open_steps=found.open_steps,
            intents=found.intents,
            overdue=found.overdue,
            freezes=found.freezes,
            approvals_waiting=found.approvals_waiting,
            keys_locked=found.keys_locked,
            keys_held=found.keys_held,
            problems=self._parts.problems(),
            alerts_firing=found.alerts_firing,
        )
        if found.oldest_revoking is not None:
            message.oldest_revoking.CopyFrom(timestamp(found.oldest_revoking))
        return message
