"""[webhooks], [alerts] and [compensation]: every mistake at once, none with a secret in it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from broker.alert import Severity
from broker.config import load
from broker.config.webhook_key import make_webhook_key
from broker.errors import ConfigError
from tests.support.daemon import without_provider


@pytest.fixture
def config(tmp_path: Path) -> Path:
    make_webhook_key(tmp_path / "webhook.key")
    return without_provider(tmp_path).config


def add(config: Path, text: str) -> Path:
    config.write_text(f"{config.read_text()}\n{text}")
    return config


def problems(config: Path, text: str) -> str:
    with pytest.raises(ConfigError) as raised:
        load(add(config, text), {})
    return "\n".join(raised.value.problems)


def test_who_is_told(config: Path, tmp_path: Path) -> None:
    settings = load(
        add(
            config,
            f"""
            [webhooks]
            key_file = "{tmp_path / "webhook.key"}"
            [alerts]
            approval_waiting = "5m"
            [alerts.webhook.oncall]
            url = "https://hooks.acme.internal/stepcred/"
            min_severity = "critical"
            [alerts.alertmanager.main]
            url = "http://127.0.0.1:9093"
            [compensation.undo-loads]
            url = "https://etl.acme.internal/rolled-back"
            """,
        ),
        {},
    )
    assert settings.alerts.approval_waiting == timedelta(minutes=5)
    assert settings.alerts.webhook["oncall"].url == "https://hooks.acme.internal/stepcred"
    assert settings.alerts.webhook["oncall"].min_severity is Severity.CRITICAL
    assert settings.alerts.alertmanager["main"].min_severity is Severity.INFO
    assert settings.compensation["undo-loads"].ca_file is None


def test_nobody_is_told_by_default(config: Path) -> None:
    settings = load(config, {})
    assert (settings.webhooks, settings.alerts.webhook, settings.alerts.alertmanager, settings.compensation) == (
        None,
        {},
        {},
        {},
    )


def test_every_mistake_is_named_at_once(config: Path) -> None:
    found = problems(
        config,
        """
        [alerts.webhook.a]
        url = "http://hooks.acme.internal/"
        [alerts.webhook.b]
        url = "https://user:hunter2@hooks.acme.internal/"
        [alerts.webhook.c]
        url = "https://hooks.acme.internal/?token=hunter2"
        [alerts.webhook.d]
        url = "https://hooks.acme.internal/"
        token = "hunter2"
        [alerts.webhook.e]
        url = "https://hooks.acme.internal/"
        min_severity = "loud"
        [compensation.f]
        ca_file = "/none"
        """,
    )
    for name in ("webhook.a", "webhook.b", "webhook.c", "webhook.d", "webhook.e", "compensation.f"):
        assert name in found
    assert "hunter2" not in found


def test_what_is_signed_needs_a_key(config: Path) -> None:
    found = problems(
        config,
        """
        [alerts.webhook.a]
        url = "https://hooks.acme.internal/"
        [alerts.alertmanager.a]
        url = "https://hooks.acme.internal/"
        [compensation.b]
        url = "https://hooks.acme.internal/"
        """,
    )
    assert "alerts.webhook.a: needs webhooks.key_file" in found
    assert "compensation.b: needs webhooks.key_file" in found
    assert "alerts.alertmanager.a: is the name of a webhook too" in found


@pytest.mark.parametrize(
    "content", ["", "hunter2", "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----"]
)
def test_another_key_than_ed25519_is_refused(config: Path, tmp_path: Path, content: str) -> None:
    other = tmp_path / "other.key"
    other.touch(mode=0o600)
    other.write_text(content)
    found = problems(config, f'[webhooks]\nkey_file = "{other}"')
    assert "holds no Ed25519 private key in clear" in found
    assert "hunter2" not in found


def test_a_key_that_others_can_read_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "webhook.key").chmod(0o644)
    assert "chmod 600" in problems(config, f'[webhooks]\nkey_file = "{tmp_path / "webhook.key"}"')
