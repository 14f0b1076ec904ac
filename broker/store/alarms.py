"""An alert fires and is resolved in the transaction of what it tells of, and the journal says so, once."""

from __future__ import annotations

from datetime import datetime

from broker.alert import Alert, AlertRule
from broker.journal.records import Kind, Record
from broker.model import JsonValue
from broker.store.base import Tx

MOST = 100  # alerts of one rule that agents can bring about at will; more of them are one alert
MORE = "more"  # the label of that one
_BY_AGENTS = frozenset({AlertRule.GUARD_LOCKED, AlertRule.GUARD_HELD, AlertRule.GUARD_CEILING})


def sound(tx: Tx, alert: Alert, *, at: datetime, **record_fields: str) -> bool:
    """True when it fires now, and did not before; beyond `MOST`, that there are more.

    `record_fields`: the journal record's own (agent, workflow, scope, …); its reason is the rule's name.
    """
    if _is_too_many(tx, alert):
        alert = Alert(
            rule=alert.rule, summary=f"more than {MOST} of these; the journal has each", labels={MORE: "true"}
        )
        record_fields = {}
    fires = tx.raise_alert(alert, at=at)
    if fires:
        tx.append(Record(kind=Kind.ALERT, at=at, data=_data(alert), **{"reason": alert.rule.name} | record_fields))
    return fires


def hush(tx: Tx, alert: Alert | str, *, at: datetime) -> bool:
    """The alert, or the one of this fingerprint, is over. False when it does not fire."""
    fingerprint = alert if isinstance(alert, str) else alert.fingerprint
    known = tx.alert(fingerprint)
    if known is None or not tx.resolve_alert(fingerprint, at=at):
        return False
    lasted = max(0, round((at - known.since).total_seconds()))
    data = _data(known.alert) | {"since": known.since.isoformat(), "lasted_seconds": lasted, "noticed": known.count}
    tx.append(Record(kind=Kind.ALERT_RESOLVED, at=at, reason=known.alert.rule.name, data=data))
    return True


def _is_too_many(tx: Tx, alert: Alert) -> bool:
    if alert.rule not in _BY_AGENTS or tx.firing_counts().get(alert.rule, 0) < MOST:
        return False
    known = tx.alert(alert.fingerprint)
    return known is None or known.resolved_at is not None


def _data(alert: Alert) -> dict[str, JsonValue]:
    return {
        "rule": alert.rule.value,
        "severity": alert.rule.severity.value,
        "labels": dict(alert.labels),
        "summary": alert.summary,
        "fingerprint": alert.fingerprint,
    }
