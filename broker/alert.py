"""What people are told of, as values. Whoever notices something makes an Alert; `broker.alerts` brings it to them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from types import MappingProxyType


class Severity(Enum):
    """How soon somebody must look."""

    INFO = "info"
    WARNING = "warning"  # today
    CRITICAL = "critical"  # now


class AlertRule(Enum):
    """Every rule that is built in; the value is its name in `alertname`, and its section in docs/alerts.md."""

    GUARD_LOCKED = "guard-locked"
    GUARD_HELD = "guard-held"
    GUARD_CEILING = "guard-ceiling"
    BREAK_GLASS = "break-glass"
    REVOCATION_OVERDUE = "revocation-overdue"
    LEASE_IN_DOUBT = "lease-in-doubt"
    PROVIDER_DOWN = "provider-down"  # its breaker is open
    SCOPE_MAP_REFUSED = "scope-map-refused"
    FRONT_DOOR_REFUSED = "front-door-refused"
    OPERATORS_REFUSED = "operators-refused"
    JOURNAL_FAILING = "journal-failing"
    CERTIFICATE_ENDS = "certificate-ends"
    TOKEN_ENDS = "token-ends"  # noqa: S105 - the broker's own, at its provider
    APPROVAL_WAITING = "approval-waiting"
    MINT_RATE = "mint-rate"
    FROZEN = "frozen"
    COMPENSATION_FAILING = "compensation-failing"
    PROVIDER_CUT_OFF = "provider-cut-off"  # one could be ended only together with its like
    REVOKE_ROOM = "revoke-room"  # soon no more can be ended early

    @property
    def severity(self) -> Severity:
        return _SEVERITY.get(self, Severity.WARNING)


_SEVERITY = {
    AlertRule.GUARD_HELD: Severity.CRITICAL,
    AlertRule.BREAK_GLASS: Severity.CRITICAL,
    AlertRule.REVOCATION_OVERDUE: Severity.CRITICAL,
    AlertRule.JOURNAL_FAILING: Severity.CRITICAL,
    AlertRule.PROVIDER_CUT_OFF: Severity.CRITICAL,
    AlertRule.APPROVAL_WAITING: Severity.INFO,
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Alert:
    """One thing to be told of. The same rule and labels are the same alert, however often it is noticed."""

    rule: AlertRule
    summary: str  # one sentence, no secret, no provider's words
    labels: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # what it is about

    @property
    def fingerprint(self) -> str:
        """SHA-256 over rule and labels, hex."""
        text = json.dumps([self.rule.value, sorted(self.labels.items())], separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()
