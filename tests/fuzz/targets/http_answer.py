"""What a provider's server sends, as the HTTP client reads it: one answer or none, and never a piece of the next one.

The first byte: bit 0, the request was HEAD; the other bits, the length of the first segment.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, cast
from unittest.mock import patch

from broker.providers.http import Answer, Lost
from broker.providers.http.connection import Bounds, Connection
from tests.fuzz.target import Check, Target

BOUNDS = Bounds(head=4000, body=300)
NEXT = b"HTTP/1.1 418 Next\r\nContent-Length: 4\r\nX: y\r\n\r\nnext"
SEEDS = (
    b"HTTP/1.1 200 OK\r\nDate: now\r\nContent-Length: 2\r\n\r\n{}",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2;a=b\r\n{}\r\n0\r\nDate: then\r\n\r\n",
    b"HTTP/1.1 100 Continue\r\nX: z\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n",
    b"HTTP/1.0 304 x\r\nConnection: keep-alive\r\nContent-Length: 9\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n\r\n{}",
    b"HTTP/1.1 101 x\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\nPRI",
    b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
)


class _Wire:
    """A transport that sends nothing."""

    gone = False

    def write(self, data: bytes) -> None: ...

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return self.gone

    def get_extra_info(self, _name: str) -> Any:
        return self

    def fileno(self) -> int:
        return 0

    def abort(self) -> None:
        self.gone = True


class _Talk:
    def __init__(self, loop: asyncio.AbstractEventLoop, *, headless: bool) -> None:
        self.connection, self.wire = Connection(loop, None), _Wire()
        self.connection.connection_made(cast("Any", self.wire))
        self._until = loop.time() + 1000
        self.answer = self.ask(headless=headless)

    def ask(self, *, headless: bool) -> asyncio.Future[Answer]:
        return self.connection.send(b"", BOUNDS, until=self._until, headless=headless)

    def hear(self, *pieces: bytes, eof: bool) -> Answer | None:
        for piece in pieces:
            if piece and not self.wire.gone:
                self.connection.data_received(piece)
        if eof:
            self.connection.eof_received()
            self.connection.abort()
        if not self.answer.done():
            return None
        error = self.answer.exception()
        assert error is None or isinstance(error, Lost)
        return None if error else self.answer.result()


@contextmanager
def ready(_folder: Path) -> Iterator[Check]:
    loop = asyncio.new_event_loop()

    def check(data: bytes) -> None:
        first, data = next(iter(data), 0), data[1:]
        headless, cut = bool(first & 1), first >> 1
        one = _Talk(loop, headless=headless)
        told = one.hear(data[:cut], data[cut:], eof=False)
        if told is not None:
            assert len(told.body) <= BOUNDS.body
            assert not (headless and told.body)
        if one.connection.usable:
            assert told is not None, "nothing was answered"
            one.answer = one.ask(headless=False)
            second = one.hear(NEXT, eof=False)
            assert second is not None
            assert (second.status, second.body, second.header("x")) == (418, b"next", "y"), "somebody else's answer"
        pieces = [bytes([byte]) for byte in data]
        assert _Talk(loop, headless=headless).hear(*pieces, eof=True) == (
            told or _Talk(loop, headless=headless).hear(data, eof=True)
        ), "it depends on how it was cut"

    try:
        yield check
    finally:
        loop.close()


def _deaf() -> AbstractContextManager[object]:
    """Does not notice that an answer is followed by more."""
    return patch.object(Connection, "on_message_begin", lambda _self: None)


TARGET = Target(
    ready=ready,
    seeds=lambda: [bytes([first]) + seed for seed in SEEDS for first in (0, 1, 40)],
    words=(
        b"HTTP/1.1 200 OK\r\n",
        b"\r\n\r\n",
        b"Content-Length: ",
        b"Transfer-Encoding: chunked",
        b"Connection: close",
        b"Upgrade: x",
        b"0\r\n",
        b"100",
        b"204",
    ),
    max_bytes=1000,
    mutants={"hears-no-second": _deaf},
)
