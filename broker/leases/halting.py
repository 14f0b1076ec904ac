"""Fail safe: what the guard locks or holds ends in ONE transaction, with everything that it was given.

Never more than what is vouched for: a run or workflow that an agent merely claims must not end other agents' steps,
or `on_lock` would be a weapon.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.alert import Alert, AlertRule
from broker.errors import Reason
from broker.journal.records import Kind
from broker.leases import moves
from broker.leases.core import Core, step_record
from broker.leases.ids import new_notice_id
from broker.leases.standing import is_proven
from broker.log import get_logger
from broker.metrics import GuardBlock
from broker.model import Agent, EndReason, JsonValue, OnLock, Step
from broker.policy.decision import Allowed
from broker.policy.scope_map import ScopeMap
from broker.store.alarms import sound
from broker.store.base import Tx
from broker.store.notices import Notice

log = get_logger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class Halt:
    """What is refused for good, and to whom."""

    agent: Agent
    step: Step
    allowed: Allowed
    reason: Reason  # LOCKED, HELD or CEILING
    key: str  # the guard's
    until: datetime | None = None  # of a lock


_ALERTS = {
    Reason.LOCKED: (
        AlertRule.GUARD_LOCKED,
        "used up its attempts: it is locked, and its credentials are being revoked",
    ),
    Reason.HELD: (AlertRule.GUARD_HELD, "came back after a lock: it is held until an operator resets it"),
    Reason.CEILING: (AlertRule.GUARD_CEILING, "failed as often as it ever may: it is refused for good"),
}


class Halting:
    """Writes a lock, a hold or a ceiling into the transaction that found it."""

    def __init__(self, core: Core) -> None:
        self._core = core

    def stop(self, tx: Tx, halt: Halt, *, at: datetime) -> None:
        """1. the steps end; 2. all of their leases are doomed or REVOKING; 3. journal; 4. alert; 5. compensation."""
        held = halt.reason is Reason.HELD
        steps = self._reach(tx, halt, at)
        tx.must_be_quick(len(steps))
        ended = [(step, moves.end_step(tx, step, at=at, reason=EndReason.GUARD_LOCK)) for step in steps]  # 1, 2
        told: dict[str, JsonValue] = {
            "tier": halt.allowed.tier.value,
            "on_lock": halt.allowed.on_lock.value,
            "guard_key": halt.key,
            "until": halt.until.isoformat() if halt.until else "",
            "steps": [step.id for step, leases in ended if leases is not None],
            "leases": [lease.id for _, leases in ended for lease in leases or ()],
        }
        kind = Kind.GUARD_HELD if held else Kind.GUARD_LOCKED
        self._tell(tx, halt, kind, told, at=at)  # 3, 4
        if halt.allowed.compensate:  # 5
            self._compensate(tx, halt, told, at=at)
        self._core.metrics.guard_block(halt.allowed.tier, GuardBlock.HELD if held else GuardBlock.LOCKED)

    def ceiling(self, tx: Tx, halt: Halt, *, at: datetime) -> None:
        """Refuses for good, alerts, and ends nobody."""
        self._tell(tx, halt, Kind.GUARD_CEILING, {"tier": halt.allowed.tier.value, "guard_key": halt.key}, at=at)

    def _tell(self, tx: Tx, halt: Halt, kind: Kind, told: dict[str, JsonValue], *, at: datetime) -> None:
        step, allowed, reason = halt.step, halt.allowed, halt.reason
        rule = str(allowed.rule)
        record = step_record(
            step, halt.agent, kind=kind, at=at, scope=allowed.scope, reason=reason.value, rule=rule, data=told
        )
        tx.append(record)
        alert_rule, what = _ALERTS[reason]
        name = f"{step.key.workflow}/{step.key.run}/{step.key.step}"
        labels = {
            "scope": allowed.scope,
            "tier": allowed.tier.value,
            "workload": allowed.workload,
            "workflow": step.key.workflow,
            "run": step.key.run,
            "step": step.key.step,
            "guard_key": halt.key,
        }
        alert = Alert(rule=alert_rule, summary=f"{name} {what} (scope {allowed.scope})", labels=labels)
        sound(tx, alert, at=at, agent=step.key.agent, step_id=step.id, run=step.key.run, scope=allowed.scope)
        log.error("guard refused for good", reason=reason.value, scope=allowed.scope, step=step.id, **told)

    def _compensate(self, tx: Tx, halt: Halt, told: dict[str, JsonValue], *, at: datetime) -> None:
        """Somebody else rolls back what the workflow has done; it is told what was ended here, at least once."""
        key = halt.step.key
        body = {
            "type": "stepcred.guard." + halt.reason.value.lower(),
            "agent": key.agent,
            "workflow": key.workflow,
            "run": key.run,
            "step": key.step,
            "attempt": halt.step.attempt,
            "scope": halt.allowed.scope,
            "at": at.isoformat(),
        }
        notice = Notice(
            id=new_notice_id(), target=halt.allowed.compensate, body=body | told, created_at=at, next_try_at=at
        )
        tx.add_notice(notice)

    def _reach(self, tx: Tx, halt: Halt, at: datetime) -> Sequence[Step]:
        """The step itself, and what `on_lock` adds to it."""
        key, on_lock = halt.step.key, halt.allowed.on_lock
        if on_lock is OnLock.STEP:
            return [halt.step]
        scope_map = self._core.policies.map
        others = tx.open_steps_of(key.workflow, key.run if on_lock is OnLock.RUN else "")
        return [halt.step, *(one for one in others if one.id != halt.step.id and _vouched(scope_map, halt, one, at))]


def _vouched(scope_map: ScopeMap, halt: Halt, other: Step, at: datetime) -> bool:
    """Is it known, not only claimed, that both are of what `on_lock` names?

    By one certificate's name; by one launcher that says so of both today; or by what both certificates bind, which counts
    within one trust domain: another's authority writes what it likes.
    """
    mine = halt.step
    if other.key.agent == mine.key.agent:
        return True
    if mine.opened_by == other.opened_by and is_proven(scope_map, mine, at) and is_proven(scope_map, other, at):
        return True
    if _domain(other.key.agent) != _domain(mine.key.agent):
        return False
    names = {"workflow": mine.key.workflow}
    if halt.allowed.on_lock is OnLock.RUN:
        names["run"] = mine.key.run
    matches = scope_map.workloads_of(other.key.agent)
    return _binds(halt.allowed.captures, names) and any(_binds(captures, names) for _, captures in matches)


def _binds(captures: Mapping[str, str], names: Mapping[str, str]) -> bool:
    return all(captures.get(name) == value for name, value in names.items())


def _domain(agent: str) -> str:
    """The trust domain of a SPIFFE ID."""
    return agent.partition("://")[2].partition("/")[0]
