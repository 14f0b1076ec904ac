"""Who is told of alerts: the two kinds of sinks, and what they are sent."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.alert import AlertRule, Severity
from broker.alerts.post import Post, to_json
from broker.alerts.signature import Signer
from broker.clock import Clock
from broker.model import JsonValue
from broker.store.notices import AlertRow

SERVICE = "stepcred"
LASTS = timedelta(
    minutes=5
)  # what Alertmanager was told of is over by then, unless it is told again: a dead broker fires for no longer
TELL_AGAIN = 60.0  # seconds; Alertmanager's documentation asks for 30 s to 3 min
_RANK = {Severity.INFO: 0, Severity.WARNING: 1, Severity.CRITICAL: 2}


@dataclass(frozen=True, kw_only=True, slots=True)
class Origin:
    """Whose alerts they are, and where one reads what to do."""

    environment: str
    runbook_url: str = ""

    def runbook(self, rule: AlertRule) -> str:
        """The section about this rule."""
        return f"{self.runbook_url or 'docs/alerts.md'}#{rule.value}"


class Sink(Protocol):
    """One receiver of alerts."""

    name: str
    batch: int  # alerts that it takes in one message
    tell_again: float | None  # seconds between repetitions of what fires; None: it remembers
    shows_for: timedelta  # between that it fired and that it is over, when both are told late

    def wants(self, row: AlertRow) -> bool: ...
    async def send(self, rows: Sequence[AlertRow]) -> None:
        """Raises Away, Refused."""
        ...

    async def close(self) -> None: ...


class _Posting:
    """What both kinds share."""

    def __init__(self, name: str, post: Post, origin: Origin, min_severity: Severity) -> None:
        self.name = name
        self._post = post
        self._origin = origin
        self._min_severity = min_severity

    def wants(self, row: AlertRow) -> bool:
        return _RANK[row.alert.rule.severity] >= _RANK[self._min_severity]

    async def close(self) -> None:
        await self._post.close()


class WebhookSink(_Posting):
    """One signed message for each change: `stepcred.alert.firing`, `stepcred.alert.resolved`."""

    batch = 1
    tell_again: float | None = None
    shows_for = timedelta(0)

    def __init__(self, name: str, post: Post, origin: Origin, min_severity: Severity, signer: Signer) -> None:
        super().__init__(name, post, origin, min_severity)
        self._signer = signer

    async def send(self, rows: Sequence[AlertRow]) -> None:
        for row in rows:
            body = to_json(self._body(row))
            await self._post.send(body, self._signer.headers(message_id(self._origin.environment, row), body))

    def _body(self, row: AlertRow) -> JsonValue:
        alert, ended = row.alert, row.resolved_at
        return {
            "type": f"stepcred.alert.{'resolved' if ended else 'firing'}",
            "timestamp": _text(ended or row.since),
            "environment": self._origin.environment,
            "receiver": self.name,  # one message is no use to another receiver
            "data": {
                "alertname": alert.rule.value,
                "severity": alert.rule.severity.value,
                "summary": alert.summary,
                "labels": dict(alert.labels),
                "fingerprint": alert.fingerprint,
                "runbook": self._origin.runbook(alert.rule),
                "since": _text(row.since),
                "resolved_at": _text(ended) if ended else None,
            },
        }


class AlertmanagerSink(_Posting):
    """`POST /api/v2/alerts`. It forgets what it is not told again.

    It tells nobody of what is over before its own waits are (`group_wait`, `group_interval`: 5 min by default).
    """

    batch = 64
    tell_again: float | None = TELL_AGAIN
    shows_for = LASTS

    def __init__(self, name: str, post: Post, origin: Origin, min_severity: Severity, clock: Clock) -> None:
        super().__init__(name, post, origin, min_severity)
        self._clock = clock

    async def send(self, rows: Sequence[AlertRow]) -> None:
        await self._post.send(to_json([self._alert(row) for row in rows]))

    def _alert(self, row: AlertRow) -> JsonValue:
        alert = row.alert
        own = {
            "alertname": alert.rule.value,
            "severity": alert.rule.severity.value,
            "environment": self._origin.environment,
            "service": SERVICE,
        }
        annotations = {"summary": alert.summary, "runbook": self._origin.runbook(alert.rule)}
        if self._origin.runbook_url:
            annotations["runbook_url"] = annotations.pop("runbook")
        ends = row.resolved_at or self._clock.now() + LASTS
        return {
            "labels": {name: text for name, text in {**alert.labels, **own}.items() if text},
            "annotations": annotations,
            "startsAt": _text(row.since),
            "endsAt": _text(max(ends, row.since)),  # the other way round it is refused
        }


def message_id(environment: str, row: AlertRow) -> str:
    """The same for each attempt at one change, and for no other."""
    parts = (environment, row.alert.fingerprint, str(row.serial), row.since.isoformat())
    return "alert-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


def _text(at: datetime) -> str:
    return at.isoformat()
