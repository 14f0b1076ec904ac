"""Where operators change something: who may, with which code, and on which record. Each is ONE transaction.

A wrong code is counted although what it was for is refused: so an operation answers with the error that is to be raised
once it is committed, and raises only what must leave nothing behind.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TypeVar

from broker.alert import Alert, AlertRule
from broker.clock import Moment
from broker.errors import BrokerError, Reason
from broker.guard.keys import workloads
from broker.identity.spiffe import SpiffeIdError, parse_spiffe_id
from broker.journal.records import Kind
from broker.leases.core import Core
from broker.leases.ids import new_freeze_id, new_review_id
from broker.leases.orders import Fallen, Order, Orders
from broker.leases.selection import Selection
from broker.leases.standing import question
from broker.log import get_logger
from broker.model import NAME, JsonValue, Lease
from broker.operators.duties import Signers, against_reset, may_approve, may_decide, may_reset, may_sign, why_off
from broker.operators.model import Caller
from broker.operators.registry import Registry
from broker.operators.second_factor import NewFactor, SecondFactors
from broker.policy.decision import Allowed
from broker.store.alarms import hush, sound
from broker.store.approvals import Approval, ApprovalState, Vote
from broker.store.base import Tx
from broker.store.guard import GuardRow
from broker.store.halts import EVERYTHING, FREEZES_BY, Freeze, Review

log = get_logger(__name__)

T = TypeVar("T")

BREAK_GLASS = "BREAK_GLASS"  # the kind of a review


@dataclass(frozen=True, kw_only=True, slots=True)
class Frozen:
    """A freeze, and the leases that were asked to die with it, or would be."""

    freeze: Freeze
    leases: tuple[Lease, ...] = ()


class Desk:
    """Every mutating call of an operator. The role that a method needs was looked at before; duties are looked at here."""

    def __init__(self, core: Core, orders: Orders, people: Registry, factors: SecondFactors) -> None:
        self._core = core
        self._orders = orders
        self._people = people
        self._factors = factors

    # --- the kill switch ---

    async def revoke(
        self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, end_steps: bool
    ) -> Fallen:
        """Ask everything that is selected to die, or say what would."""
        _must_select(selection)
        if dry_run:
            return await self._orders.would_revoke(selection, end_steps=end_steps)
        return await self._orders.revoke(selection, _order(caller, reason), end_steps=end_steps)

    async def freeze(self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, revoke: bool) -> Frozen:
        """Stop new mints of what is selected, or say what would be stopped on its way."""
        _must_select(selection)
        freeze = self._freeze_of(caller, selection, reason)
        if dry_run:
            fallen = await self._orders.would_freeze(freeze, revoke=revoke)
        else:
            fallen = await self._orders.freeze(freeze, _order(caller, reason), revoke=revoke)
        return Frozen(freeze=fallen.freeze or freeze, leases=fallen.leases)

    async def unfreeze(self, caller: Caller, freeze_id: str, *, reason: str, dry_run: bool) -> Freeze:
        """Let new mints through again. Raises NOT_FOUND."""
        if dry_run:
            freezes = await self._core.store.read(lambda tx: tx.freezes())
            found = next((one for one in freezes if one.id == freeze_id), None)
        else:
            found = await self._orders.unfreeze(freeze_id, _order(caller, reason))
        return _must_be_there(found, "freeze")

    def _freeze_of(self, caller: Caller, selection: Selection, reason: str) -> Freeze:
        if selection.step or selection.leases:
            raise BrokerError(Reason.INVALID_ARGUMENT, "a step or a lease cannot be frozen: revoke it, or name its run")
        wanted = {name: getattr(selection, name) for name in FREEZES_BY}
        if selection.everything and any(wanted.values()):
            raise BrokerError(Reason.INVALID_ARGUMENT, "everything, or what fits some names; not both")
        self._must_exist(selection)
        freeze_id = EVERYTHING if selection.everything else new_freeze_id()
        return Freeze(id=freeze_id, by=caller.operator.name, reason=reason, at=self._core.clock.now(), **wanted)

    def _must_exist(self, selection: Selection) -> None:
        """A name that nothing can have stops nothing, and whoever mistyped it would believe to be safe."""
        core, mistake = self._core, ""
        if selection.agent and not _is_spiffe_id(selection.agent):
            mistake = "agent: not a SPIFFE ID, which begins with spiffe://"
        elif selection.scope and selection.scope not in core.policies.map.scopes:
            mistake = "scope: the scope map in force declares none of this name"
        elif selection.provider and selection.provider not in core.providers:
            mistake = "provider: this broker has none of this name"
        elif any(name and not NAME.fullmatch(name) for name in (selection.workflow, selection.run)):
            mistake = "workflow or run: no step can have this name"
        if mistake:
            raise BrokerError(Reason.INVALID_ARGUMENT, mistake)

    # --- the guard ---

    async def reset(
        self, caller: Caller, key: str, *, reason: str, code: str, break_glass: bool
    ) -> tuple[GuardRow, str]:
        """Open a guard key: the fresh row, and with break-glass the id of the review that stays open."""
        core = self._core

        def operation(tx: Tx) -> tuple[GuardRow, str] | BrokerError:
            core.enter(tx)
            by, now = self._today_as(caller), core.clock.moment()
            row = _must_be_there(tx.guard_row(key), "guard key")
            against = against_reset(
                by.operator,
                owners=self._owners_of_key(row),
                twice=core.guard.comes_back(row),
                last_reset_by=row.reset_by,
            )
            if error := may_reset(against, break_glass=break_glass):
                raise error
            if error := self._factors.check(tx, by.operator, code, now):
                return error
            return self._open(tx, by, row, reason=reason, against=against if break_glass else None, now=now)

        return await self._carried_out(operation)

    def _open(
        self,
        tx: Tx,
        caller: Caller,
        row: GuardRow,
        *,
        reason: str,
        against: Sequence[BrokerError] | None,
        now: Moment,
    ) -> tuple[GuardRow, str]:
        """`against`: what break-glass sets aside; None without it."""
        fresh = self._core.guard.reset(tx, row.key, by=caller.operator.name, at=now.wall) or row
        order = _order(caller, reason)
        told: dict[str, JsonValue] = {"guard_key": row.key, "was": row.state.value, "about": dict(row.about)}
        if against is None:
            order.record(tx, Kind.GUARD_RESET, now.wall, **told)
            return fresh, ""
        review = Review(
            id=new_review_id(),
            kind=BREAK_GLASS,
            about=told | {"set_aside": [error.reason.value for error in against]},
            by=caller.operator.name,
            reason=reason,
            at=now.wall,
        )
        tx.add_review(review)
        order.record(tx, Kind.BREAK_GLASS, now.wall, review_id=review.id, **review.about)
        sound(tx, _broken(review), at=now.wall, agent=caller.agent.spiffe_id)
        log.error("guard key opened by break-glass", operator=caller.operator.name, key=row.key, review=review.id)
        return fresh, review.id

    async def sign_review(self, caller: Caller, review_id: str, *, note: str) -> Review:
        """Close what another operator did alone. Raises NOT_FOUND, OTHER_OPERATOR_NEEDED, APPROVAL_DECIDED."""
        core = self._core

        def operation(tx: Tx) -> Review:
            core.enter(tx)
            by, at = self._today_as(caller), core.clock.now()
            review = _must_be_there(tx.review(review_id), "review")
            if error := may_sign(by.operator, review):
                raise error
            if not tx.close_review(review_id, by=by.operator.name, at=at, note=note):
                raise BrokerError(Reason.APPROVAL_DECIDED, "the review is closed already")
            _order(caller, note).record(tx, Kind.REVIEW_SIGNED, at, review_id=review_id, done_by=review.by)
            hush(tx, _broken(review), at=at)
            return _must_be_there(tx.review(review_id), "review")

        return await core.store.write(operation)

    # --- approvals ---

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
        """Say yes or no. The last yes that is needed makes it APPROVED, one no makes it DENIED.

        `digest`: of what the operator was shown. `good_for`: shorter than the broker's own `approvals.valid`; for no time
        at all is INVALID_ARGUMENT, before the code is used.
        """
        core = self._core
        if good_for is not None and good_for <= timedelta(0):
            raise BrokerError(Reason.INVALID_ARGUMENT, "a yes is good for some time, or it is a no")

        def operation(tx: Tx) -> tuple[Approval, Sequence[Vote]] | BrokerError:
            core.enter(tx)
            by, now = self._today_as(caller), core.clock.moment()
            approval = _must_be_there(tx.approval(approval_id), "approval")
            votes = tx.votes(approval_id)
            if error := self._may_decide(tx, by, approval, votes, seen=digest, now=now):
                raise error
            if error := self._factors.check(tx, by.operator, code, now):
                return error
            vote = Vote(
                approval_id=approval_id,
                operator=by.operator.name,
                approve=approve,
                reason=reason,
                at=now.wall,
                good_for=good_for,
            )
            tx.add_vote(vote)
            return self._counted(tx, by, approval, vote, now)

        return await self._carried_out(operation)

    def _counted(
        self, tx: Tx, caller: Caller, approval: Approval, vote: Vote, now: Moment
    ) -> tuple[Approval, Sequence[Vote]]:
        votes = tx.votes(approval.id)
        given = sum(vote.approve and self._still_counts(tx, vote, approval) for vote in votes)
        order = _order(caller, vote.reason)
        about: dict[str, JsonValue] = {
            "approval_id": approval.id,
            "digest": approval.digest,
            "scope": approval.scope,
            "workflow": approval.key.workflow,
            "run": approval.key.run,
            "step": approval.key.step,
            "needed": approval.needed,
            "given": given,
        }
        order.record(tx, Kind.APPROVAL_VOTED, now.wall, approve=vote.approve, **about)
        if not vote.approve:
            approval = replace(approval, state=ApprovalState.DENIED, decided_at=now.wall)
            order.record(tx, Kind.APPROVAL_DENIED, now.wall, **about)
        elif given >= approval.needed:
            approval = self._given(approval, votes, now)
            order.record(tx, Kind.APPROVAL_GIVEN, now.wall, expires_at=approval.expires_at.isoformat(), **about)
        tx.put_approval(approval)
        return approval, votes

    def _given(self, approval: Approval, votes: Sequence[Vote], now: Moment) -> Approval:
        """Good for as long as the broker's settings say, or for less when an operator said less."""
        spans = (vote.good_for for vote in votes if vote.approve and vote.good_for is not None)
        life = min([self._core.approving.times.valid, *spans])
        return replace(
            approval,
            state=ApprovalState.APPROVED,
            decided_at=now.wall,
            expires_at=now.wall + life,
            boot_id=now.boot_id,
            expires_boot=now.boot + life.total_seconds(),
        )

    def _still_counts(self, tx: Tx, vote: Vote, approval: Approval) -> bool:
        """Whoever may not say yes today has not said it: the role is gone, or he owns or has signed what it is about."""
        operator = self._people.current.operators.get(vote.operator)
        return operator is not None and not may_approve(
            operator, approval, owners=self._owners_of(tx, approval), signers=self.signers()
        )

    def _today_as(self, caller: Caller) -> Caller:
        """Who the certificate stands for now: a role that was taken away since the call came in is gone."""
        operator = self._people.of(caller.agent.spiffe_id)
        if operator is None:
            raise BrokerError(Reason.OPERATOR_UNKNOWN, "the operators file names nobody with this SPIFFE ID")
        return replace(caller, operator=operator)

    def why_not(self, tx: Tx, caller: Caller, approval: Approval, votes: Sequence[Vote]) -> str:
        """Why this operator may not decide it; "" when it may. Writes nothing."""
        error = self._may_decide(tx, caller, approval, votes, seen=approval.digest, now=self._core.clock.moment())
        if error is not None and error.reason is Reason.APPROVAL_CHANGED:
            return "the grant, scope or tier is another one by now; the step asks anew"
        return error.message if error else ""

    def approvals_off(self) -> str:
        """Why nothing can be approved, or used, under the map in force; "" when it can."""
        return why_off(self.signers())

    def _may_decide(
        self, tx: Tx, caller: Caller, approval: Approval, votes: Sequence[Vote], *, seen: str, now: Moment
    ) -> BrokerError | None:
        return may_decide(
            caller.operator,
            approval,
            votes=votes,
            owners=self._owners_of(tx, approval),
            signers=self.signers(),
            seen=seen,
            today=self._today(tx, approval, now),
            now=now,
        )

    def signers(self) -> Signers:
        """Of the scope map in force."""
        policies = self._core.policies
        return self._people.current.signers(policies.signers, may_approve=policies.map.signers_may_approve)

    def _today(self, tx: Tx, approval: Approval, now: Moment) -> str | None:
        """The digest of what today's map would give; None when it gives nothing, or another has opened the step since."""
        step = tx.latest_attempt(approval.key)
        if step is None or step.launcher != approval.launcher:
            return None
        scope_map = self._core.policies.map
        asked = question(scope_map, step, approval.scope, address=approval.address, now=now.wall)
        decision = scope_map.decide(asked)
        return decision.approval_digest if isinstance(decision, Allowed) else None

    def _owners_of(self, tx: Tx, approval: Approval) -> frozenset[str]:
        """Also of whoever has opened the step since: it is that one's attempt that would use it."""
        step = tx.latest_attempt(approval.key)
        owners = self._owners(approval.workload, approval.launcher)
        return owners | self._owners(approval.workload, step.launcher) if step else owners

    def _owners_of_key(self, row: GuardRow) -> frozenset[str]:
        launcher = str(row.about.get("launcher", ""))
        return frozenset().union(*(self._owners(name, launcher) for name in workloads(row.about)))

    def _owners(self, workload: str, launcher: str) -> frozenset[str]:
        """In today's map. `launcher`: the SPIFFE ID of whoever opened the step; "" when its own agent did."""
        return self._core.policies.map.owners_of(workload, launcher)

    # --- the second factor ---

    async def seal_second_factor(self, caller: Caller) -> NewFactor:
        """A new secret for the caller; nothing changes until it stands in the operators file."""
        core = self._core
        issuer = f"stepcred {core.policies.map.environment}"

        def operation(tx: Tx) -> NewFactor:
            core.enter(tx)
            by = self._today_as(caller)
            made = self._factors.make(by.operator, tx.second_factor(by.operator.name), issuer=issuer)
            _order(by, "").record(tx, Kind.SECOND_FACTOR_SEALED, core.clock.now(), revision=made.revision)
            return made

        return await core.store.write(operation)

    async def _carried_out(self, operation: Callable[[Tx], T | BrokerError]) -> T:
        """Raises what the operation answers with, once it is committed."""
        done = await self._core.store.write(operation)
        if isinstance(done, BrokerError):
            raise done
        return done


def _is_spiffe_id(text: str) -> bool:
    try:
        parse_spiffe_id(text)
    except SpiffeIdError:
        return False
    return True


def _order(caller: Caller, reason: str) -> Order:
    return Order(by=caller.operator.name, reason=reason, caller=caller.agent)


def _broken(review: Review) -> Alert:
    labels = {"operator": review.by, "review": review.id, "guard_key": str(review.about.get("guard_key", ""))}
    summary = f"{review.by} opened a guard key by break-glass; another operator has to review it"
    return Alert(rule=AlertRule.BREAK_GLASS, summary=summary, labels=labels)


def _must_select(selection: Selection) -> None:
    if selection == Selection():
        raise BrokerError(Reason.INVALID_ARGUMENT, "nothing is selected; everything must be asked for by name")


def _must_be_there(found: T | None, what: str) -> T:
    if found is None:
        raise BrokerError(Reason.NOT_FOUND, f"there is no such {what}")
    return found
