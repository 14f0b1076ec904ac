"""Opening a step: by its own agent, or by a launcher for it, which makes what it says of the step *proven*."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import cache
from typing import TypeAlias

from broker.errors import BrokerError, Reason, access_denied
from broker.journal.records import Kind
from broker.keyring import hash_handle
from broker.leases import moves
from broker.leases.answers import circumstances, must_be_named
from broker.leases.core import (
    Core,
    PolicyMoved,
    derive_handle,
    known_request,
    must_be_open,
    must_take_new_work,
    payload_hash,
    step_record,
)
from broker.leases.deciding import by_one_map
from broker.leases.ids import new_step_id
from broker.leases.opening import MAX_STEP, Opening, not_theirs
from broker.leases.standing import ends_at, launch_of, left_of, question
from broker.model import Agent, Bind, Certificate, EndReason, JsonValue, Step, StepKey, StepState
from broker.policy.decision import AccessRequest, Allowed, Concurrent, Decision, Denied
from broker.policy.scope_map import ScopeMap
from broker.store.approvals import Approval
from broker.store.base import Tx


@dataclass(frozen=True, kw_only=True, slots=True)
class ScopeAnswer:
    """One scope's verdict, with the reference that a refusal was journalled under."""

    asked: AccessRequest
    decision: Decision
    reference_id: str = ""
    approval: Approval | None = None  # what is open for it
    approvals_given: int = 0
    approved: bool = False  # the next intent may use it
    until: datetime | None = None  # of CheckAccess: when what is minted now would end; None where nothing would be

    @property
    def scope(self) -> str:
        """The scope asked for."""
        return self.asked.scope


@dataclass(frozen=True, kw_only=True, slots=True)
class Opened:
    """What BeginStep answers."""

    step: Step
    handle: str
    answers: tuple[ScopeAnswer, ...]


Verdicts: TypeAlias = Callable[[int], tuple[ScopeAnswer, ...]]  # of an attempt


class Beginning:
    """BeginStep and CheckAccess."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def check(self, key: StepKey, scopes: Sequence[str], *, address: str) -> tuple[ScopeAnswer, ...]:
        """The verdicts of `begin` for the attempt that would be the next; opens nothing and journals nothing."""
        core = self._core
        like = _question(key, address=address, now=core.clock.now())
        verdicts = _verdicts_of(core.policies.map, scopes, like)

        def look(tx: Tx) -> tuple[ScopeAnswer, ...]:
            answers = _with_ends(verdicts(_next_of(tx.latest_attempt(key))))
            return self._with_approvals(tx, key, answers, launcher="")

        return await core.store.read(look, quick=True)

    async def check_open(self, agent: Agent, handle: str, scopes: Sequence[str]) -> tuple[ScopeAnswer, ...]:
        """What IssueCredential would be answered in this open step; journals nothing. So approvals are waited for."""
        core = self._core
        step = await core.step_of(agent, handle)
        must_be_open(step)
        scope_map, now = core.policies.map, core.clock.moment()
        asked = [question(scope_map, step, scope, address=agent.address, now=now.wall) for scope in scopes]
        for one in asked:
            must_be_named(step, one.scope)
        found = tuple(ScopeAnswer(asked=one, decision=scope_map.decide(one)) for one in asked)
        answers = _with_ends(found, left=lambda allowed: left_of(step, allowed, now))
        return await core.store.read(
            lambda tx: self._with_approvals(tx, step.key, answers, launcher=step.launcher), quick=True
        )

    def _with_approvals(
        self, tx: Tx, key: StepKey, answers: tuple[ScopeAnswer, ...], *, launcher: str
    ) -> tuple[ScopeAnswer, ...]:
        """What was asked to be approved for this step, told and not changed."""
        approving, now = self._core.approving, self._core.clock.moment()

        def one(answer: ScopeAnswer) -> ScopeAnswer:
            decision = answer.decision
            if isinstance(decision, Denied) or not decision.approvals:
                return answer
            found = approving.standing(tx, key, decision, now, launcher=launcher)
            if found is None:
                return answer
            approved = found.usable and not approving.off()
            return replace(answer, approval=found.approval, approvals_given=found.given, approved=approved)

        return tuple(map(one, answers))

    async def begin(self, agent: Agent, asked: Opening) -> Opened:
        """Open the step, or its next attempt, or answer a replay. Costs nothing."""
        return await by_one_map(lambda: self._begin(agent, asked))

    async def _begin(self, agent: Agent, asked: Opening) -> Opened:
        core = self._core
        policy, now = core.policies.current, core.clock.now()
        _must_be_theirs(policy.map, asked, now)
        like = _question(asked.key, address=asked.address, now=now)
        if asked.launched:
            like = replace(like, proven=True, definition_digest=asked.definition_digest)
        verdicts = _verdicts_of(policy.map, asked.scopes, like)
        # Decided here for the attempt that it will most likely be: the transaction is everybody's.
        verdicts(_next_of(await core.store.read(lambda tx: tx.latest_attempt(asked.key), quick=True)))
        step, ended = await core.store.write(
            lambda tx: self._open(tx, agent, asked, verdicts, policy.generation), quick=True
        )
        must_be_open(step)
        core.heard.setdefault(step.id, core.clock.boottime())
        if ended:
            core.lane.set()
        core.epoch.must_be_fresh()
        answers = verdicts(step.attempt)
        if any(isinstance(answer.decision, Allowed) and answer.decision.approvals for answer in answers):
            answers = await core.store.read(
                lambda tx: self._with_approvals(tx, step.key, verdicts(step.attempt), launcher=step.launcher),
                quick=True,
            )
        return Opened(step=step, handle=core.handle(step), answers=answers)

    def _open(self, tx: Tx, agent: Agent, asked: Opening, verdicts: Verdicts, generation: int) -> tuple[Step, bool]:
        """Write the step, in ONE transaction; and did an older attempt's leases have to go?

        1. the epoch is ours, the policy asked is the current one, and the caller is not denied; 2. a replay is answered; 3. an older attempt makes
        way, or not; 4. step, idempotency row and journal.
        """
        core, at = self._core, self._core.clock.now()
        core.enter(tx)  # 1
        if tx.control().policy_generation != generation:
            raise PolicyMoved
        core.must_be_welcome(agent)
        digest = payload_hash("BeginStep", *asked.payload)
        known = known_request(tx, agent.spiffe_id, asked.request_id, digest)  # 2
        if known is not None:
            return self._replayed(agent, tx.step(known.step_id)), False
        must_take_new_work(core)
        older = tx.latest_attempt(asked.key)  # 3
        answers = verdicts(_next_of(older))
        allowed = [answer.decision for answer in answers if isinstance(answer.decision, Allowed)]
        ended = older is not None and self._make_way(tx, asked, older, allowed, at=at)
        step = self._next(agent, asked, allowed, attempt=_next_of(older), at=at)
        tx.insert_step(step)  # 4
        core.remember(tx, step, caller=agent, method="BeginStep", request_id=asked.request_id, digest=digest)
        tx.append(step_record(step, agent, kind=Kind.STEP_BEGUN, at=at, data=_begun(step, answers)))
        return step, ended

    def _make_way(self, tx: Tx, asked: Opening, older: Step, allowed: list[Allowed], *, at: datetime) -> bool:
        """An older attempt that is alive: the strictest of the matching grants says what happens. True when it was ended."""
        core = self._core
        if older.launched and not asked.launched:
            raise _is_launched(older)
        if older.state is not StepState.OPEN:
            return False
        if not allowed or any(decision.concurrent is Concurrent.REFUSE for decision in allowed):
            heard = core.heard.get(older.id, core.epoch.started_boot)
            left = core.silence_bound(older) - timedelta(seconds=core.clock.boottime() - heard)
            raise BrokerError(
                Reason.STEP_ALIVE,
                "an earlier attempt of this step is alive",
                retry_after=max(left, timedelta(seconds=1)),
                about={"step_id": older.id},
            )
        return moves.end_step(tx, older, at=at, reason=EndReason.SUPERSEDED) is not None

    def _replayed(self, agent: Agent, step: Step | None) -> Step:
        """Only whoever opened it; a workload with the key that it is held to."""
        if step is None or step.opened_by != agent.spiffe_id:
            raise access_denied()
        return step if step.launched else self._core.own(agent, step)

    def _next(self, agent: Agent, asked: Opening, allowed: list[Allowed], *, attempt: int, at: datetime) -> Step:
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
            opened_by=asked.opened_by,
            started_at=None if asked.launched else at,
            proven=asked.launched,
            definition_digest=asked.definition_digest,
            bind=Bind.strictest(decision.bind for decision in allowed),
            certificate=Certificate() if asked.launched else agent.certificate,
        )


def _must_be_theirs(scope_map: ScopeMap, asked: Opening, now: datetime) -> None:
    """Whoever is no workload, or no launcher of this one, opens nothing and fills no table."""
    key = asked.key
    if not asked.launched:
        if not scope_map.workloads_of(key.agent):
            raise access_denied()
        return
    launch = launch_of(key, launcher=asked.opened_by, definition_digest=asked.definition_digest, now=now)
    if scope_map.may_launch(launch) is None:
        error = not_theirs(key.agent)
        error.about |= {"workflow": key.workflow, "run": key.run, "step": key.step}
        error.about |= {"definition_digest": asked.definition_digest}
        raise error


def _is_launched(older: Step) -> BrokerError:
    """What was proven must not become a claim because the agent opens it once more."""
    return BrokerError(
        Reason.OPENED_BY_LAUNCHER,
        "a launcher opens this step: use the handle that it was given, or have it opened again",
        about={"step_id": older.id},
    )


def _question(key: StepKey, *, address: str, now: datetime) -> AccessRequest:
    """Of no scope and no attempt yet, and proven by nobody."""
    return AccessRequest(
        agent=key.agent, workflow=key.workflow, run=key.run, step=key.step, scope="", now=now, address=address
    )


def _verdicts_of(scope_map: ScopeMap, scopes: Sequence[str], like: AccessRequest) -> Verdicts:
    """What the map says of each scope; `like`: the question but for scope and attempt. Asked once per attempt."""

    @cache
    def verdicts(attempt: int) -> tuple[ScopeAnswer, ...]:
        questions = (replace(like, scope=scope, attempt=attempt) for scope in scopes)
        return tuple(ScopeAnswer(asked=asked, decision=scope_map.decide(asked)) for asked in questions)

    return verdicts


def _with_ends(
    answers: tuple[ScopeAnswer, ...], *, left: Callable[[Allowed], timedelta] | None = None
) -> tuple[ScopeAnswer, ...]:
    """When each credential would end. `left`: of an open step; else of one that is opened now for all of them."""
    spans = [one.decision.max_step for one in answers if isinstance(one.decision, Allowed)]
    longest = min([MAX_STEP, *spans])

    def one(answer: ScopeAnswer) -> ScopeAnswer:
        decision = answer.decision
        if isinstance(decision, Denied):
            return answer
        until = ends_at(decision, at=answer.asked.now, left=left(decision) if left else longest)
        return replace(answer, until=until)

    return tuple(map(one, answers))


def _next_of(latest: Step | None) -> int:
    return latest.attempt + 1 if latest else 1


def _begun(step: Step, answers: tuple[ScopeAnswer, ...]) -> dict[str, JsonValue]:
    scopes = {answer.scope: _word(answer.decision) for answer in answers}
    data = {"scopes": scopes, "deadline": step.deadline_at.isoformat(), "bind": step.bind.value}
    data |= {"spki_sha256": step.certificate.spki_sha256}
    return data | circumstances(step, answers[0].asked)


def _word(decision: Decision) -> str:
    if isinstance(decision, Denied):
        return decision.reason.value
    return "needs approval" if decision.approvals else "granted"


def with_references(opened: Opened, references: dict[str, str]) -> Opened:
    """The same answer, its refusals carrying what they were journalled under."""
    answers = tuple(
        replace(answer, reference_id=references.get(answer.scope, ""))
        if isinstance(answer.decision, Denied)
        else answer
        for answer in opened.answers
    )
    return replace(opened, answers=answers)
