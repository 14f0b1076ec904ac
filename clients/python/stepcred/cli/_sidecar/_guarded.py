"""Connections, bounded: how many, and how long one may take. aiohttp has no bound for either (3.14)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

MOST = 512  # connections at a time; a process has 1024 files unless somebody allows it more
TO_ASK = 5.0  # seconds until a request's head is there
TO_ANSWER = 60.0  # seconds for everything; a mint takes up to 15
_END_OF_HEAD = b"\r\n\r\n"


class Guarded(asyncio.Protocol):
    """Passes everything on to the server's own protocol, unless the bounds are reached."""

    def __init__(self, make: Callable[[], asyncio.Protocol], others: set[Guarded]) -> None:
        self._make = make
        self._others = others
        self._inner: asyncio.Protocol | None = None
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        if len(self._others) >= MOST:
            _transport(transport).abort()
            return
        self._others.add(self)
        loop = asyncio.get_running_loop()
        self._asked = loop.call_later(TO_ASK, _transport(transport).abort)
        self._answered = loop.call_later(TO_ANSWER, _transport(transport).abort)
        self._inner = self._make()
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._inner is None:
            return
        self._tail += data
        if _END_OF_HEAD in self._tail:
            self._asked.cancel()
        self._tail = self._tail[1 - len(_END_OF_HEAD) :]
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received() if self._inner is not None else None

    def connection_lost(self, exc: Exception | None) -> None:
        if self._inner is None:
            return
        self._others.discard(self)
        self._asked.cancel()
        self._answered.cancel()
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
