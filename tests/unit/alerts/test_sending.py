"""What goes over the wire: signatures, bounds, and answers that are not obeyed."""

from __future__ import annotations

import json
import ssl
from base64 import b64decode
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from broker.alert import Alert, AlertRule, Severity
from broker.alerts import post as posting
from broker.alerts.post import Away, Post, Refused
from broker.alerts.signature import Signer
from broker.alerts.sinks import LASTS, AlertmanagerSink, Origin, WebhookSink, message_id
from broker.store.notices import AlertRow
from tests.fakes.clock import START, FakeClock
from tests.support.receiver import Receiver, receiver

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
ORIGIN = Origin(environment="dev", runbook_url="https://wiki.acme/alerts.md")
ALERT = Alert(rule=AlertRule.GUARD_HELD, summary="it is held", labels={"key": "k", "empty": ""})
ROW = AlertRow(alert=ALERT, since=START, last_at=START, count=1, serial=1)


@pytest.fixture
async def there() -> AsyncIterator[Receiver]:
    async with receiver() as found:
        yield found


def verify(headers: dict[str, str], body: bytes) -> None:
    """As a receiver does it. Raises InvalidSignature."""
    scheme, _, text = headers["webhook-signature"].partition(",")
    assert scheme == "v1a"
    signed = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    KEY.public_key().verify(b64decode(text), signed)


@given(body=st.binary(max_size=99), message=st.from_regex(r"[a-z0-9-]{1,40}", fullmatch=True))
def test_what_is_signed_verifies_and_nothing_else_does(body: bytes, message: str) -> None:
    headers = Signer(KEY, FakeClock()).headers(message, body)
    verify(headers, body)
    later = str(int(headers["webhook-timestamp"]) + 1)
    for changed in (headers | {"webhook-id": message + "x"}, headers | {"webhook-timestamp": later}):
        with pytest.raises(InvalidSignature):
            verify(changed, body)
    with pytest.raises(InvalidSignature):
        verify(headers, body + b" ")


def test_an_id_with_a_dot_could_be_read_as_another_message() -> None:
    for name in ("a.b", ""):
        with pytest.raises(ValueError, match="without dots"):
            Signer(KEY, FakeClock()).headers(name, b"")


def test_a_message_keeps_its_id_and_no_other_has_it() -> None:
    rows = [ROW, replace(ROW, serial=2), replace(ROW, since=START + timedelta(days=9))]
    rows.append(replace(ROW, alert=replace(ALERT, labels={"key": "other"})))
    ids = [message_id("dev", row) for row in rows] + [message_id("prod", ROW)]
    assert len(set(ids)) == len(ids)
    assert message_id("dev", replace(ROW, count=7, last_at=START + timedelta(hours=1))) == ids[0]


async def test_a_webhook_says_what_fires_and_who_is_meant(there: Receiver) -> None:
    sink = WebhookSink("pager", Post(there.url + "/hook"), ORIGIN, Severity.INFO, Signer(KEY, FakeClock()))
    await sink.send([ROW])
    await sink.send([replace(ROW, resolved_at=START + timedelta(minutes=1), serial=2)])
    first, second = there.messages
    for message in there.messages:
        verify({name.lower(): text for name, text in message.headers.items()}, message.body)
    assert first.path == "/hook"
    assert (first.json["type"], first.json["receiver"], first.json["environment"]) == (
        "stepcred.alert.firing",
        "pager",
        "dev",
    )
    assert first.json["data"]["alertname"] == "guard-held"
    assert first.json["data"]["severity"] == "critical"
    assert first.json["data"]["runbook"] == "https://wiki.acme/alerts.md#guard-held"
    assert second.json["type"] == "stepcred.alert.resolved"
    await sink.close()


async def test_alertmanager_is_sent_what_it_takes(there: Receiver) -> None:
    clock = FakeClock()
    sink = AlertmanagerSink("main", Post(there.url + "/api/v2/alerts"), ORIGIN, Severity.WARNING, clock)
    await sink.send([ROW, replace(ROW, resolved_at=START - timedelta(hours=1))])
    (message,) = there.messages
    firing, resolved = message.json
    assert firing["labels"] == {
        "key": "k",
        "alertname": "guard-held",
        "severity": "critical",
        "environment": "dev",
        "service": "stepcred",
    }
    assert firing["annotations"]["runbook_url"] == "https://wiki.acme/alerts.md#guard-held"
    assert firing["endsAt"] == (clock.now() + LASTS).isoformat()
    assert resolved["endsAt"] == resolved["startsAt"]  # a clock that was set back must not have it refused
    assert sink.wants(ROW)
    info = replace(ROW, alert=replace(ALERT, rule=AlertRule.APPROVAL_WAITING))
    assert not sink.wants(info)
    await sink.close()


def test_own_labels_are_never_another_alerts() -> None:
    """What a label says must not be able to speak for another broker."""
    alert = replace(ALERT, labels={"alertname": "other", "environment": "prod"})
    sink = AlertmanagerSink("main", Post("http://127.0.0.1:1"), ORIGIN, Severity.INFO, FakeClock())
    told = sink._alert(replace(ROW, alert=alert))
    assert (told["labels"]["alertname"], told["labels"]["environment"]) == ("guard-held", "dev")


@pytest.mark.parametrize(("status", "error"), [(500, Away), (503, Away), (429, Away), (400, Refused), (404, Refused)])
async def test_answers_that_are_no_success(there: Receiver, status: int, error: type[Exception]) -> None:
    there.status = status
    with pytest.raises(error, match=str(status)) as raised:
        await Post(there.url).send(b"{}")
    assert "looked at" not in str(raised.value)


async def test_a_redirect_is_not_followed(there: Receiver) -> None:
    there.status, there.headers = 307, {"Location": there.url + "/elsewhere"}
    with pytest.raises(Refused, match="307"):
        await Post(there.url).send(b"{}")
    assert [message.path for message in there.messages] == ["/"]


async def test_a_receiver_that_hangs_is_left(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(posting, "TIMEOUT", 0.2)
    there.hangs = True
    with pytest.raises(Away, match="no answer"):
        await Post(there.url).send(b"{}")
    there.hangs = False
    await Post(there.url).send(b"{}")


async def test_no_proxy_is_taken_from_the_environment(there: Receiver, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    await Post(there.url).send(b"{}")
    assert len(there.messages) == 1


async def test_a_token_is_read_for_each_request_and_shown_nowhere(there: Receiver, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("first\n")
    post = Post(there.url, token_file=token)
    await post.send(b"{}")
    token.write_text("second\n")
    await post.send(b"{}")
    assert [message.headers["Authorization"] for message in there.messages] == ["Bearer first", "Bearer second"]
    token.write_text("broken\r\nX-Evil: yes")
    with pytest.raises(Away) as raised:
        await post.send(b"{}")
    assert "broken" not in str(raised.value)
    token.unlink()
    with pytest.raises(Away, match="FileNotFoundError"):
        await post.send(b"{}")
    assert len(there.messages) == 2


async def test_another_certificate_than_its_cas_is_not_believed(there: Receiver, tmp_path: Path) -> None:
    with pytest.raises(Away):
        await Post(there.url.replace("http:", "https:")).send(b"{}")
    spoilt = tmp_path / "ca.pem"
    spoilt.write_text("none")
    with pytest.raises(Away, match=ssl.SSLError.__name__):
        await Post("https://127.0.0.1:1", ca_file=spoilt).send(b"{}")


def test_json_is_what_is_signed_to_the_byte() -> None:
    assert json.loads(posting.to_json({"ü": [1, None]})) == {"ü": [1, None]}
    assert posting.to_json({"a": "ü"}) == b'{"a":"\\u00fc"}'


async def test_whether_somebody_is_there_is_seen_without_sending_anything(there: Receiver) -> None:
    assert await Post(there.url).reach() == ""
    assert "ConnectionRefusedError" in await Post("http://127.0.0.1:1").reach()
    assert "SSLError" in await Post(there.url.replace("http:", "https:")).reach()
    assert there.messages == []
