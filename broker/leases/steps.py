"""Opening a step, hearing from it, ending it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from broker.errors import BrokerError, Reason, StoreError, access_denied
from broker.journal.records import Kind
from broker.keyring import hash_handle
from broker.leases import moves
from broker.leases.core import (
    Core,
    PolicyMoved,
    check_name,
    check_request_id,
    check_scopes,
    derive_handle,
    known_request,
    must_be_open,
    must_take_new_work,
    payload_hash,
    step_record,
)
from broker.leases.epoch import ASK_AGAIN
from broker.leases.ids import new_step_id
from broker.log import get_logger
from broker.model import MIN_LEASE_LIFE, Agent, EndReason, Lease, LeaseState, Step, StepKey, StepState
from broker.policy.decision import Allowed, Concurrent, Decision, Denied
from broker.store.base import Tx

log = get_logger(__name__)

MAX_STEP = timedelta(hours=24)  # DESIGN section 4
DECIDE_AGAIN = 3  # times, while maps are being loaded
TOGETHER = 100  # steps ended in one transaction


@dataclass(frozen=True, kw_only=True, slots=True)
class Opening:
    """What BeginStep asks for."""

    request_id: str
    key: StepKey
    scopes: tuple[str, ...]
    max_duration: timedelta | None


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeAnswer:
    """One scope's verdict, with the reference that a refusal was journalled under."""

    scope: str
    decision: Decision
    reference_id: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What BeginStep answers."""

    step: Step
    handle: str
    answers: tuple[ScopeAnswer, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Beat:
    """What Heartbeat answers."""

    deadline_at: datetime
    ended: tuple[str, ...]


def opening(
    *, agent: Agent, request_id: str, workflow: str, run: str, step: str, scopes: Sequence[str], seconds: float | None
) -> Opening:
    """Check everything that needs no state. Raises BrokerError."""
    if seconds is not None and not MIN_LEASE_LIFE.total_seconds() <= seconds <= MAX_STEP.total_seconds():
        raise BrokerError(Reason.INVALID_ARGUMENT, "max_duration must be between 60 seconds and 24 hours")
    return Opening(
        request_id=check_request_id(request_id),
        key=StepKey(
            agent=agent.spiffe_id,
            workflow=check_name("workflow", workflow),
            run=check_name("run", run),
            step=check_name("step", step),
        ),
        scopes=check_scopes(scopes),
        max_duration=timedelta(seconds=seconds) if seconds is not None else None,
    )


class Steps:
    """The life of a step."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def begin(self, agent: Agent, asked: Opening) -> Opened:
        """Open the step, or its next attempt, or answer a replay. Costs nothing."""
        for _ in range(DECIDE_AGAIN):
            try:
                return await self._begin(agent, asked)
            except PolicyMoved:
                continue
        raise BrokerError(Reason.EPOCH_LOST, "the scope map keeps changing; ask again", retry_after=ASK_AGAIN)

    async def _begin(self, agent: Agent, asked: Opening) -> Opened:
        core = self._core
        generation = core.policies.generation
        if not core.policies.map.workloads_of(agent.spiffe_id):
            raise access_denied()  # whoever is no workload opens nothing and fills no table
        decisions = {scope: core.decide(asked.key, scope) for scope in asked.scopes}
        step = await core.store.write(lambda tx: self._open(tx, agent, asked, decisions, generation))
        must_be_open(step)
        core.heard.setdefault(step.id, core.clock.boottime())
        core.lane.set()  # an older attempt's leases may have to go
        core.epoch.must_be_fresh()
        answers = tuple(ScopeAnswer(scope=scope, decision=decision) for scope, decision in decisions.items())
        return Opened(step=step, handle=core.handle(step), answers=answers)

    def _open(self, tx: Tx, agent: Agent, asked: Opening, decisions: dict[str, Decision], generation: int) -> Step:
        core, at = self._core, self._core.clock.now()
        core.enter(tx)
        duration = str(asked.max_duration)
        digest = payload_hash(
            "BeginStep", asked.key.workflow, asked.key.run, asked.key.step, list(asked.scopes), duration
        )
        known = known_request(tx, agent.spiffe_id, asked.request_id, digest)
        if known is not None:
            return core.own(agent, tx.step(known.step_id))
        must_take_new_work(core)
        if tx.control().policy_generation != generation:
            raise PolicyMoved
        allowed = [decision for decision in decisions.values() if isinstance(decision, Allowed)]
        older = tx.latest_attempt(asked.key)
        if older is not None and older.state is StepState.OPEN:
            self._make_way(tx, older, allowed, at=at)
        step = self._next(asked, allowed, attempt=older.attempt + 1 if older else 1, at=at)
        tx.insert_step(step)
        core.remember(tx, step, method="BeginStep", request_id=asked.request_id, digest=digest)
        verdicts = {scope: "granted" if isinstance(d, Allowed) else d.reason.value for scope, d in decisions.items()}
        tx.append(
            step_record(
                step,
                agent,
                kind=Kind.STEP_BEGUN,
                at=at,
                data={"attempt": step.attempt, "scopes": verdicts, "deadline": step.deadline_at.isoformat()},
            )
        )
        return step

    def _make_way(self, tx: Tx, older: Step, allowed: list[Allowed], *, at: datetime) -> None:
        """An older attempt is alive: the strictest of the matching grants says what happens."""
        core = self._core
        if not allowed or any(decision.concurrent is Concurrent.REFUSE for decision in allowed):
            heard = core.heard.get(older.id, core.epoch.started_boot)
            left = core.timings.silence_bound - timedelta(seconds=core.clock.boottime() - heard)
            raise BrokerError(
                Reason.STEP_ALIVE,
                "an earlier attempt of this step is alive",
                retry_after=max(left, timedelta(seconds=1)),
                about={"step_id": older.id},
            )
        moves.end_step(tx, older, at=at, reason=EndReason.SUPERSEDED)

    def _next(self, asked: Opening, allowed: list[Allowed], *, attempt: int, at: datetime) -> Step:
        kid = self._core.keyring.current
        handle = derive_handle(self._core.keyring, kid, asked.key, attempt, asked.request_id)
        spans = [MAX_STEP, *(decision.max_step for decision in allowed)]
        if asked.max_duration is not None:
            spans.append(asked.max_duration)
        now = self._core.clock.moment()
        return Step(
            id=new_step_id(),
            key=asked.key,
            attempt=attempt,
            handle_hash=hash_handle(handle),
            handle_kid=kid,
            request_id=asked.request_id,
            scopes=asked.scopes,
            state=StepState.OPEN,
            opened_at=at,
            deadline_at=at + min(spans),
            boot_id=now.boot_id,
            deadline_boot=now.boot + min(spans).total_seconds(),
            last_heartbeat_at=at,
            opened_by=asked.key.agent,
        )

    async def heartbeat(self, agent: Agent, handle: str, held: Sequence[str]) -> Beat:
        """Keep the step alive; the leases named are *claimed*."""
        core = self._core
        step = await core.step_of(agent, handle)
        must_be_open(step)
        core.heard[step.id] = core.clock.boottime()
        ended = await core.store.write(lambda tx: self._beat(tx, step, frozenset(held)))
        core.lane.set()
        core.epoch.must_be_fresh()
        return Beat(deadline_at=step.deadline_at, ended=ended)

    def _beat(self, tx: Tx, step: Step, held: frozenset[str]) -> tuple[str, ...]:
        core, at = self._core, self._core.clock.now()
        core.enter(tx)
        must_be_open(tx.step(step.id) or step)
        tx.beat(step.id, at)
        live = {lease.id: lease for lease in tx.leases_of(step.id, LeaseState.ACTIVE)}
        for lease in (live[lease_id] for lease_id in held & live.keys()):
            if lease.claimed_at is None and tx.claim(lease.id, at):
                moves.record_lease(tx, Kind.LEASE_CLAIMED, lease, at=at)
                self._retire_older(tx, lease, at=at)
        return tuple(sorted(held - live.keys()))

    def _retire_older(self, tx: Tx, successor: Lease, *, at: datetime) -> None:
        """The older lease goes once its successor is in the client's hands."""
        older = tx.lease(successor.replaces) if successor.replaces else None
        if older is not None:
            moves.withdraw(tx, older, at=at, reason=EndReason.REPLACED)

    async def end_all(self, asked: Sequence[tuple[Step, EndReason]], *, by: str) -> list[Step]:
        """End open steps, many in one transaction: one commit each would let those at the end of a queue live on.

        Returns those that were ended; one that cannot be keeps none of the others alive.
        """
        ended: list[Step] = []
        for start in range(0, len(asked), TOGETHER):
            page = asked[start : start + TOGETHER]
            done = await self._end_together(page, by=by)
            if done is None:
                done = [step for one in page for step in await self._end_together([one], by=by) or ()]
            ended += done
        return ended

    async def _end_together(self, page: Sequence[tuple[Step, EndReason]], *, by: str) -> list[Step] | None:
        """In one transaction; None when that fails."""
        core = self._core

        def operation(tx: Tx) -> list[Step]:
            core.enter(tx)
            at = core.clock.now()
            return [step for step, reason in page if moves.end_step(tx, step, at=at, reason=reason, by=by) is not None]

        try:
            ended = await core.store.write(operation)
        except (BrokerError, StoreError):
            log.warning("steps could not be ended; they are tried again", steps=[step.id for step, _ in page])
            return None
        core.lane.set()
        reasons = {step.id: reason.value for step, reason in page}
        for step in ended:
            core.heard.pop(step.id, None)
            log.info("step ended", step=step.id, reason=reasons[step.id])
        return ended

    async def end(self, step: Step, *, reason: EndReason, by: str = "", request_id: str = "") -> list[Lease]:
        """End an open step; its leases are asked to die. Returns all leases of the step."""
        core = self._core

        def operation(tx: Tx) -> list[Lease]:
            core.enter(tx)
            digest = payload_hash("EndStep", step.id)
            if request_id and known_request(tx, step.key.agent, request_id, digest) is None:
                core.remember(tx, step, method="EndStep", request_id=request_id, digest=digest)
            moves.end_step(tx, step, at=core.clock.now(), reason=reason, by=by)
            return tx.leases_of(step.id)

        leases = await core.store.write(operation)
        core.heard.pop(step.id, None)
        core.lane.set()
        return leases


def with_references(opened: Opened, references: dict[str, str]) -> Opened:
    """The same answer, its refusals carrying what they were journalled under."""
    answers = tuple(
        replace(answer, reference_id=references.get(answer.scope, ""))
        if isinstance(answer.decision, Denied)
        else answer
        for answer in opened.answers
    )
    return replace(opened, answers=answers)
