"""From a decision to a committed credential: intent, mint, commit, reply (DESIGN section 3, steps 4 to 9)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial

from broker.errors import BrokerError, Reason, StoreConflict
from broker.guard import keys
from broker.guard.guard import GuardAsk
from broker.guard.shared import Shared
from broker.guard.verdicts import Admitted, Ceiling, Cooling, GuardRefusal, HoldNow, LockNow, as_error
from broker.journal.records import Kind
from broker.keyring import hash_handle
from broker.leases import moves
from broker.leases.answers import about, circumstances, must_be_named, needs_approval, refused
from broker.leases.approving import Standing
from broker.leases.committing import Delivered
from broker.leases.core import (
    Core,
    PolicyMoved,
    check_name,
    check_request_id,
    known_request,
    must_be_open,
    must_have_begun,
    must_take_new_work,
    payload_hash,
)
from broker.leases.deciding import by_one_map
from broker.leases.freezing import frozen, stopped
from broker.leases.halting import Halt, Halting
from broker.leases.ids import new_lease_id, new_nonce
from broker.leases.minting import Minter
from broker.leases.standing import ends_at, left_of, question
from broker.leases.successors import link_successor
from broker.log import get_logger
from broker.metrics import IssueOutcome
from broker.model import MIN_LEASE_LIFE, Agent, Bind, Lease, LeaseState, Step
from broker.policy.decision import AccessRequest, Allowed, Denied
from broker.store.base import Request, Tx

log = get_logger(__name__)

METHOD = "IssueCredential"


@dataclass(frozen=True, kw_only=True, slots=True)
class Asking:
    """What IssueCredential asks for."""

    request_id: str
    scope: str
    replaces: str = ""
    public_input: str = ""

    @property
    def payload(self) -> tuple[str, ...]:
        return (self.scope, self.replaces, self.public_input)


def asking(*, request_id: str, scope: str, replaces: str, public_input: str) -> Asking:
    """Check everything that needs no state. Raises BrokerError."""
    if replaces:
        check_name("replaces", replaces)
    return Asking(
        request_id=check_request_id(request_id),
        scope=check_name("scope", scope),
        replaces=replaces,
        public_input=public_input,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Granted:
    """What policy said, to which question, in which generation."""

    allowed: Allowed
    asked: AccessRequest
    generation: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Intended:
    """A durable intent, and the step that it is for."""

    lease: Lease
    step: Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Refusal:
    """What the intent's transaction decided against; its guard change and journal record are kept."""

    error: BrokerError
    scope: str
    provider: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Unstarted:
    """A launcher's step, and this is its workload's first call: that is written first, whatever becomes of the call."""

    step: Step


@dataclass(frozen=True, kw_only=True, slots=True)
class Replay:
    """The request id was seen before, with this payload."""

    request: Request


class Issuing:
    """The path of one IssueCredential."""

    def __init__(self, core: Core, minter: Minter) -> None:
        self._core = core
        self._minter = minter
        self._halting = Halting(core)

    async def issue(self, agent: Agent, handle: str, asked: Asking) -> Delivered:
        """Mint once, or answer a replay; a replay never mints. Raises BrokerError."""
        return await by_one_map(lambda: self._issue(agent, handle, asked))

    async def _issue(self, agent: Agent, handle: str, asked: Asking) -> Delivered:
        core = self._core
        await asyncio.sleep(0)  # a caller that has gone already is seen to have gone: nothing is minted for it
        # A caller that vanishes between the intent's commit and the mint would leave an INTENT that never settles.
        result = await self._minter.own(self._carry(agent, hash_handle(handle), asked))
        if isinstance(result, Refusal):
            core.metrics.issue(scope=result.scope, provider=result.provider, outcome=IssueOutcome.REFUSED)
            raise result.error
        if isinstance(result, Replay):
            return await self._minter.replay(result.request)
        core.epoch.must_be_fresh()
        return result

    async def _carry(self, agent: Agent, handle_hash: bytes, asked: Asking) -> Delivered | Refusal | Replay:
        """Write the intent and mint, as one piece."""
        result = await self._admitted(agent, handle_hash, asked)
        if isinstance(result, Intended):
            return await self._minter.mint(result.lease, result.step, asked.public_input)
        return result

    async def _admitted(self, agent: Agent, handle_hash: bytes, asked: Asking) -> Intended | Refusal | Replay:
        core = self._core
        result = await core.store.write(lambda tx: self._admit(tx, agent, handle_hash, asked), quick=True)
        if isinstance(result, Unstarted):
            await core.start(agent, result.step)
            return await self._admitted(agent, handle_hash, asked)
        if isinstance(result, Refusal):
            core.lane.set()
        return result

    def _admit(
        self, tx: Tx, agent: Agent, handle_hash: bytes, asked: Asking
    ) -> Intended | Refusal | Replay | Unstarted:
        """The decision, and the intent: all by one state of the database and one map."""
        core = self._core
        step = core.own(agent, tx.step_by_handle(handle_hash))
        if core.unstarted(step):
            return Unstarted(step=step)
        must_be_open(step)
        must_be_named(step, asked.scope)
        granted = self._granted(agent, step, asked.scope)
        self._must_fit(granted.allowed, asked, step)
        core.heard[step.id] = core.clock.boottime()
        return self._intend(tx, agent, step, asked, granted)

    def _granted(self, agent: Agent, step: Step, scope: str) -> Granted:
        core, policy = self._core, self._core.policies.current
        asked = question(policy.map, step, scope, address=agent.address, now=core.clock.now())
        decision = policy.map.decide(asked)
        if isinstance(decision, Denied):
            raise refused(decision, step, asked)
        if decision.bind is Bind.KEY:  # by today's map, whatever the step itself is held to
            must_have_begun(step, agent)
        if decision.provider not in core.providers:
            raise BrokerError(Reason.PROVIDER_FAILED, "the scope's provider is not configured at this broker")
        return Granted(allowed=decision, asked=asked, generation=policy.generation)

    def _must_fit(self, allowed: Allowed, asked: Asking, step: Step) -> None:
        """What the provider knows beforehand costs no attempt. Raises INVALID_ARGUMENT, NO_ROOM_TO_REVOKE."""
        talent = self._core.talents[allowed.provider]
        if talent.input and (problem := talent.input.input_problem(allowed.params, asked.public_input)):
            raise BrokerError(Reason.INVALID_ARGUMENT, problem, about=about(step, asked.scope))
        if talent.room and (full := talent.room.no_room(allowed.params, step.key.agent)) is not None:
            told = about(step, asked.scope) | {"rule": str(allowed.rule), "why": full.why}
            raise BrokerError(Reason.NO_ROOM_TO_REVOKE, full.why, retry_after=full.after, about=told)

    def _intend(self, tx: Tx, agent: Agent, step: Step, asked: Asking, granted: Granted) -> Intended | Refusal | Replay:
        """The intent's ONE transaction. No durable intent, no mint (I1).

        1. the epoch is ours; 2. a replay is answered, not minted; 3. the policy decided with is still the
        current one, nothing is frozen, the step is open, the provider answers; 4. the lease's life; 5. operators have
        approved; 6. the guard admits and is charged, and the approval is used; 7. lease row, idempotency row and journal.
        """
        core, at, allowed = self._core, self._core.clock.now(), granted.allowed
        core.enter(tx)  # 1
        digest = payload_hash(METHOD, step.id, *asked.payload)
        known = known_request(tx, agent.spiffe_id, asked.request_id, digest)  # 2
        if known is not None:
            return Replay(request=known)
        self._must_be_possible(tx, agent, step, granted)  # 3
        ask = _ask(step, allowed)
        lease = self._draft(agent, step, asked, granted, guard_key=ask.key, at=at)  # 4
        approval = self._approval(tx, agent, step, granted, lease)  # 5
        if isinstance(approval, Refusal):
            return approval
        if asked.replaces:
            self._must_not_be_halted(tx, step, allowed)
            lease = self._linked(tx, lease, step, allowed, at=at)
        else:
            refusal = self._charge(tx, agent, step, allowed, lease, ask, at=at)  # 6
            if refusal is not None:
                return refusal
        if approval is not None:
            lease = core.approving.use(tx, approval, lease)
        try:
            tx.insert_lease(lease)  # 7
        except StoreConflict:  # its idempotency row is forgotten after a day, its lease is not
            raise BrokerError(Reason.REQUEST_ID_REUSED, "this request_id was used for another request") from None
        core.remember(
            tx,
            step,
            caller=agent,
            method=METHOD,
            request_id=asked.request_id,
            digest=digest,
            lease_id=lease.id,
            done=False,
        )
        self._record_intent(tx, agent, step, lease, granted)
        return Intended(lease=lease, step=step)

    def _linked(self, tx: Tx, lease: Lease, step: Step, allowed: Allowed, *, at: datetime) -> Lease:
        """As a successor, within the chain's `max_ttl`."""
        lease = link_successor(tx, lease, step, allowed, now=self._core.clock.moment())
        expires_at = self._expiry(step, allowed, at=at, first=lease.first_mint_at)
        earlier = (lease.expires_at - expires_at).total_seconds()
        return replace(lease, expires_at=expires_at, expires_boot=lease.expires_boot - earlier)

    def _approval(self, tx: Tx, agent: Agent, step: Step, granted: Granted, lease: Lease) -> Standing | Refusal | None:
        """None: none is needed, or a successor has its predecessor's. What is asked for here costs no attempt."""
        core, allowed = self._core, granted.allowed
        older = tx.lease(lease.replaces) if lease.replaces else None
        if not allowed.approvals or (older is not None and older.approval_digest == allowed.approval_digest):
            return None
        if (refusal := self._in_vain(tx, agent, step, allowed, lease)) is not None:
            return refusal
        standing = core.approving.asked(tx, step, allowed, core.clock.moment(), address=granted.asked.address)
        if standing.usable and not core.approving.off():
            return standing
        error = needs_approval(allowed, step, granted.asked, standing.approval, given=standing.given)
        return Refusal(error=error, scope=allowed.scope, provider=allowed.provider)

    def _in_vain(self, tx: Tx, agent: Agent, step: Step, allowed: Allowed, lease: Lease) -> Refusal | None:
        """Nobody is asked for what the guard refuses for good: it does so at once, with all that follows."""
        if lease.replaces:
            self._must_not_be_halted(tx, step, allowed)
            return None
        ask = _ask(step, allowed)
        verdict = self._core.guard.look(tx, ask, self._core.clock.moment())
        if isinstance(verdict, Admitted | Cooling):
            return None
        return self._charge(tx, agent, step, allowed, lease, ask, at=lease.intent_at)

    def _record_intent(self, tx: Tx, agent: Agent, step: Step, lease: Lease, granted: Granted) -> None:
        data = {
            "cert_sha256": agent.cert_sha256,
            "peer": agent.peer,
            "expires_at": lease.expires_at.isoformat(),
            "tier": lease.tier.value,
            "revocability": lease.revocability.value,
            "bind": granted.allowed.bind.value,
            "policy_generation": granted.generation,
            "replaces": lease.replaces or "",
            "approval_id": lease.approval_id,
        } | circumstances(step, granted.asked)
        rule = str(granted.allowed.rule)
        moves.record_lease(tx, Kind.LEASE_INTENT, lease, at=lease.intent_at, rule=rule, key=step.key, data=data)

    def _must_be_possible(self, tx: Tx, agent: Agent, step: Step, granted: Granted) -> None:
        """The predicate of the intent, but for the step. Raises PolicyMoved, BrokerError."""
        core, control = self._core, tx.control()
        must_take_new_work(core)
        if control.policy_generation != granted.generation:
            raise PolicyMoved
        if stopped(tx, step, scope=granted.allowed.scope, provider=granted.allowed.provider):
            raise frozen(about(step, granted.asked.scope))
        core.must_be_welcome(agent)
        core.must_answer(granted.allowed.provider)

    def _draft(
        self, agent: Agent, step: Step, asked: Asking, granted: Granted, *, guard_key: str, at: datetime
    ) -> Lease:
        allowed = granted.allowed
        foresees, now = self._core.talents[allowed.provider].foresight, self._core.clock.moment()
        expires_at = self._expiry(step, allowed, at=at, first=at)
        return Lease(
            id=new_lease_id(),
            step_id=step.id,
            agent=agent.spiffe_id,
            request_id=asked.request_id,
            scope=asked.scope,
            provider=allowed.provider,
            params=allowed.params,
            tier=allowed.tier,
            revocability=allowed.revocability,
            state=LeaseState.INTENT,
            epoch=self._core.epoch.id,
            policy_generation=granted.generation,
            nonce=new_nonce(),
            kid=self._core.keyring.current,
            guard_key=guard_key,
            intent_at=at,
            first_mint_at=at,
            expires_at=expires_at,
            boot_id=now.boot_id,
            expires_boot=now.boot + (expires_at - at).total_seconds(),
            address=granted.asked.address,
            certificate=agent.certificate,
            refs=foresees.foresee() if foresees else {},
            replaces=asked.replaces or None,
        )

    def _expiry(self, step: Step, allowed: Allowed, *, at: datetime, first: datetime | None) -> datetime:
        """Under 60 s is refused."""
        left = left_of(step, allowed, self._core.clock.moment())
        expires_at = ends_at(allowed, at=at, left=left, first=first)
        if expires_at - at < MIN_LEASE_LIFE:
            raise BrokerError(
                Reason.TTL_TOO_SHORT,
                "less than 60 seconds are left for this credential",
                about=about(step, allowed.scope),
            )
        return expires_at

    def _charge(  # noqa: PLR0917 - what a charge is about, in the order of the request
        self, tx: Tx, agent: Agent, step: Step, allowed: Allowed, lease: Lease, ask: GuardAsk, *, at: datetime
    ) -> Refusal | None:
        verdict = self._core.guard.admit(tx, ask, lease_id=lease.id, now=self._core.clock.moment())
        if isinstance(verdict, Admitted):
            return None
        self._halt(tx, agent, step, allowed, verdict, at=at)
        error = as_error(verdict)
        error.about = about(step, allowed.scope) | {"rule": str(allowed.rule)}
        return Refusal(error=error, scope=allowed.scope, provider=allowed.provider)

    def _halt(self, tx: Tx, agent: Agent, step: Step, allowed: Allowed, verdict: GuardRefusal, *, at: datetime) -> None:
        """Whatever else than a refusal this verdict asks for, in the same transaction."""
        halt = partial(Halt, agent=agent, step=step, allowed=allowed)
        if isinstance(verdict, LockNow):
            self._halting.stop(tx, halt(reason=Reason.LOCKED, key=verdict.row.key, until=verdict.until), at=at)
        elif isinstance(verdict, HoldNow):
            self._halting.stop(tx, halt(reason=Reason.HELD, key=verdict.row.key), at=at)
        elif isinstance(verdict, Ceiling) and verdict.row is not None:
            self._halting.ceiling(tx, halt(reason=Reason.CEILING, key=verdict.row.key), at=at)

    def _must_not_be_halted(self, tx: Tx, step: Step, allowed: Allowed) -> None:
        """A successor is not charged, but gets around no lock and no hold."""
        halted = self._core.guard.halted(tx, _ask(step, allowed), now=self._core.clock.moment())
        if halted is not None:
            error = as_error(halted)
            error.about = about(step, allowed.scope) | {"rule": str(allowed.rule)}
            raise error


def _ask(step: Step, allowed: Allowed) -> GuardAsk:
    # Not the workload of the rule: a step picks that by the workflow that it claims, and with it one more hour.
    (workload, captures), *others = allowed.fits
    scope, also = allowed.scope, [name for name, _ in others]
    names = {"workflow": step.key.workflow, "run": step.key.run, "step": step.key.step}
    return GuardAsk(
        key=keys.guard_key(workload=workload, captures=captures, scope=scope, **names),
        hour_key=keys.hour_key(workload=workload, captures=captures, scope=scope),
        tier=allowed.tier,
        shared=Shared(scope=scope, hourly=allowed.shared_hourly) if allowed.shared_hourly else None,
        about=keys.about(workload=workload, captures=captures, scope=scope, launcher=step.launcher, also=also, **names),
    )
