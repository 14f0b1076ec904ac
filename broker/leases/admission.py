"""Keeps the front door up to date, and ends what those who are no longer let in have open.

New calls need none of this: each is judged by the door as it is. What was decided a moment before is decided again, since
the generation rises; what is open already has to end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from broker.errors import BrokerError, StoreError
from broker.identity.door import FrontDoor, Looked
from broker.journal.records import Kind, Record
from broker.leases import moves
from broker.leases.core import Core
from broker.leases.steps import Steps
from broker.log import get_logger
from broker.model import Certificate, EndReason, JsonValue, Lease, LeaseState, Step
from broker.store.base import Tx

log = get_logger(__name__)

# Seconds between looks. A change has to be seen twice, so it is in force within two of these: a denied certificate loses
# access within one second.
LOOK_EVERY = 0.25
PAGE = 200  # leases ended in one transaction
SETTLE_LOOKS = 4  # before the first call is served
OVERDUE = 5.0  # seconds since the last look that are remarked on

T = TypeVar("T")


class Admission:
    """One task. Whatever happens to it, the door stays as it was."""

    def __init__(self, core: Core, steps: Steps, door: FrontDoor) -> None:
        self._core = core
        self._steps = steps
        self._door = door
        self._thread = ThreadPoolExecutor(1, "front-door")  # of its own: in the common ones other files may hang
        self._looking, self._settling = asyncio.Lock(), asyncio.Lock()
        self._unwritten: list[Looked] = []
        self._sweep_due = True  # who was denied while the broker was away
        self._looked_at = core.clock.boottime()

    async def run(self) -> None:
        """Until cancelled. In two tasks: a database that is slow to write must not keep the next denial waiting."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._for_ever(self._look, "the front door could not be looked at"))
            tasks.create_task(
                self._for_ever(self._settle, "what came of the new trust could not be written; it is tried again")
            )

    async def _for_ever(self, work: Callable[[], Awaitable[None]], failed: str) -> None:
        failing = False  # said once, not four times a second
        while True:
            try:
                await work()
                failing = False
            except Exception as error:  # a dead watch would let in whom an operator has denied
                if not failing:
                    log.exception(failed, problem=str(error))
                failing = True
            await self._core.clock.sleep(LOOK_EVERY)

    def overdue(self) -> bool:
        """A look takes too long: a file system hangs, and no change is seen."""
        return self._core.clock.boottime() - self._looked_at > OVERDUE

    async def look(self, *, closely: bool = False) -> None:
        """Take what is new and good into force, journal it, and end what it forbids. Raises StoreError: it is due still.

        `closely`: also where nothing tells of a change.
        """
        await self._look(closely=closely)
        await self._settle()

    async def settled(self) -> None:
        """Look until what is in force has been seen twice, before anybody is let in; what goes on changing waits for nobody.

        What was read at the start may have been half of a deny list.
        """
        for _ in range(SETTLE_LOOKS):
            await self.look(closely=True)
            if not self._door.unsettled:
                return
            await self._core.clock.sleep(LOOK_EVERY)

    async def _look(self, *, closely: bool = False) -> None:
        async with self._looking:
            looking = partial(self._door.look, closely=closely)
            looked = await asyncio.get_running_loop().run_in_executor(self._thread, looking)
            self._looked_at = self._core.clock.boottime()
            self._core.metrics.front_door(refused=len(self._door.refused()), ends=self._door.ends())
            if looked.loaded or looked.refused:
                self._tell(looked)
                self._unwritten.append(looked)
                self._sweep_due |= looked.moved

    async def _settle(self) -> None:
        """Write down what has come into force, and end what it forbids. Raises StoreError."""
        async with self._settling:
            while self._unwritten:
                await self._write(self._unwritten[0])
                del self._unwritten[0]
            while self._sweep_due:
                self._sweep_due = False
                try:
                    await self._sweep()
                except BaseException:
                    self._sweep_due = True
                    raise

    def _tell(self, looked: Looked) -> None:
        if looked.loaded:
            log.info("front door changed", loaded=looked.loaded, generation=self._door.trust.generation)
        for name, problems in looked.refused.items():
            log.error("refused; the last good one stays", what=name, problems=list(problems))

    async def _write(self, looked: Looked) -> None:
        core, at = self._core, self._core.clock.now()

        def operation(tx: Tx) -> int:
            core.enter(tx)
            generation = tx.raise_generation() if looked.moved else 0
            for name, problems in looked.refused.items():
                data: Mapping[str, JsonValue] = {"what": name, "problems": list(problems)}
                tx.append(Record(kind=Kind.TRUST_REFUSED, at=at, data=data))
            if looked.loaded:
                data = {"what": list(looked.loaded), "generation": generation} | self._described()
                tx.append(Record(kind=Kind.TRUST_LOADED, at=at, data=data))
            return generation

        generation = await self._write_fenced(operation)
        if generation:
            core.policies.generation_raised(generation)

    def _described(self) -> dict[str, JsonValue]:
        trust = self._door.trust
        return {
            "roots": {name: domain.bundle.fingerprints for name, domain in trust.agents.items()},
            "operator_roots": {name: domain.bundle.fingerprints for name, domain in trust.operators.items()},
            "revoked": {name: sum(len(one.serials) for one in it.crls.lists) for name, it in trust.agents.items()},
            "denied": len(trust.denied.entries),
        }

    async def _sweep(self) -> None:
        """End the steps of those who are denied, or that they have opened; and what a denied certificate has asked for.

        Raises StoreError when a step is left.

        A root that was removed is not among the reasons: whose steps hung from it is not known, and their silence ends
        them.
        """
        core, trust = self._core, self._door.trust

        def denied(step: Step) -> bool:
            return trust.denies(step.key.agent, step.certificate) or trust.denies(step.opened_by, Certificate())

        def found(tx: Tx) -> tuple[list[Step], list[Lease]]:
            live = tx.leases_in(LeaseState.INTENT, LeaseState.IN_DOUBT, LeaseState.ACTIVE)
            return (
                [step for step in tx.open_steps() if denied(step)],
                [lease for lease in live if trust.denies(lease.agent, lease.certificate)],
            )

        # What is opened or asked for after this reading is refused: its transaction asks the same trust. What was committed
        # together with it is seen: the record of the load was written after it.
        steps, leases = await core.store.read(found)
        await self._steps.end_all([(step, EndReason.AGENT_DENIED) for step in steps], by="broker")
        for start in range(0, len(leases), PAGE):
            await self._withdraw(leases[start : start + PAGE])
        core.lane.set()
        if steps or leases:
            log.info("ended: who had opened it is denied", steps=len(steps), leases=len(leases))
        if steps and (left := (await core.store.read(found))[0]):  # `end_all` goes on after what it cannot end
            raise StoreError(f"{len(left)} steps of the denied are open still")

    async def _withdraw(self, leases: Sequence[Lease]) -> None:
        core = self._core

        def operation(tx: Tx) -> None:
            core.enter(tx)
            at = core.clock.now()
            for row in filter(None, (tx.lease(lease.id) for lease in leases)):
                moves.withdraw(tx, row, at=at, reason=EndReason.AGENT_DENIED)

        await self._write_fenced(operation)

    async def _write_fenced(self, operation: Callable[[Tx], T]) -> T:
        """A broker without its epoch writes nothing, and tries again. Raises StoreError."""
        try:
            return await self._core.store.write(operation)
        except BrokerError as error:
            raise StoreError(error.message) from None
