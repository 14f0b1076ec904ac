"""The far end of a pool, as a script says it."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from broker.providers.http import Origin, Pool
from tests.support.certs import TestCA

FINE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
CLOSING = FINE.replace(b"Content-Length", b"Connection: close\r\nContent-Length")
LONG = 5.0  # seconds until a test that hangs fails

Run = Callable[[Coroutine[Any, Any, None]], None]
Script = Callable[["Far", asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Far:
    """The far end. `requests`: the heads that came; `connections`: how many, and which are over."""

    port: int = 0
    tls: bool = False
    requests: list[bytes] = field(default_factory=list)
    connections: int = 0
    over: asyncio.Event = field(default_factory=asyncio.Event)  # any of them

    async def request(self, reader: asyncio.StreamReader) -> bytes:
        """The next one's head; raises when the connection is over."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.requests.append(head)
        for line in head.lower().split(b"\r\n"):
            if line.startswith(b"content-length: "):
                await reader.readexactly(int(line[16:]))
        return head

    def pool(self, **settings: Any) -> Pool:
        settings = {"connect_timeout": LONG, "request_timeout": LONG, **settings}
        return Pool(Origin(host="localhost", port=self.port, tls=self.tls), **settings)


async def fine(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while await far.request(reader):
        writer.write(FINE)


def each(answer: bytes) -> Script:
    """Gives this answer to the first request, and waits for the client to go."""

    async def script(far: Far, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await far.request(reader)
        writer.write(answer)
        await reader.read(1)

    return script


@contextlib.asynccontextmanager
async def far_end(script: Script, context: ssl.SSLContext | None = None) -> AsyncIterator[Far]:
    far = Far(tls=context is not None)
    tasks: set[asyncio.Task[Any]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far.connections += 1
        tasks.add(asyncio.create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # RuntimeError: uvloop's, of a write to what the client has closed
        with contextlib.suppress(OSError, RuntimeError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await script(far, reader, writer)
        far.over.set()
        writer.close()

    server = await asyncio.start_server(begin, "127.0.0.1", 0, ssl=context)
    far.port = server.sockets[0].getsockname()[1]
    try:
        yield far
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def trusting(ca: TestCA) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=ca.root_path)


def shown(pair: tuple[Any, Any]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*pair)
    return context


async def refused(pool: Pool, error: type[Exception], **request: Any) -> str:
    with pytest.raises(error) as caught:
        await pool.request("GET", "/secret-path", {"X-Token": "hvs.secret"}, **request)
    assert type(caught.value) is error
    assert "secret" not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return str(caught.value)
