"""Journals refusals before they are answered (I3), without letting a storm of them fill the disk."""

from __future__ import annotations

from datetime import datetime

from broker.clock import Clock
from broker.errors import BrokerError, StoreError
from broker.guard.denials import Aggregate, DenialCounter, Full
from broker.journal.records import Kind, Record, by
from broker.log import get_logger
from broker.metrics import Metrics
from broker.model import Agent
from broker.store.base import Store

log = get_logger(__name__)

_RECORD_FIELDS = ("workflow", "run", "step", "step_id", "lease_id", "scope", "rule")


class Refusals:
    """Gives each refusal its reference id."""

    def __init__(self, store: Store, clock: Clock, metrics: Metrics, counter: DenialCounter) -> None:
        self._store = store
        self._clock = clock
        self._metrics = metrics
        self._counter = counter

    async def record(self, agent: Agent, method: str, error: BrokerError) -> None:
        """Sets `error.reference_id`, durably journalled. A store that cannot write refuses all the same."""
        at = self._clock.now()
        self._metrics.refusal(error.reason)
        noted = self._counter.note(agent.spiffe_id, error.reason.value, at)
        error.reference_id = noted.reference_id
        if not isinstance(noted, Full) and not noted.first_of_aggregate:
            return
        fields = {name: error.about[name] for name in _RECORD_FIELDS if name in error.about}
        rest = {name: value for name, value in error.about.items() if name not in _RECORD_FIELDS}
        record = Record(
            kind=Kind.DENIED,
            at=at,
            reason=error.reason.value,
            reference_id=noted.reference_id,
            data={"method": method, "aggregate": not isinstance(noted, Full)} | rest,
            **by(agent),
            **fields,
        )
        try:
            await self._store.write(lambda tx: tx.append(record))
        except StoreError:
            log.exception("a refusal could not be journalled", reference_id=noted.reference_id)

    async def flush(self) -> None:
        """Write the aggregates whose minute is over."""
        due = self._counter.due(self._clock.now())
        if due:
            at = self._clock.now()
            await self._store.write(lambda tx: [tx.append(_counted(aggregate, at)) for aggregate in due])


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
        },
    )
