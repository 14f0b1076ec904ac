"""Idempotency records."""

from __future__ import annotations

from datetime import datetime

from broker.store.base import Request, RequestOutcome
from broker.store.sqlite import sql
from broker.store.sqlite.rows import REQUEST, micros
from broker.store.sqlite.tx.base import Area

_SQL = sql.queries("requests")


class RequestsArea(Area):
    """Unique per (caller, request id)."""

    def request(self, caller: str, request_id: str) -> Request | None:
        row = self._db.one(_SQL["request"], {"caller": caller, "request_id": request_id})
        return REQUEST.of(row) if row else None

    def insert_request(self, request: Request) -> None:
        self._db.run(_SQL["insert_request"], REQUEST.row(request))

    def finish_request(
        self, caller: str, request_id: str, outcome: RequestOutcome, *, reason: str = "", message: str = ""
    ) -> None:
        key = {"caller": caller, "request_id": request_id}
        self._db.run(_SQL["finish_request"], {**key, "outcome": outcome.value, "reason": reason, "message": message})

    def forget_requests(self, before: datetime) -> int:
        return self._db.run(_SQL["forget_requests"], {"before": micros(before)})
