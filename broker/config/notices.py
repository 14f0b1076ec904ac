"""Who is told of what: alerts and their sinks, and the receivers of what was rolled back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, ConfigDict

from broker.alert import Severity
from broker.config.values import Count, Duration, Endpoint, Name, PublicFile, SecretFile, choice
from broker.config.webhook_key import load_webhook_key
from broker.errors import ConfigError


def _check_key(path: Path) -> Path:
    try:
        load_webhook_key(path)
    except ConfigError as error:
        raise ValueError("\n".join(error.problems)) from None
    return path


@dataclass(frozen=True, kw_only=True, slots=True)
class Webhooks:
    """What everything that is sent by webhook is signed with."""

    key_file: Annotated[SecretFile, AfterValidator(_check_key)]


@dataclass(frozen=True, kw_only=True, slots=True)
class Receiver:
    """An address that JSON is posted to."""

    __pydantic_config__ = ConfigDict(extra="forbid")  # a table of tables: `sources` does not look inside

    url: Endpoint
    ca_file: PublicFile | None = None  # the system's trust store when None
    token_file: SecretFile | None = None  # sent as a bearer token; read again for each request


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertSink(Receiver):
    """One that alerts are sent to."""

    min_severity: Annotated[Severity, choice(Severity)] = Severity.INFO


@dataclass(frozen=True, kw_only=True, slots=True)
class Alerts:
    """When an alert fires, where that is a matter of taste, and who is told."""

    runbook_url: Endpoint = ""  # of a copy of docs/alerts.md; a rule's name is its fragment
    certificate_ends: Duration = timedelta(
        days=7
    )  # before the end of roots and revocation lists, at most a tenth of their life
    approval_waiting: Duration = timedelta(minutes=1)
    mint_rate_factor: Count = 5  # times the mean of the active hours of a week
    mint_rate_floor: Count = 10  # credentials an hour that are never too many
    webhook: Mapping[Name, AlertSink] = field(default_factory=dict)
    alertmanager: Mapping[Name, AlertSink] = field(default_factory=dict)


def notice_problems(webhooks: Webhooks | None, alerts: Alerts, compensation: Mapping[str, Receiver]) -> list[str]:
    """What no section can see by itself."""
    problems = [
        f"alerts.alertmanager.{name}: is the name of a webhook too; each sink needs a name of its own"
        for name in sorted(alerts.webhook.keys() & alerts.alertmanager.keys())
    ]
    if webhooks is None:
        signed = [f"alerts.webhook.{name}" for name in alerts.webhook] + [
            f"compensation.{name}" for name in compensation
        ]
        problems += [
            f"{key}: needs webhooks.key_file, to sign with; stepcred-broker webhook-key FILE makes one"
            for key in signed
        ]
    return problems
