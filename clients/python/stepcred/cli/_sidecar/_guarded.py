"""Connections, bounded: how many, and how long one may take. aiohttp has no bound for either (3.14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST = 512  # connections at a time; a process has 1024 files unless somebody allows it more
MOST_ASKED = 8192  # bytes of a request; all connections together must fit into the memory that a sidecar is given
TO_ASK = 5.0  # seconds until a request's head is there; the next one's, too, on a connection that is kept
TO_ANSWER = 60.0  # seconds for an answer; a mint takes up to 15


class Open:
    """The connections of one endpoint.

    `asking`: whose next request's head is not there yet, the longest first. They give way when there is no room: whoever
    holds places and asks nothing keeps nobody out.
    """

    def __init__(self) -> None:
        self.asking: dict[Guarded, None] = {}
        self.asked: set[Guarded] = set()
        self.of: dict[asyncio.BaseProtocol, Guarded] = {}  # by the server's own protocol

    def make_room(self) -> bool:
        """For one more."""
        if len(self.asking) + len(self.asked) < MOST:
            return True
        oldest = next(iter(self.asking), None)
        if oldest is not None:
            oldest.abort()
        return oldest is not None

    def forget(self, one: Guarded) -> None:
        self.asking.pop(one, None)
        self.asked.discard(one)


class Guarded(asyncio.Protocol):
    """Passes everything on to the server's own protocol, unless the bounds are reached.

    The server says when it has read a head, and when it has answered: nobody else parses here.
    """

    def __init__(self, make: Callable[[], asyncio.Protocol], others: Open) -> None:
        self._make = make
        self._others = others
        self._inner: asyncio.Protocol | None = None
        self._bytes = 0  # since the last answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = _transport(transport)
        if not self._others.make_room():
            self._transport.abort()
            return
        self._others.asking[self] = None
        self._loop = asyncio.get_running_loop()
        self._until = self._loop.time() + TO_ASK
        self._timer = self._loop.call_at(self._until, self._look)
        self._inner = self._make()
        self._others.of[self._inner] = self
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        self._bytes += len(data)
        if self._bytes > MOST_ASKED:
            self.abort()
            return
        self._inner.data_received(data)

    def asked(self) -> None:
        """A request's head is there."""
        self._others.forget(self)
        self._others.asked.add(self)
        self._until = self._loop.time() + TO_ANSWER

    def answered(self) -> None:
        """The next request may come."""
        if self not in self._others.asked:
            return  # it was aborted meanwhile
        self._bytes = 0
        self._others.forget(self)
        self._others.asking[self] = None
        self._until = self._loop.time() + TO_ASK

    def _look(self) -> None:
        """Is its time over? At every TO_ASK at least: so an answer makes no timer of its own."""
        now = self._loop.time()
        if now >= self._until:
            self.abort()
        else:
            self._timer = self._loop.call_at(min(self._until, now + TO_ASK), self._look)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def abort(self) -> None:
        """Its place is free at once; `connection_lost` comes later."""
        self._others.forget(self)
        self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is None:
            return
        self._others.forget(self)
        self._others.of.pop(self._inner, None)
        self._timer.cancel()
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        if self._inner is not None:
            self._inner.resume_writing()


def _transport(transport: asyncio.BaseTransport) -> asyncio.WriteTransport:
    if not isinstance(transport, asyncio.WriteTransport):
        raise TypeError("a stream's transport can be written to")
    return transport
