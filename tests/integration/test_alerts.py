"""The real daemon tells a real Alertmanager (Debian's package), and a receiver that verifies what is signed."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import alertmanager, webhooks
from tests.support.daemon import ONE_SCOPE, Deployment, without_provider
from tests.support.processes import wait_until
from tests.support.receiver import Message, Receiver, receiving

BROKEN = "version: 1\nnonsense: true\n"


@pytest.fixture
def pager() -> Iterator[Receiver]:
    with receiving() as found:
        yield found


def deploy(folder: Path, pager: Receiver, **kinds: Any) -> tuple[Deployment, str]:
    """A daemon whose provider does not answer: its login fails, which is told. Also the public key."""
    folder.mkdir(parents=True, exist_ok=True)
    key_file = folder / "webhook.key"
    argv = [sys.executable, "-m", "broker", "webhook-key", str(key_file)]
    printed = subprocess.run(argv, check=True, capture_output=True, text=True).stdout.strip()
    alerts = {"webhook": {"pager": {"url": f"{pager.url}/hook"}}, **kinds}
    more = {"webhooks": {"key_file": str(key_file)}, "alerts": alerts}
    return without_provider(folder, **more), printed


def told(pager: Receiver) -> list[tuple[str, str]]:
    """(alert, what was said of it), each message once."""
    messages = {message.headers["webhook-id"]: message.json for message in list(pager.messages)}
    return [(body["data"]["alertname"], body["type"].rpartition(".")[2]) for body in messages.values()]


def tampered(message: Message) -> Iterator[tuple[dict[str, str], bytes]]:
    """In each way that a thief could gain from."""
    headers = dict(message.headers)
    yield headers, message.body.replace(b"firing", b"resolved")
    yield headers | {"webhook-id": "alert-other"}, message.body
    yield headers | {"webhook-timestamp": str(int(headers["webhook-timestamp"]) + 1)}, message.body
    yield headers | {"webhook-signature": "v1a,AAAA"}, message.body
    yield headers | {"webhook-signature": headers["webhook-signature"].replace("v1a,", "v1,")}, message.body


@pytest.mark.skipif(alertmanager.BINARY is None, reason="no prometheus-alertmanager: apt-get install it")
def test_alertmanager_receives_and_resolves(tmp_path: Path, pager: Receiver) -> None:
    with receiving() as notified, alertmanager.alertmanager(tmp_path / "am", notifies=notified.url) as manager:
        deployment, _ = deploy(tmp_path / "broker", pager, alertmanager={"main": {"url": manager.url}})
        with deployment.daemon(ready=deployment.alive):
            deployment.scopes_file.write_text(BROKEN)
            wait_until(lambda: "scope-map-refused" in manager.names(), within=30, what="an alert")
            found = next(one for one in manager.alerts() if one["labels"]["alertname"] == "scope-map-refused")
            assert found["labels"] == {
                "alertname": "scope-map-refused",
                "environment": "dev",
                "service": "stepcred",
                "severity": "warning",
            }
            assert found["annotations"]["runbook"] == "docs/alerts.md#scope-map-refused"
            deployment.scopes_file.write_text(ONE_SCOPE)
            wait_until(lambda: manager.names() == ["token-ends"], within=30, what="resolved")
            _, metrics = deployment.http("metrics")
            assert 'stepcred_alerts_firing{rule="token-ends"} 1.0' in metrics
            assert 'stepcred_alert_deliveries_total{outcome="taken",sink="main"}' in metrics

        def statuses() -> set[tuple[str, str]]:
            return {
                (one["labels"]["alertname"], one["status"]) for sent in notified.messages for one in sent.json["alerts"]
            }

        wait_until(lambda: ("scope-map-refused", "resolved") in statuses(), within=30, what="its notification")


def test_a_receiver_verifies_what_it_is_sent_and_a_dead_one_is_told_after_a_restart(
    tmp_path: Path, pager: Receiver
) -> None:
    deployment, public = deploy(tmp_path, pager)
    pager.status = 503
    with deployment.daemon(ready=deployment.alive) as process:
        wait_until(lambda: bool(pager.messages), within=30, what="a message")
        process.send_signal(signal.SIGKILL)
        process.wait()
    pager.messages.clear()
    pager.status = 200
    with deployment.daemon(ready=deployment.alive):
        wait_until(lambda: ("token-ends", "firing") in told(pager), within=30, what="what was not taken before")
    assert told(pager).count(("token-ends", "firing")) == 1
    verified = webhooks.shown()
    for message in pager.messages:
        assert verified(message.headers, message.body, public) == message.json
        for headers, body in tampered(message):
            with pytest.raises(ValueError, match="signature"):
                verified(headers, body, public)


def test_a_config_that_cannot_sign_does_not_start(tmp_path: Path, pager: Receiver) -> None:
    deployment, _ = deploy(tmp_path, pager)
    text = deployment.config.read_text().replace("webhook.key", "other.key")
    deployment.config.write_text(text)
    (tmp_path / "other.key").touch(mode=0o600)
    argv = [sys.executable, "-m", "broker", "check", "--config", str(deployment.config)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 78
    assert "webhooks.key_file" in done.stderr
    assert "stepcred-broker webhook-key FILE" in done.stderr
