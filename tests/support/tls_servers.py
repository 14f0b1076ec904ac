"""TLS servers on loopback that are wrong in one way each, for whoever must tell what is wrong."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path


@contextlib.contextmanager
def tls_server(pair: tuple[Path, Path] | None, *, alpn: Sequence[str] = ("h2",), answer: bytes = b"") -> Iterator[int]:
    """Its port. Without a `pair` it does not speak TLS; it shows whom it is, sends `answer`, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=_serve, args=(listener, pair, alpn, answer))
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # wakes accept()
            thread.join(timeout=5)


def _serve(listener: socket.socket, pair: tuple[Path, Path] | None, alpn: Sequence[str], answer: bytes) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if pair:
        context.load_cert_chain(*pair)
        context.set_alpn_protocols(list(alpn))
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        connection.settimeout(5)
        with contextlib.suppress(OSError), connection:
            if not pair:
                connection.recv(1024)
                connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                continue
            with context.wrap_socket(connection, server_side=True) as tunnel:
                tunnel.sendall(answer)
                tunnel.recv(1024)
