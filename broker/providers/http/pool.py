"""Keep-alive connections to one origin; one attempt for each request."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from aiohappyeyeballs import AddrInfoType, start_connection

from broker.providers.http.connection import Bounds, Connection
from broker.providers.http.message import Answer, Origin, Renderer, Unsent, Untrusted

NEXT_ADDRESS = 0.25  # seconds until the next of a name's addresses is tried beside the first, as RFC 8305 has it


class Pool:
    """Times are seconds. Raises HttpError: Unsent, Untrusted or Lost."""

    def __init__(
        self,
        origin: Origin,
        *,
        tls: Callable[[], ssl.SSLContext] | None = None,
        max_connections: int = 64,
        connect_timeout: float = 3.0,
        request_timeout: float = 8.0,
        idle_limit: float = 15.0,
        max_header_bytes: int = 1 << 16,
        max_body_bytes: int = 1 << 20,
    ) -> None:
        """`tls`: asked for each request; connections that were opened with another context are not used again.

        `connect_timeout`: of waiting for a free connection, first come first served, and of opening one.
        `request_timeout`: of everything. `idle_limit`: less than the server's own, or requests meet its closing.
        """
        if origin.tls is not (tls is not None):
            raise ValueError("a TLS context belongs to https")
        self._origin = origin
        self._tls = tls
        self._connect_timeout = min(connect_timeout, request_timeout)
        self._request_timeout = request_timeout
        self._idle_limit = idle_limit
        self._bounds = Bounds(head=max_header_bytes, body=max_body_bytes)
        self._renderer = Renderer(origin)
        self._slots = asyncio.Semaphore(max_connections)
        self._idle: deque[Connection] = deque()  # the longest idle first
        self._busy: set[Connection] = set()
        self._looking: asyncio.Task[Any] | None = None
        self._sweep: asyncio.TimerHandle | None = None
        self._era = 0

    async def request(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] = MappingProxyType({}),
        body: bytes = b"",
        *,
        max_body_bytes: int | None = None,
    ) -> Answer:
        """One attempt. `target`: as it goes on the wire. Any status is an answer.

        Host, length and connection are said by the pool itself. Whoever is cancelled meanwhile knows as little of the
        request as with Lost.
        """
        request = self._renderer.render(method, target, headers, body)
        bounds = self._bounds if max_body_bytes is None else Bounds(head=self._bounds.head, body=max_body_bytes)
        context = self._tls() if self._tls else None
        loop = asyncio.get_running_loop()
        start = loop.time()
        if self._slots.locked():
            await self._queue(start + self._connect_timeout)
        else:
            await self._slots.acquire()
        try:
            era = self._era
            connection = self._pooled(context, loop.time()) or await self._open(loop, context, start)
            self._busy.add(connection)
            try:
                return await connection.send(
                    request, bounds, until=start + self._request_timeout, headless=method == "HEAD"
                )
            finally:
                self._busy.discard(connection)
                self._put_back(loop, connection, era)
        finally:
            self._slots.release()

    async def close(self) -> None:
        """Close every connection; requests on their way are lost. The next request opens another."""
        self._era += 1
        if self._sweep:
            self._sweep.cancel()
            self._sweep = None
        for connection in (*self._idle, *self._busy):
            connection.abort()
        self._idle.clear()
        await asyncio.sleep(0)  # they are closed in the loop's next round

    async def _queue(self, until: float) -> None:
        try:
            async with asyncio.timeout_at(until):
                await self._slots.acquire()
        except TimeoutError:
            raise Unsent("no connection became free in time") from None

    def _pooled(self, context: ssl.SSLContext | None, now: float) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            fit = connection.context is context and now - connection.idle_since < self._idle_limit
            if fit and connection.usable and connection.silent:
                return connection
            connection.abort()
        return None

    async def _open(self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext | None, start: float) -> Connection:
        origin = self._origin
        try:
            async with asyncio.timeout_at(start + self._connect_timeout):
                found = await self._addresses(loop)
                _, connection = await loop.create_connection(
                    lambda: Connection(loop, context),
                    sock=await start_connection(found, happy_eyeballs_delay=NEXT_ADDRESS, interleave=1),
                    ssl=context,
                    server_hostname=origin.host if context else None,
                )
        except ssl.SSLError:
            raise Untrusted("TLS with the server failed") from None
        except (OSError, TimeoutError, UnicodeError):
            raise Unsent("the server cannot be reached") from None
        if not connection.usable:
            connection.abort()
            raise Unsent("the server hung up, or spoke before it was asked")
        return connection

    async def _addresses(self, loop: asyncio.AbstractEventLoop) -> list[AddrInfoType]:
        """One look-up for all who ask meanwhile: each that hangs takes one of the few threads that everybody resolves on."""
        if self._looking is None:
            host, port = self._origin.host, self._origin.port
            self._looking = loop.create_task(loop.getaddrinfo(host, port, type=socket.SOCK_STREAM))
            self._looking.add_done_callback(self._looked)
        found: list[AddrInfoType] = await asyncio.shield(self._looking)
        return found

    def _looked(self, looking: asyncio.Task[Any]) -> None:
        self._looking = None
        if not looking.cancelled():
            looking.exception()  # nobody may be waiting any more

    def _put_back(self, loop: asyncio.AbstractEventLoop, connection: Connection, era: int) -> None:
        if era != self._era or not connection.usable:
            connection.abort()
            return
        connection.idle_since = loop.time()
        self._idle.append(connection)
        if self._sweep is None:
            self._sweep = loop.call_later(self._idle_limit, self._drop_idle, loop)

    def _drop_idle(self, loop: asyncio.AbstractEventLoop) -> None:
        self._sweep = None
        while self._idle and (left := self._idle[0].idle_since + self._idle_limit - loop.time()) <= 0:
            self._idle.popleft().abort()
        if self._idle:
            self._sweep = loop.call_later(left, self._drop_idle, loop)
