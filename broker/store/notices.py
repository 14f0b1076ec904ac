"""What is to be told to people and to other systems, as rows: an outbox, written with the change that it tells of."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from broker.alert import Alert, AlertRule
from broker.model import JsonValue

FAR = timedelta(minutes=10)  # nothing is put off for so long


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertRow:
    """An alert, firing or resolved."""

    alert: Alert
    since: datetime
    last_at: datetime  # noticed for the last time
    count: int  # how often it was noticed
    serial: int  # rises when sinks must be told: it fires, or is resolved
    resolved_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Delivery:
    """How far a sink is with an alert."""

    sink: str
    fingerprint: str
    serial: int  # the last one that it took
    attempts: int = 0  # at the one that it did not take
    next_try_at: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Notice:
    """Something to be sent to one receiver, at least once."""

    id: str  # 16 characters of [a-z2-7]; the receiver knows a repetition by it
    target: str  # the receiver's name in the config
    body: Mapping[str, JsonValue]
    created_at: datetime
    next_try_at: datetime
    attempts: int = 0
    sent_at: datetime | None = None


class NoticesTx(Protocol):
    """Part of `Tx`."""

    def raise_alert(self, alert: Alert, *, at: datetime) -> bool:
        """True when it fires now, and did not before; else it is only counted."""
        ...

    def resolve_alert(self, fingerprint: str, *, at: datetime) -> bool:
        """False when it does not fire."""
        ...

    def alert(self, fingerprint: str) -> AlertRow | None:
        """Firing or resolved."""
        ...

    def alerts(self, *, resolved_too: bool = False) -> Sequence[AlertRow]:
        """Those that fire, the newest first; `resolved_too`: and the 200 that were resolved last."""
        ...

    def firing_counts(self) -> Mapping[AlertRule, int]:
        """How many of each rule fire; rules without any may be missing."""
        ...

    def forget_alerts(self, before: datetime, limit: int) -> int:
        """Delete so many of those resolved before then, with their deliveries."""
        ...

    def undelivered(self, sink: str, now: datetime, limit: int) -> Sequence[tuple[AlertRow, Delivery | None]]:
        """Alerts whose serial this sink has not taken, and whose next try is due; the oldest change first.

        Due is also what is to be tried in more than `FAR`: the clock was set back since.
        """
        ...

    def put_delivery(self, delivery: Delivery) -> None: ...
    def waiting_for(self, sinks: Collection[str]) -> Mapping[str, Sequence[str]]:
        """Fingerprint → which of these sinks have not taken its serial."""
        ...

    def add_notice(self, notice: Notice) -> None: ...
    def due_notices(self, target: str, now: datetime, limit: int) -> Sequence[Notice]:
        """Those for this receiver, not sent, next_try_at <= now or in more than `FAR`, the oldest first."""
        ...

    def put_notice(self, notice: Notice) -> None:
        """In the place of the row with its id."""
        ...

    def unsent_notices(self) -> Mapping[str, tuple[int, datetime]]:
        """Target → how many wait, and since when the oldest does."""
        ...

    def forget_notices(self, before: datetime) -> int:
        """Delete those sent before then."""
        ...
