"""What operators order of steps and leases: revoke, end, freeze. Each is ONE transaction, and takes what is in flight along."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from broker.journal.records import Kind, Record, by
from broker.leases import moves
from broker.leases.core import Core
from broker.leases.freezing import stops_lease
from broker.leases.selection import Selection
from broker.model import Agent, EndReason, JsonValue, Lease, LeaseState, Step
from broker.store.base import Tx
from broker.store.halts import Freeze

_LIVE = (LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.ACTIVE)

_NAMES = ("workflow", "run", "step", "scope")  # that a record has fields for


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Who wants it, and why."""

    by: str  # the operator's name
    reason: str = ""
    caller: Agent | None = None  # as whom it came in; None for the broker's own commands

    def record(self, tx: Tx, kind: Kind, at: datetime, **data: JsonValue) -> None:
        """Who, where and why, in the transaction of what was done. What names a run is part of its story."""
        who = by(self.caller) if self.caller else {}
        about = data.get("selection", data)
        names = {name: about[name] for name in _NAMES if about.get(name)}
        told = {"operator": self.by, "why": self.reason} | data
        tx.append(Record(kind=kind, at=at, data=told, **who, **names))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fallen:
    """What was asked to die, or would be."""

    leases: tuple[Lease, ...] = ()
    steps: tuple[Step, ...] = ()


class Orders:
    """Obeyed at once; whether somebody may give them was asked before."""

    def __init__(self, core: Core) -> None:
        self._core = core

    async def would_revoke(self, selection: Selection, *, end_steps: bool = False) -> Fallen:
        """What `revoke` would ask to die now."""
        return await self._core.store.read(lambda tx: _selected(tx, selection, end_steps=end_steps))

    async def revoke(self, selection: Selection, order: Order, *, end_steps: bool = False) -> Fallen:
        """Ask leases to die, also those that are being minted; `end_steps`: with the steps that would ask for more."""
        core = self._core

        def operation(tx: Tx) -> Fallen:
            core.enter(tx)
            at = core.clock.now()
            asked = _selected(tx, selection, end_steps=end_steps)
            order.record(tx, Kind.REVOKE_ORDERED, at, selection=selection.told(), leases=len(asked.leases))
            steps = [
                step
                for step in asked.steps
                if moves.end_step(tx, step, at=at, reason=EndReason.OPERATOR, by=order.by) is not None
            ]
            now = {row.id: row for row in map(tx.lease, (row.id for row in asked.leases)) if row is not None}
            for row in now.values():
                moves.withdraw(tx, row, at=at, reason=EndReason.OPERATOR, by=order.by)
            return Fallen(leases=asked.leases, steps=tuple(steps))

        return await self._obey(operation)

    async def would_freeze(self, freeze: Freeze, *, revoke: bool = False) -> Fallen:
        """What `freeze` would ask to die now."""
        return await self._core.store.read(lambda tx: Fallen(leases=_stopped_by(tx, freeze, revoke=revoke)))

    async def freeze(self, freeze: Freeze, order: Order, *, revoke: bool = False) -> Fallen:
        """Stop new mints. Those in flight are doomed: what they make is never delivered, whatever comes next.

        `revoke`: with what is alive, too.
        """
        core = self._core

        def operation(tx: Tx) -> Fallen:
            core.enter(tx)
            at = core.clock.now()
            if tx.add_freeze(freeze):
                order.record(tx, Kind.FROZEN, at, **_told(freeze), revoke=revoke)
            leases = _stopped_by(tx, freeze, revoke=revoke)
            for row in leases:
                moves.withdraw(tx, row, at=at, reason=EndReason.FROZEN, by=order.by)
            return Fallen(leases=leases)

        return await self._obey(operation)

    async def unfreeze(self, freeze_id: str, order: Order) -> Freeze | None:
        """Let new mints through again. None when there is no such freeze."""
        core = self._core

        def operation(tx: Tx) -> Freeze | None:
            core.enter(tx)
            found = next((one for one in tx.freezes() if one.id == freeze_id), None)
            if found is not None and tx.remove_freeze(freeze_id):
                order.record(tx, Kind.UNFROZEN, core.clock.now(), **_told(found))
            return found

        return await core.store.write(operation)

    async def _obey(self, operation: Callable[[Tx], Fallen]) -> Fallen:
        fallen = await self._core.store.write(operation)
        for step in fallen.steps:
            self._core.heard.pop(step.id, None)
        self._core.lane.set()
        return fallen


def _selected(tx: Tx, selection: Selection, *, end_steps: bool) -> Fallen:
    rows = [(row, tx.step(row.step_id)) for row in tx.leases_in(*_LIVE)]
    leases = [row for row, step in rows if selection.of_lease(row, step)]
    if not end_steps:
        return Fallen(leases=tuple(leases))
    having = {row.step_id for row in leases}
    steps = tuple(step for step in tx.open_steps() if step.id in having or selection.of_step(step))
    asked, ends = {row.id for row in leases}, {step.id for step in steps}
    return Fallen(leases=tuple(row for row, _ in rows if row.id in asked or row.step_id in ends), steps=steps)


def _stopped_by(tx: Tx, freeze: Freeze, *, revoke: bool) -> tuple[Lease, ...]:
    states = (LeaseState.INTENT, LeaseState.ACTIVE) if revoke else (LeaseState.INTENT,)
    return tuple(row for row in tx.leases_in(*states) if stops_lease(freeze, row, tx.step(row.step_id)))


def _told(freeze: Freeze) -> dict[str, JsonValue]:
    names = ("agent", "workflow", "run", "scope", "provider")
    return {"freeze": freeze.id, "selection": {name: value for name in names if (value := getattr(freeze, name))}}
