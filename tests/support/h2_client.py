"""A gRPC client that holds the TLS connection in its own hands: any certificate, any version, resumed sessions.

gRPC's own client presents no odd certificate, shows no session ticket, and hides at which of the two doors it failed.
"""

from __future__ import annotations

import socket
import ssl
from base64 import b64decode
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import h2.config
import h2.connection
import h2.errors
import h2.events
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from google.rpc import error_details_pb2, status_pb2

from tests.support.certs import Creds
from tests.support.tls13 import RawTls, TlsRefused

TIMEOUT = 10.0  # seconds for anything on the wire
SERVICE = "stepcred.v1.CredentialBroker"


@dataclass(kw_only=True)
class Answer:
    """What came back on one stream."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False

    @property
    def message(self) -> bytes | None:
        """The protobuf of an OK; None when the call was refused."""
        return self.body[5:] if self.headers.get("grpc-status") == "0" else None

    @property
    def reason(self) -> str:
        """The stable reason of a refusal; "" when there is none."""
        raw = self.headers.get("grpc-status-details-bin", "")
        details = status_pb2.Status.FromString(_unpadded(raw)).details
        info = error_details_pb2.ErrorInfo()
        if details:
            details[0].Unpack(info)
        return str(info.reason)


def context_for(creds: Creds, *, newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLContext:
    """A client with this certificate. Sessions are bound to the context that made them."""
    context = ssl.create_default_context(cafile=str(creds.ca))
    context.maximum_version = newest
    context.load_cert_chain(creds.cert, creds.key)
    context.set_alpn_protocols(["h2"])
    return context


class Connection:
    """One TLS connection. Not for several threads."""

    def __init__(self, sock: ssl.SSLSocket | RawTls) -> None:
        self.sock = sock
        self._h2 = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
        self._h2.initiate_connection()
        self._send()

    @property
    def resumed(self) -> bool:
        """Whether the server took the ticket that it was offered."""
        return bool(self.sock.session_reused)

    @property
    def session(self) -> ssl.SSLSession:
        """To resume with; servers send it behind the handshake, so ask after the first call."""
        assert isinstance(self.sock, ssl.SSLSocket)
        assert self.sock.session is not None
        return self.sock.session

    def call(self, method: str, request: bytes = b"", *, service: str = SERVICE) -> Answer:
        """One unary call. Raises TlsRefused when the server ends the connection instead of answering."""
        stream = self._h2.get_next_available_stream_id()
        headers = {":method": "POST", ":scheme": "https", ":path": f"/{service}/{method}", ":authority": "localhost"}
        headers |= {"content-type": "application/grpc", "te": "trailers", "grpc-timeout": f"{TIMEOUT:.0f}S"}
        self._h2.send_headers(stream, list(headers.items()))
        self._h2.send_data(stream, b"\0" + len(request).to_bytes(4, "big") + request, end_stream=True)
        self._send()
        answer = Answer()
        while not answer.ended:
            for event in self._h2.receive_data(self._receive()):
                _take(event, stream, answer)
            self._send()
        return answer

    def _send(self) -> None:
        try:
            self.sock.sendall(self._h2.data_to_send())
        except (ssl.SSLError, ConnectionError) as error:
            raise TlsRefused(str(error)) from error

    def _receive(self) -> bytes:
        try:
            received = self.sock.recv(65536)
        except (ssl.SSLError, ConnectionError) as error:  # a server refuses a client's certificate after the handshake
            raise TlsRefused(str(error)) from error
        if not received:
            raise TlsRefused("closed without an answer")
        return received


@contextmanager
def connected(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> Iterator[Connection]:
    """Connected to localhost; with a `session` its ticket is offered."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain:
        try:
            wrapped = context.wrap_socket(plain, server_hostname="localhost", session=session)
        except (ssl.SSLError, ConnectionError) as error:
            raise TlsRefused(str(error)) from error
        with wrapped:
            yield Connection(wrapped)


@contextmanager
def showing(port: int, chain: Sequence[bytes], key: PrivateKeyTypes) -> Iterator[Connection]:
    """Connected to localhost with this chain (DER, leaf first), which may be anything, signing with this key."""
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # or each call waits 40 ms for an acknowledgement
        yield Connection(RawTls(plain, chain, key))


def _take(event: Any, stream: int, answer: Answer) -> None:
    if isinstance(event, h2.events.ConnectionTerminated):
        raise TlsRefused(f"GOAWAY {event.error_code}")
    if getattr(event, "stream_id", None) != stream:
        return
    match event:
        case h2.events.ResponseReceived() | h2.events.TrailersReceived():
            answer.headers |= {str(name): str(value) for name, value in event.headers}
        case h2.events.DataReceived():
            answer.body += event.data
        case h2.events.StreamEnded():
            answer.ended = True
        case h2.events.StreamReset():
            answer.headers["grpc-status"] = f"reset {event.error_code}"
            answer.ended = True


def _unpadded(text: str) -> bytes:
    """Binary metadata is base64, with or without its padding."""
    return b64decode(text + "=" * (-len(text) % 4))
