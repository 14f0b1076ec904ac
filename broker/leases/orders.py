"""What operators order of steps and leases: revoke, end, freeze. Carried out at once, in pages, with what is in flight.

One transaction over everything would hold the writer for as long as it takes (49 s for 20,000 leases, measured), and with it
every heartbeat and the epoch. So the order's own transaction takes what is in flight and the first page along, and each
further page is a transaction of its own.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from broker.journal.records import Kind, Record, by
from broker.leases import moves
from broker.leases.core import Core
from broker.leases.freezing import stops_lease
from broker.leases.selection import Selection
from broker.leases.steps import TOGETHER, Steps
from broker.model import Agent, EndReason, JsonValue, Lease, LeaseState, Step
from broker.store.base import Tx
from broker.store.halts import Freeze

# In this order: an INTENT that becomes ACTIVE meanwhile was looked at before, and was doomed.
_LIVE = (LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.ACTIVE)
_FACTS = (
    "workflow",
    "run",
    "step",
    "scope",
)  # of a record's own fields, so that a run's timeline has what was done to it


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """Who wants it, and why."""

    by: str  # the operator's name
    reason: str = ""
    caller: Agent | None = None  # as whom it came in; None for the broker's own commands

    def record(self, tx: Tx, kind: Kind, at: datetime, **data: JsonValue) -> None:
        """Who, where and why, in the transaction of what was done."""
        who = by(self.caller) if self.caller else {}
        facts = _facts(data)
        tx.append(Record(kind=kind, at=at, data={"operator": self.by, "why": self.reason} | data, **who, **facts))


@dataclass(frozen=True, kw_only=True, slots=True)
class Fallen:
    """What was asked to die, or would be."""

    leases: tuple[Lease, ...] = ()
    steps: tuple[Step, ...] = ()
    freeze: Freeze | None = None  # as it stands: of everything there is one, whoever asks for it again


Fits = Callable[[Lease, Step | None], bool]


class Orders:
    """Obeyed at once; whether somebody may give them was asked before."""

    def __init__(self, core: Core, steps: Steps) -> None:
        self._core = core
        self._steps = steps

    async def would_revoke(self, selection: Selection, *, end_steps: bool = False) -> Fallen:
        """What `revoke` would ask to die now."""
        leases = [row async for page in self._live(selection.of_lease) for row in page]
        if not end_steps:
            return Fallen(leases=tuple(leases))
        having = {row.step_id for row in leases}
        open_steps = await self._core.store.read(lambda tx: tx.open_steps())
        steps = tuple(step for step in open_steps if step.id in having or selection.of_step(step))
        asked, ends = {row.id for row in leases}, {step.id for step in steps}
        more = [row async for page in self._live(lambda row, _: row.step_id in ends) for row in page]
        return Fallen(leases=(*leases, *(row for row in more if row.id not in asked)), steps=steps)

    async def revoke(self, selection: Selection, order: Order, *, end_steps: bool = False) -> Fallen:
        """Ask leases to die, also those that are being minted; `end_steps`: with the steps that would ask for more.

        What is in flight, and the first page of the rest, in the transaction that has the order on record.
        """
        core, asked = self._core, await self.would_revoke(selection, end_steps=end_steps)
        first = asked.leases[:TOGETHER]
        told = {"selection": selection.told(), "leases": len(asked.leases), "steps": len(asked.steps)}

        def operation(tx: Tx) -> list[Step]:
            core.enter(tx)
            at = core.clock.now()
            order.record(tx, Kind.REVOKE_ORDERED, at, **told)
            ended = [
                step
                for step in asked.steps[:TOGETHER]
                if moves.end_step(tx, step, at=at, reason=EndReason.OPERATOR, by=order.by) is not None
            ]
            self._condemn(tx, first, selection.of_lease, reason=EndReason.OPERATOR, by=order.by)
            return ended

        ended = await core.store.write(operation)
        for step in ended:
            core.heard.pop(step.id, None)
        core.lane.set()
        left = await self.would_revoke(selection, end_steps=end_steps)  # and what has become alive since it was asked
        ended += await self._steps.end_all([(step, EndReason.OPERATOR) for step in left.steps], by=order.by)
        await self._withdraw(left.leases, reason=EndReason.OPERATOR, by=order.by)
        return Fallen(leases=_together(asked.leases, left.leases), steps=tuple(ended))

    async def would_freeze(self, freeze: Freeze, *, revoke: bool = False) -> Fallen:
        """What `freeze` would ask to die now."""
        states = _LIVE if revoke else (LeaseState.INTENT, LeaseState.IN_DOUBT)
        pages = self._live(lambda row, step: stops_lease(freeze, row, step), states)
        return Fallen(leases=tuple([row async for page in pages for row in page]))

    async def freeze(self, freeze: Freeze, order: Order, *, revoke: bool = False) -> Fallen:
        """Stop new mints. Those in flight are doomed: what they make is never delivered, whatever comes next.

        `revoke`: with what is alive, too.
        """
        core, asked = self._core, await self.would_freeze(freeze, revoke=revoke)

        def fits(row: Lease, step: Step | None) -> bool:
            return stops_lease(freeze, row, step)

        def operation(tx: Tx) -> Freeze:
            core.enter(tx)
            known = next((one for one in tx.freezes() if one.named == freeze.named), None)
            if known is None:  # two of the same: whoever lifts one would believe that it is over
                tx.add_freeze(freeze)
            stands = known or freeze
            order.record(tx, Kind.FROZEN, core.clock.now(), **_told(stands), revoke=revoke, new=known is None)
            self._condemn(tx, asked.leases[:TOGETHER], fits, reason=EndReason.FROZEN, by=order.by)
            return stands

        stands = await core.store.write(operation)
        core.lane.set()
        left = await self.would_freeze(freeze, revoke=revoke)
        await self._withdraw(left.leases, reason=EndReason.FROZEN, by=order.by)
        return Fallen(leases=_together(asked.leases, left.leases), freeze=stands)

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

    def _condemn(self, tx: Tx, page: Sequence[Lease], fits: Fits, *, reason: EndReason, by: str) -> None:
        """These, and whatever that fits is being minted now: there are never more of it than calls."""
        at = self._core.clock.now()
        flying = [row for row in tx.leases_in(LeaseState.INTENT) if fits(row, tx.step(row.step_id))]
        rows = {row.id: row for row in (*flying, *filter(None, (tx.lease(one.id) for one in page)))}
        for row in rows.values():
            moves.withdraw(tx, row, at=at, reason=reason, by=by)

    async def _live(self, fits: Fits, states: Sequence[LeaseState] = _LIVE) -> AsyncIterator[list[Lease]]:
        """Those that fit, a page at a time: agents' reads wait in between."""
        for state in states:
            after = 0
            while True:

                def look(tx: Tx, state: LeaseState = state, after: int = after) -> tuple[list[Lease], int, bool]:
                    page, last = tx.lease_page(state, after=after, limit=TOGETHER)
                    return [row for row in page if fits(row, tx.step(row.step_id))], last, bool(page)

                found, after, more = await self._core.store.read(look)
                if found:
                    yield found
                if not more:
                    break

    async def _withdraw(self, leases: Sequence[Lease], *, reason: EndReason, by: str) -> None:
        core = self._core
        for start in range(0, len(leases), TOGETHER):
            page = [row.id for row in leases[start : start + TOGETHER]]

            def operation(tx: Tx, page: list[str] = page) -> None:
                core.enter(tx)
                for row in filter(None, map(tx.lease, page)):
                    moves.withdraw(tx, row, at=core.clock.now(), reason=reason, by=by)

            await core.store.write(operation)
            core.lane.set()  # the first pages die while the last ones are asked to


def _together(first: Sequence[Lease], then: Sequence[Lease]) -> tuple[Lease, ...]:
    """Each once, as it was first seen."""
    return tuple(({row.id: row for row in then} | {row.id: row for row in first}).values())


def _told(freeze: Freeze) -> dict[str, JsonValue]:
    return {"freeze": freeze.id, "selection": freeze.named}


def _facts(data: dict[str, JsonValue]) -> dict[str, str]:
    """Of what the record is about, wherever the data names it."""
    inside = [data, *(value for name in ("selection", "about") if isinstance(value := data.get(name), dict))]
    found = {name: one[name] for one in reversed(inside) for name in _FACTS if isinstance(one.get(name), str)}
    return {name: value for name, value in found.items() if value}
