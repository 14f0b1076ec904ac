"""AssumeRole from the event loop: TLS, proxies, timeouts, and an STS that means harm. Who verifies signatures is Ceph."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from broker.model import AwsSession
from broker.providers.aws import calls
from broker.providers.aws.login import sources
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import Contact, MintInDoubt, MintOrder, MintRefused
from tests.bench.aws_stub import BODY, TOKEN, answer
from tests.fakes.clock import FakeClock
from tests.support.aws import key_file
from tests.support.aws_orders import LEASE, lease_of, order_of, providing, settings_at, settings_of
from tests.support.ceph import CephServer
from tests.support.certs import TestCA
from tests.support.sts import told_sts

KEY = "throwAwaySecretKeyOfTheBroker"


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)


def settings(url: str, folder: Path, **changes: Any) -> AwsSettings:
    return settings_at(url, access_key_id="AKIAEXAMPLE", secret_access_key_file=key_file(folder, KEY), **changes)


def order(**changes: Any) -> MintOrder:
    params = {
        "role_arn": "arn:aws:iam::123456789012:role/etl",
        "regions": ["eu-west-1"],
        "statements": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::lake/*"}],
        "revoke": "bound",
        **changes,
    }
    return order_of(lease_of(params, datetime.now(UTC)))


class Wire:
    """A server that answers every request with `answer`, and says what it was asked."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.heads: list[str] = []
        self.connections = 0
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode()
                self.heads.append(head)
                await reader.readexactly(int(head.lower().partition("content-length: ")[2].partition("\r\n")[0] or 0))
                writer.write(self.answer)
                await writer.drain()


@contextlib.asynccontextmanager
async def wire(said: bytes, tls: ssl.SSLContext | None = None) -> AsyncIterator[Wire]:
    made = Wire(said)
    async with await asyncio.start_server(made.serve, "127.0.0.1", 0, ssl=tls) as server:
        made.port = server.sockets[0].getsockname()[1]
        yield made


def http(body: bytes, head: bytes = b"HTTP/1.1 200 OK", **headers: str) -> bytes:
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    return head + f"\r\nContent-Length: {len(body)}\r\n{lines}\r\n".encode() + body


def session(ends: str = "2099-01-01T00:00:00Z", **changes: str) -> bytes:
    text = BODY.replace("{ends:%Y-%m-%dT%H:%M:%SZ}", ends).format(number=7, name=LEASE, token=TOKEN)
    for before, after in changes.items():
        text = text.replace(before, after)
    return text.encode()


async def test_one_connection_serves_many_and_each_is_signed(tmp_path: Path) -> None:
    async with wire(answer()) as sts, providing(settings(f"http://127.0.0.1:{sts.port}", tmp_path)) as aws:
        minted = [await aws.mint(order()) for _ in range(3)]
    assert sts.connections == 1
    assert len(sts.heads) == 3
    assert all("Credential=AKIAEXAMPLE/" in head and "/eu-west-1/sts/aws4_request" in head for head in sts.heads)
    assert all(KEY not in head for head in sts.heads)
    assert minted[0].provider_request_id.startswith("c6104cbe-")
    assert isinstance(minted[0].credential, AwsSession)
    assert minted[0].credential.session_token.reveal() == TOKEN


async def test_tls_trusts_the_bundle_that_is_set_and_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ca = TestCA(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*ca.server())
    async with wire(answer(), tls) as sts:
        async with providing(settings(f"https://127.0.0.1:{sts.port}", tmp_path)) as aws:
            with pytest.raises(MintRefused, match="TLS with the server failed") as refused:
                await aws.mint(order())
        assert refused.value.contact is Contact.NOT_ASKED
        monkeypatch.setenv("AWS_CA_BUNDLE", str(ca.root_path))
        async with providing(settings(f"https://127.0.0.1:{sts.port}", tmp_path)) as aws:
            assert (await aws.mint(order())).provider_request_id
        async with providing(settings(f"https://localhost:{sts.port}", tmp_path)) as aws:
            assert (await aws.mint(order())).provider_request_id
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "none"))
        async with providing(settings(f"https://127.0.0.1:{sts.port}", tmp_path)) as aws:
            with pytest.raises(MintRefused, match="not sent"):
                await aws.mint(order())
    assert len(sts.heads) == 2


async def test_the_bundle_may_be_replaced_while_the_broker_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    old, new, bundle = TestCA(tmp_path / "old"), TestCA(tmp_path / "new"), tmp_path / "bundle.pem"
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(*new.server())
    monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
    bundle.write_bytes(old.root_path.read_bytes())
    async with wire(answer(), tls) as sts, providing(settings(f"https://127.0.0.1:{sts.port}", tmp_path)) as aws:
        for _ in range(2):
            with pytest.raises(MintRefused, match="TLS with the server failed"):
                await aws.mint(order())
        bundle.write_bytes(old.root_path.read_bytes() + new.root_path.read_bytes())
        for _ in range(2):
            assert (await aws.mint(order())).provider_request_id
        assert (sts.connections, len(sts.heads)) == (1, 2)


async def test_behind_a_proxy_the_sdk_makes_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with wire(http(b"", b"HTTP/1.1 502 Bad Gateway", Connection="close")) as proxy:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
        async with providing(settings("", tmp_path)) as aws:
            with pytest.raises((MintInDoubt, MintRefused)):
                await aws.mint(order())
    assert [head.partition("\r\n")[0] for head in proxy.heads] == ["CONNECT sts.eu-west-1.amazonaws.com:443 HTTP/1.0"]


HARM = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\n" + session(),  # cut short
    http(session(), Transfer_Encoding="chunked"),  # two lengths
    http(session() + b" " * 70_000),
    http(session(), X="a" * 70_000),
    b"SSH-2.0-OpenSSH\r\n\r\n",
    http(b"<html><body>Please log in<br></body></html>", Content_Type="text/html"),
    http(b"", b"HTTP/1.1 302 Found", Location="http://127.0.0.1:1/"),
    http(session(ends="2020-01-01T00:00:00Z")),
    http(session(ends="2099-01-01T00:00:00")),
    http(session(stub="st\u00fcb").decode().encode("latin-1")),
    http(session(**{"<SessionToken>": "<SessionToken>\r\nX-Forged: 1"})),
    http(b'<!DOCTYPE a [<!ENTITY b "c">]>' + session()),
    http(session(), b"HTTP/1.1 201 Created"),
    http(session(**{f"/{LEASE}</Arn>": "/another-lease-id</Arn>"})),  # somebody else's answer
    http(b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>"),
)


async def test_no_session_comes_of_it_and_nothing_is_sent_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    quick = {"connect_timeout": timedelta(milliseconds=200), "read_timeout": timedelta(milliseconds=200)}
    async with wire(answer()) as sts, providing(settings(f"http://127.0.0.1:{sts.port}", tmp_path, **quick)) as aws:
        for number, said in enumerate(HARM):
            sts.answer = said
            with pytest.raises(MintInDoubt) as doubt:
                await aws.mint(order())
            assert len(sts.heads) == 2 * number + 1
            told = f"{doubt.value!r}{caplog.text}"
            assert TOKEN not in told
            assert "stub/secret" not in told
            assert "Forged" not in told
            sts.answer = answer()
            assert (await aws.mint(order())).provider_request_id  # on a connection without what is left of it


async def test_a_request_id_is_a_word_or_it_is_not_told(tmp_path: Path) -> None:
    said = http(session(**{"<RequestId>": "<RequestId>two words "}))
    async with wire(said) as sts, providing(settings(f"http://127.0.0.1:{sts.port}", tmp_path)) as aws:
        assert not (await aws.mint(order())).provider_request_id


async def test_whoever_has_no_keys_yet_does_not_hold_up_the_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fetch hangs; the loop goes on, else nobody would let it go."""
    go = threading.Event()

    def slow(*given: Any) -> Any:
        assert go.wait(10)
        return sources.fetch(*given)

    monkeypatch.setattr(calls, "fetch", slow)
    async with wire(answer()) as sts, providing(settings(f"http://127.0.0.1:{sts.port}", tmp_path)) as aws:
        mints = [asyncio.create_task(aws.mint(order())) for _ in range(3)]
        await asyncio.sleep(0.05)
        assert not any(mint.done() for mint in mints)
        go.set()
        await asyncio.gather(*mints)
    assert len(sts.heads) == 3


async def test_a_cancelled_mint_gives_its_turn_back(tmp_path: Path) -> None:
    with told_sts((200, session().decode()), held=True) as sts:
        async with providing(settings(sts.url, tmp_path, mint_workers=1)) as aws:
            mint = asyncio.create_task(aws.mint(order()))
            while not sts.requests:  # noqa: ASYNC110 - of a thread
                await asyncio.sleep(0.01)
            mint.cancel()
            with pytest.raises(asyncio.CancelledError):
                await mint
            sts.go.set()
            assert (await aws.mint(order())).provider_request_id
        assert len(sts.requests) == 2


async def test_no_more_are_under_way_than_workers_wherever_they_go(tmp_path: Path) -> None:
    said = (200, session().decode())
    with told_sts(said, held=True) as slow, told_sts(said) as other:
        quick = {"mint_workers": 1, "connect_timeout": timedelta(milliseconds=200)}
        async with providing(settings(slow.url, tmp_path, **quick)) as aws:
            mint = asyncio.create_task(aws.mint(order()))
            while not slow.requests:  # noqa: ASYNC110 - of a thread
                await asyncio.sleep(0.01)
            with pytest.raises(MintRefused, match="no free worker"):
                await aws.mint(order(sts_endpoint=other.url))
            slow.go.set()
            assert (await mint).provider_request_id
            assert (await aws.mint(order(sts_endpoint=other.url))).provider_request_id
        assert len(other.requests) == 1


# --- who verifies signatures ---


@pytest.mark.parametrize("via", ["", "hub"])
async def test_a_real_sts_takes_the_signature_and_the_session_works(ceph: CephServer, tmp_path: Path, via: str) -> None:
    """`via`: signed with a session's keys, and so with its token."""
    bucket = f"assumed{via}"
    ceph.create_bucket(bucket)
    more = {"via": ceph.create_role(f"through-{via}")} if via else {}
    allowed = {"Effect": "Allow", "Action": "s3:PutObject", "Resource": f"arn:aws:s3:::{bucket}/*"}
    role = ceph.create_role(f"assumed{via}")
    ask = order(role_arn=role, regions=[], any_region=True, statements=[allowed], **more)
    async with providing(settings_of(ceph, tmp_path)) as aws:
        session = (await aws.mint(ask)).credential
    assert isinstance(session, AwsSession)
    keys = {
        "aws_access_key_id": session.access_key_id,
        "aws_secret_access_key": session.secret_access_key.reveal(),
        "aws_session_token": session.session_token.reveal(),
    }
    ceph.client("s3", **keys).put_object(Bucket=bucket, Key="a", Body=b"1")


async def test_a_real_sts_refuses_another_secret_and_another_time(ceph: CephServer, tmp_path: Path) -> None:
    role = ceph.create_role("assumed-never")
    async with providing(settings_of(ceph, tmp_path, (ceph.access_key_id, "wrong"))) as aws:
        with pytest.raises(MintRefused, match="AWS refused"):  # it says AccessDenied (measured)
            await aws.mint(order(role_arn=role))
    clock = FakeClock(datetime.now(UTC) - timedelta(hours=1))
    async with providing(settings_of(ceph, tmp_path), clock) as aws:
        with pytest.raises(MintRefused, match="clock"):
            await aws.mint(order(role_arn=role))
