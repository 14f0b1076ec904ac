"""Brings to one receiver what it must undo."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from broker.alerts.lanes import PAGE
from broker.alerts.ledger import Ledger, NotOurs
from broker.alerts.pace import pause
from broker.alerts.post import Away, Post, Refused, to_json
from broker.alerts.signature import Signer
from broker.errors import StoreError
from broker.journal.records import Kind, Record
from broker.log import get_logger
from broker.metrics import Delivered, Metrics
from broker.store.base import Tx
from broker.store.notices import Notice

log = get_logger(__name__)


class NoticeLane:
    """Tells one receiver what was rolled back: signed, at least once, the journal says when it was taken."""

    def __init__(  # noqa: PLR0917 - what it is made of
        self, target: str, post: Post, signer: Signer, environment: str, ledger: Ledger, metrics: Metrics
    ) -> None:
        self.name = target
        self._post = post
        self._signer = signer
        self._environment = environment
        self._ledger = ledger
        self._metrics = metrics
        self._taken: set[str] = set()  # notices that are not marked

    async def round(self) -> None:
        now = self._ledger.clock.now()
        due = await self._ledger.read(lambda tx: tx.due_notices(self.name, now, PAGE))
        self._taken &= {notice.id for notice in due}
        for notice in due:
            if notice.id in self._taken or await self._send(notice):
                self._taken.add(notice.id)
                await self._change(replace(notice, attempts=notice.attempts + 1, sent_at=self._ledger.clock.now()))

    async def close(self) -> None:
        await self._post.close()

    async def _send(self, notice: Notice) -> bool:
        """False: refused, and put off. Raises Away."""
        data = dict(notice.body)
        body = to_json(
            {
                "type": data.pop("type", "stepcred.rolled_back"),
                "timestamp": notice.created_at.isoformat(),
                "environment": self._environment,
                "receiver": self.name,
                "data": data,
            }
        )
        outcome = Delivered.TAKEN
        try:
            await self._post.send(body, self._signer.headers(notice.id, body))
        except Refused as error:
            outcome = Delivered.REFUSED
            log.warning("a compensation is refused; it is tried again", receiver=self.name, why=str(error))
            attempts = notice.attempts + 1
            later = self._ledger.clock.now() + pause(attempts)
            await self._change(replace(notice, attempts=attempts, next_try_at=later))
            return False
        except Away:
            outcome = Delivered.AWAY
            raise
        finally:
            self._metrics.delivery(f"compensation.{self.name}", outcome)
        return True

    async def _change(self, notice: Notice) -> None:
        def operation(tx: Tx) -> None:
            tx.put_notice(notice)
            if notice.sent_at is not None:
                tx.append(_taken(notice, notice.sent_at))

        try:
            await self._ledger.write(operation)
        except (NotOurs, StoreError):
            log.warning("how far a compensation is could not be written; it is written later", receiver=self.name)


def _taken(notice: Notice, at: datetime) -> Record:
    names = ("agent", "workflow", "run", "step", "step_id", "scope")
    about = {name: text for name in names if isinstance(text := notice.body.get(name), str)}
    data = {"receiver": notice.target, "notice": notice.id, "attempts": notice.attempts}
    return Record(kind=Kind.COMPENSATION, at=at, data=data, **about)
