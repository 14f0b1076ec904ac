"""One lane for each receiver: what is dead or hangs there delays nothing but its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from broker.alerts.ledger import Ledger, NotOurs
from broker.alerts.pace import pause
from broker.alerts.post import Away, Refused
from broker.alerts.sinks import Sink
from broker.errors import StoreError
from broker.log import get_logger
from broker.metrics import Delivered, Metrics
from broker.store.base import Tx
from broker.store.notices import AlertRow, Delivery

log = get_logger(__name__)

LOOK = 1.0  # seconds between looks for something to send
PAGE = 128  # rows read at a time


class Lane(Protocol):
    """What is to be sent to one receiver."""

    name: str

    async def round(self) -> None:
        """Send what is due. Raises Away."""
        ...

    async def close(self) -> None: ...


async def run(lane: Lane, ledger: Ledger) -> None:
    """Until cancelled, without another end by design: it tries again, ever more slowly, until what is due is taken."""
    failed = 0
    while True:
        try:
            await lane.round()
            failed = 0
        except Away as error:
            failed += 1
            if failed == 1:
                log.warning(
                    "a receiver does not take what it is sent; it is tried again", receiver=lane.name, why=str(error)
                )
        except Exception:  # a dead lane would tell nobody anything
            failed += 1
            log.exception("could not send", receiver=lane.name)
        await ledger.clock.sleep(pause(failed).total_seconds() if failed else LOOK)


class AlertLane:
    """Brings alerts to one sink, each change until the sink has taken it, and marks it."""

    def __init__(self, sink: Sink, ledger: Ledger, metrics: Metrics) -> None:
        self.name = sink.name
        self._sink = sink
        self._ledger = ledger
        self._metrics = metrics
        self._taken: dict[str, tuple[datetime, int]] = {}  # fingerprint → since, serial; of what is not marked
        self._late: set[str] = set()  # fingerprints of what is over, and is told as firing first
        self._told_again = ledger.clock.monotonic()

    async def round(self) -> None:
        self._late.clear()
        due = [(self._next(row, last), last) for row, last in await self._ledger.undelivered(self.name, PAGE)]
        self._taken = {row.alert.fingerprint: mark for row, _ in due if (mark := self._mark_of(row))}
        fresh = [(row, last) for row, last in due if not self._mark_of(row)]
        await self._took([row for row, _ in due if self._mark_of(row)])
        await self._took([row for row, _ in fresh if not self._sink.wants(row)])
        wanted = {row.alert.fingerprint: (row, last) for row, last in fresh if self._sink.wants(row)}
        for chunk in _chunks([row for row, _ in wanted.values()], self._sink.batch):
            refused = await self._send(chunk)
            await self._took([row for row in chunk if row not in refused])
            await self._put([self._later(*wanted[row.alert.fingerprint]) for row in refused])
        await self._tell_again()

    async def close(self) -> None:
        await self._sink.close()

    async def _tell_again(self) -> None:
        now = self._ledger.clock.monotonic()
        if self._sink.tell_again is None or now - self._told_again < self._sink.tell_again:
            return
        firing = [row for row in await self._ledger.firing() if self._sink.wants(row)]
        for chunk in _chunks(firing, self._sink.batch):
            await self._send(chunk)
        self._told_again = now

    async def _send(self, rows: Sequence[AlertRow]) -> list[AlertRow]:
        """Returns what was refused. Raises Away."""
        outcome = Delivered.TAKEN
        try:
            await self._sink.send(rows)
        except Refused as error:
            outcome = Delivered.REFUSED
            if len(rows) > 1:  # one of them spoils the others
                return [one for row in rows for one in await self._send([row])]
            log.warning("a sink refuses an alert; it is tried again", sink=self.name, why=str(error))
            return list(rows)
        except Away:
            outcome = Delivered.AWAY
            raise
        finally:
            self._metrics.delivery(self.name, outcome)
        return []

    def _next(self, row: AlertRow, last: Delivery | None) -> AlertRow:
        """What fired and was over while the sink was away is told as firing first: nobody looks at an end alone."""
        fingerprint, taken = row.alert.fingerprint, last.serial if last else 0
        if row.resolved_at is None or taken >= row.serial - 1 or not self._sink.wants(row):
            return row
        if self._taken.get(fingerprint) == (row.since, 0):  # told from memory
            return row
        self._late.add(fingerprint)
        return replace(row, resolved_at=None, serial=row.serial - 1)

    def _mark_of(self, row: AlertRow) -> tuple[datetime, int] | None:
        mark = row.since, row.serial
        return mark if self._taken.get(row.alert.fingerprint) == mark else None

    def _later(self, row: AlertRow, last: Delivery | None) -> Delivery:
        attempts = (last.attempts if last else 0) + 1
        return Delivery(
            sink=self.name,
            fingerprint=row.alert.fingerprint,
            serial=last.serial if last else 0,
            attempts=attempts,
            next_try_at=self._ledger.clock.now() + pause(attempts),
        )

    async def _took(self, rows: Sequence[AlertRow]) -> None:
        """Remembered here first: a database that does not take the mark must not have it sent every second."""
        self._taken |= {row.alert.fingerprint: (row.since, row.serial) for row in rows}
        stored = [row for row in rows if row.serial]
        await self._put([self._mark(row.alert.fingerprint, row.serial) for row in stored])

    def _mark(self, fingerprint: str, serial: int) -> Delivery:
        later = self._ledger.clock.now() + self._sink.shows_for if fingerprint in self._late else None
        return Delivery(sink=self.name, fingerprint=fingerprint, serial=serial, next_try_at=later)

    async def _put(self, deliveries: Sequence[Delivery]) -> None:
        def operation(tx: Tx) -> None:
            for delivery in deliveries:
                tx.put_delivery(delivery)

        if not deliveries:
            return
        try:
            await self._ledger.write(operation)
        except (NotOurs, StoreError):
            log.warning("what a sink has taken could not be marked; it is marked later", sink=self.name)


def _chunks(rows: Sequence[AlertRow], size: int) -> list[Sequence[AlertRow]]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]
