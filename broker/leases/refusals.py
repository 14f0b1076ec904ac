"""Journals refusals before they are answered (I3), without letting a storm of them fill the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from datetime import datetime
from typing import Any

from broker.clock import Clock
from broker.errors import BrokerError, StoreError
from broker.guard.denials import Aggregate, DenialCounter, Full
from broker.journal.records import Kind, Record, by
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Agent
from broker.store.base import Store

log = get_logger(__name__)

MAX_UNWRITTEN = 10_000  # counts kept while the disk is full; the oldest go first

_RECORD_FIELDS = ("agent", "workflow", "run", "step", "step_id", "lease_id", "scope", "rule")


class Refusals:
    """Gives each refusal its reference id."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics, counter: DenialCounter) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._counter = counter
        self._opening: dict[str, asyncio.Event] = {}  # aggregates whose opening record is on its way
        self._unwritten: list[Aggregate] = []  # counts that the disk has not taken yet
        self._flushing = asyncio.Lock()
        self._writes: set[asyncio.Task[None]] = set()

    async def record(self, agent: Agent, method: str, error: BrokerError, *, kind: Kind = Kind.DENIED) -> None:
        """Sets `error.reference_id`, durably journalled. A store that cannot write refuses all the same.

        `kind`: OPERATOR_DENIED for operators, who share no count with an agent of the same name.
        """
        at = self._clock.now()
        self._metrics.refusal(error.reason)
        side = "" if kind is Kind.DENIED else kind.value
        noted = self._counter.note(agent.spiffe_id, error.reason.value, at, side=side)
        error.reference_id = noted.reference_id
        if not isinstance(noted, Full):
            if not noted.first_of_aggregate:
                await self._opened(noted.reference_id)
                return
            self._opening[noted.reference_id] = asyncio.Event()
        fields = {name: error.about[name] for name in _RECORD_FIELDS if name in error.about}
        rest = {name: value for name, value in error.about.items() if name not in _RECORD_FIELDS}
        record = Record(
            kind=kind,
            at=at,
            reason=error.reason.value,
            reference_id=noted.reference_id,
            data={"method": method, "aggregate": not isinstance(noted, Full)} | rest,
            **(by(agent) | fields),
        )
        await self._own(self._write(record))

    async def _own(self, work: Coroutine[Any, Any, None]) -> None:
        """A caller that vanishes must not let others be told a reference that is not durable yet."""
        task = asyncio.create_task(work)
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        await asyncio.shield(task)

    async def _write(self, record: Record) -> None:
        try:
            await self._store.write(lambda tx: tx.append(record), quick=True)
        except StoreError:
            log.exception("a refusal could not be journalled", reference_id=record.reference_id)
        finally:
            if opening := self._opening.pop(record.reference_id, None):
                opening.set()

    async def _opened(self, reference_id: str) -> None:
        """Nobody is told a reference before its record is durable (I3)."""
        if opening := self._opening.get(reference_id):
            await opening.wait()

    async def flush(self, *, everything: bool = False) -> None:
        """Write the aggregates whose minute is over (all of them, at the end). Raises StoreError; nothing is lost."""
        await self._own(self._flush(everything=everything))

    async def _flush(self, *, everything: bool) -> None:
        async with self._flushing:  # or what is being written would be written twice
            at = self._clock.now()
            due = [*self._unwritten, *self._counter.due(at, everything=everything)]
            if not due:
                return
            self._unwritten = due[-MAX_UNWRITTEN:]
            await self._store.write(lambda tx: [tx.append(_counted(aggregate, at)) for aggregate in due])
            self._unwritten = []


def _counted(aggregate: Aggregate, at: datetime) -> Record:
    return Record(
        kind=Kind.DENIALS_COUNTED,
        at=at,
        agent=aggregate.agent,
        reason=aggregate.reason,
        reference_id=aggregate.reference_id,
        data={
            "count": aggregate.count,
            "minute": aggregate.minute.isoformat(),
        }
        | ({"side": aggregate.side} if aggregate.side else {}),
    )
