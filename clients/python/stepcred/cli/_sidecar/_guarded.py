"""Connections, bounded: how many, and how long one may take. aiohttp has no bound for either (3.14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST = 512  # connections at a time; a process has 1024 files unless somebody allows it more
MOST_ASKED = 8192  # bytes of a head; all connections together must fit into the memory that a sidecar is given
TO_ASK = 5.0  # seconds until a request's head is there
TO_ANSWER = 60.0  # seconds for everything; a mint takes up to 15
_END_OF_HEAD = b"\r\n\r\n"


class Open:
    """The connections of one endpoint.

    `asking`: whose request's head is not there yet, the longest first. They give way when there is no room: whoever
    holds places and asks nothing keeps nobody out.
    """

    def __init__(self) -> None:
        self.asking: dict[Guarded, None] = {}
        self.asked: set[Guarded] = set()

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
    """Passes everything on to the server's own protocol, unless the bounds are reached."""

    def __init__(self, make: Callable[[], asyncio.Protocol], others: Open) -> None:
        self._make = make
        self._others = others
        self._inner: asyncio.Protocol | None = None
        self._tail = b""
        self._asked = 0  # bytes

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = _transport(transport)
        if not self._others.make_room():
            self._transport.abort()
            return
        self._others.asking[self] = None
        loop = asyncio.get_running_loop()
        self._to_ask = loop.call_later(TO_ASK, self.abort)
        self._to_answer = loop.call_later(TO_ANSWER, self.abort)
        self._inner = self._make()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        # Line breaks before a request are nothing: they must not pass for the end of its head.
        self._tail = self._tail + data if self._tail else data.lstrip(b"\r\n")
        if self in self._others.asking:
            self._asked += len(data)
            if _END_OF_HEAD in self._tail:
                self._to_ask.cancel()
                self._others.forget(self)
                self._others.asked.add(self)
            elif self._asked > MOST_ASKED:
                self.abort()
                return
        self._tail = self._tail[1 - len(_END_OF_HEAD) :]  # of a request that has begun never empty
        self._inner.data_received(data)

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
        self._to_ask.cancel()
        self._to_answer.cancel()
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
