"""One connection: a request is written whole, llhttp reads the answer."""

from __future__ import annotations

import asyncio
import select
import ssl
from dataclasses import dataclass
from typing import cast

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from broker.providers.http.message import Answer, Lost

CONTINUE, OK, NO_CONTENT, NOT_MODIFIED = 100, 200, 204, 304
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Bounds:
    """Bytes of an answer's head, interim answers and trailers with it, and of its body."""

    head: int
    body: int


class Connection(asyncio.Protocol):
    """`send` again only while `usable`. Whatever is not exactly one answer to one request ends it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, context: ssl.SSLContext | None) -> None:
        self.context = context  # with which it was opened
        self.idle_since = 0.0
        self._loop = loop
        self._transport: asyncio.Transport  # as soon as it is connected
        self._parser = HttpResponseParser(self)
        self._answer: asyncio.Future[Answer] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._free = True  # nothing was asked, or what was asked is answered, and nothing came after
        self._renew(Bounds(head=0, body=0), headless=False)

    def _renew(self, bounds: Bounds, *, headless: bool) -> None:
        self._bounds, self._headless = bounds, headless
        self._heard = self._head = self._size = 0
        self._in_body = self._until_close = False
        self._headers: list[tuple[bytes, bytes]] = []
        self._body = bytearray()  # not the pieces: of two bytes each they would take twenty times the bound

    def send(self, request: bytes, bounds: Bounds, *, until: float, headless: bool) -> asyncio.Future[Answer]:
        """From here on it may have been sent. `until`: the loop's time. `headless`: to HEAD, no body answers.

        Whoever stops waiting aborts it. The future's error is Lost.
        """
        self._free = False
        self._renew(bounds, headless=headless)
        self._answer = self._loop.create_future()
        self._timer = self._loop.call_at(until, self._fail, "no answer in time")
        self._transport.write(request)
        return self._answer

    @property
    def usable(self) -> bool:
        """May another request be written?"""
        return self._free and not self._transport.is_closing()

    @property
    def silent(self) -> bool:
        """Is nothing there that was not read yet? It would pass for the answer to whatever is asked next."""
        return not self._arrived.poll(0)

    def abort(self) -> None:
        """Close it at once; a request that waits is lost."""
        self._fail("the connection was closed")

    # --- asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class
        self._arrived = select.poll()
        self._arrived.register(transport.get_extra_info("socket").fileno(), select.POLLIN)

    def data_received(self, data: bytes) -> None:
        if self._answer is None or self._answer.done():
            self.abort()  # nobody asked: what it says must not become the answer to the next request
            return
        self._heard += len(data)
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            self._fail("the answer is not HTTP")
        else:
            if not self._in_body and self._heard > self._bounds.head:
                self._fail("the answer's head is too long")
            elif self._heard > self._bounds.head + 2 * self._bounds.body:  # chunks of a byte each, and what they say
                self._fail("the answer is too long")

    def eof_received(self) -> None:
        if self._until_close:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - why does not change what is known
        self._fail("the connection broke")
        del self._parser  # which knows this object

    # --- llhttp ---

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            self._free = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self._head += len(name) + len(value)
        if self._head > self._bounds.head:
            self._fail("the answer's head is too long")
        if not self._in_body:  # else it is a trailer
            self._headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if CONTINUE <= status < OK:  # an interim one, and its headers say nothing of the last one
            return
        self._in_body = True
        if self._headless:
            self._finish()
        elif status not in (NO_CONTENT, NOT_MODIFIED):
            # Not over TLS: whoever cuts the connection would say where the answer ends, and not every loop can tell.
            self._until_close = not (self.context or any(name in _FRAMING for name, _ in self._headers))

    def on_body(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._bounds.body:
            self._fail("the answer's body is too long")
        else:
            self._body += data

    def on_message_complete(self) -> None:
        if not self._in_body:
            self._headers = []
            return
        sent_whole = self._transport.get_write_buffer_size() == 0
        self._finish(again=sent_whole and self._parser.should_keep_alive())

    def _finish(self, *, again: bool = False) -> None:
        if self._answer is None or self._answer.done():
            return
        self._free = again
        self._stop_clock()
        status, headers, body = self._parser.get_status_code(), tuple(self._headers), bytes(self._body)
        self._answer.set_result(Answer(status=status, headers=headers, body=body))

    def _fail(self, why: str) -> None:
        self._free = False
        self._stop_clock()
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(Lost(why))
        self._transport.abort()

    def _stop_clock(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
