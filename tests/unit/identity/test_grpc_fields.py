"""What a real grpc.aio server shows of a client certificate, and what becomes of it in the Authenticator.

The keys of `auth_context()` that the rpc layer uses: `x509_pem_cert`, `x509_pem_cert_chain` (absent when the client
sent no intermediates; without the leaf), `ssl_tls_version`.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import grpc
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from broker.errors import BrokerError, Reason
from broker.identity import Authenticator
from broker.identity.authority import new_authority
from tests.fakes.clock import FakeClock
from tests.support.certs import Creds, TestCA
from tests.support.doors import door
from tests.support.h2_client import connected, context_for

ID = "spiffe://test.local/workflow/nightly/step/load"


class Whoami(grpc.GenericRpcHandler):
    """Answers every call with the SPIFFE ID or the reason, and keeps what the transport said."""

    def __init__(self, authenticator: Authenticator) -> None:
        self.authenticator = authenticator
        self.context: dict[str, list[bytes]] = {}

    def service(self, _details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[bytes, bytes]:
        return grpc.unary_unary_rpc_method_handler(self.answer)

    async def answer(self, _request: bytes, call: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        self.context = {key: list(values) for key, values in call.auth_context().items()}

        def first(key: str) -> bytes:
            return next(iter(self.context.get(key, [])), b"")

        try:
            agent = self.authenticator.authenticate(
                first("x509_pem_cert"),
                tls_version=first("ssl_tls_version").decode(),
                peer=call.peer(),
                chain=first("x509_pem_cert_chain"),
            )
        except BrokerError as refusal:
            return refusal.reason.value.encode()
        return agent.spiffe_id.encode()


@asynccontextmanager
async def serving(ca: TestCA, whoami: Whoami, roots: bytes, *, require: bool = True) -> AsyncIterator[int]:
    certificate, key = ca.server()
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    server.add_generic_rpc_handlers((whoami,))
    tls = grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())], roots, require)
    port = server.add_secure_port("127.0.0.1:0", tls)
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def whoami_on(channel: grpc.aio.Channel) -> grpc.aio.UnaryUnaryMultiCallable[bytes, bytes]:
    method: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test/WhoAmI")
    return method


async def call(port: int, ca: TestCA, creds: Creds | None) -> str:
    key, cert = (creds.key.read_bytes(), creds.cert.read_bytes()) if creds else (None, None)
    tls = grpc.ssl_channel_credentials(ca.root_pem, key, cert)
    async with grpc.aio.secure_channel(f"localhost:{port}", tls) as channel:
        return (await whoami_on(channel)(b"", timeout=10)).decode()


@pytest.fixture
def whoami(authenticator: Authenticator) -> Whoami:
    return Whoami(authenticator)


async def test_the_dev_ca_serves_both_sides_and_the_leaf_can_be_read(ca: TestCA, whoami: Whoami) -> None:
    creds = ca.agent(ID)
    async with serving(ca, whoami, ca.root_pem) as port:
        assert await call(port, ca, creds) == ID
    assert whoami.context["x509_pem_cert"] == [creds.cert.read_bytes()]
    assert whoami.context["ssl_tls_version"] == [b"TLSv1.3"]
    assert "x509_pem_cert_chain" not in whoami.context


async def test_intermediates_are_in_the_chain_without_the_leaf(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    whoami = Whoami(Authenticator(door(roots), clock))
    async with serving(ca, whoami, roots.read_bytes()) as port:
        assert await call(port, ca, ca.agent(ID, issuer=middle)) == ID
    assert whoami.context["x509_pem_cert_chain"] == [middle.certificate.public_bytes(Encoding.PEM)]


async def test_a_resumed_session_still_shows_the_intermediates(ca: TestCA, tmp_path: Path, clock: FakeClock) -> None:
    """Or agents below an intermediate would be served only by whole handshakes."""
    root = new_authority("root", now=datetime.now(UTC), path_length=1)
    middle = ca.intermediate(issuer=root)
    roots = tmp_path / "roots.pem"
    roots.write_bytes(root.certificate.public_bytes(Encoding.PEM))
    whoami = Whoami(Authenticator(door(roots), clock))
    context = context_for(ca.agent(ID, issuer=middle))

    def twice(port: int) -> tuple[bytes | None, bool]:
        with connected(port, context) as first:
            assert first.call("WhoAmI").message == ID.encode()
            session = first.session
        with connected(port, context, session) as again:
            return again.call("WhoAmI").message, again.resumed

    async with serving(ca, whoami, roots.read_bytes()) as port:
        assert await asyncio.to_thread(twice, port) == (ID.encode(), True)
    assert whoami.context["x509_pem_cert_chain"] == [middle.certificate.public_bytes(Encoding.PEM)]


async def test_a_server_that_does_not_require_certificates_still_refuses(ca: TestCA, whoami: Whoami) -> None:
    async with serving(ca, whoami, ca.root_pem, require=False) as port:
        assert await call(port, ca, None) == Reason.NO_CLIENT_CERTIFICATE.value


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """One HTTP/2 frame (RFC 9113, section 4.1)."""
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def literal(name: str, value: str) -> bytes:
    """One header as HPACK spells it without any table (RFC 7541, section 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()


async def test_tls_1_2_is_let_through_by_the_tls_layer_and_refused_here(ca: TestCA, whoami: Whoami) -> None:
    """gRPC clients cannot be held to TLS 1.2, so this one speaks HTTP/2 by hand."""
    creds = ca.agent(ID)
    tls = ssl.create_default_context(cafile=str(ca.root_path))
    tls.load_cert_chain(creds.cert, creds.key)
    tls.maximum_version = ssl.TLSVersion.TLSv1_2
    tls.set_alpn_protocols(["h2"])
    headers = {":method": "POST", ":scheme": "https", ":path": "/test/WhoAmI", ":authority": "localhost"}
    headers |= {"content-type": "application/grpc", "te": "trailers"}
    async with serving(ca, whoami, ca.root_pem) as port:
        reader, writer = await asyncio.open_connection("localhost", port, ssl=tls, family=socket.AF_INET)
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        writer.write(frame(1, 0x4, 1, b"".join(literal(*header) for header in headers.items())))
        writer.write(frame(0, 0x1, 1, bytes(5)))
        answer = await asyncio.wait_for(reader.readuntil(Reason.CERTIFICATE_INVALID.value.encode()), timeout=10)
        writer.close()
    assert answer
    assert whoami.context["ssl_tls_version"] == [b"TLSv1.2"]


async def test_an_open_connection_does_not_outlive_the_certificate(
    ca: TestCA, whoami: Whoami, clock: FakeClock
) -> None:
    creds = ca.agent(ID)
    tls = grpc.ssl_channel_credentials(ca.root_pem, creds.key.read_bytes(), creds.cert.read_bytes())
    async with serving(ca, whoami, ca.root_pem) as port, grpc.aio.secure_channel(f"localhost:{port}", tls) as channel:
        ask = whoami_on(channel)
        assert await ask(b"", timeout=10) == ID.encode()
        clock.advance(2 * 86400)
        assert await ask(b"", timeout=10) == Reason.CERTIFICATE_EXPIRED.value.encode()
