"""A TCP proxy that misbehaves on demand, between a client and a real server."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from typing import TypeVar
from urllib.parse import parse_qs


class Fault(Enum):
    """What happens to a request whose first line, or form, contains the proxy's `only`."""

    NONE = "NONE"
    CUT = "CUT"  # forwarded; the connection is closed before the answer
    HANG = "HANG"  # forwarded; the answer never comes
    ANSWER = "ANSWER"  # forwarded and carried out; `answer` is sent instead
    REPLACE = "REPLACE"  # not forwarded; `answer` is sent
    LATE = "LATE"  # the client sees a cut at once; the request is forwarded after `delay` seconds
    HELD = "HELD"  # forwarded after `delay` seconds, whether or not the client is still there


@dataclass
class Proxy:
    """`requests` holds the first line of each request; faults apply once each, `times` times."""

    port: int
    upstream: int
    fault: Fault = Fault.NONE
    only: str = ""
    times: int = 1
    delay: float = 0
    answer: bytes = b""
    requests: list[str] = field(default_factory=list)
    late: list[asyncio.Task[bytes]] = field(default_factory=list)
    lost: list[bytes] = field(default_factory=list)  # answers that a fault kept from the client

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def inject(self, fault: Fault, only: str = "", *, times: int = 1, delay: float = 0, answer: bytes = b"") -> None:
        """From the next matching request on."""
        self.fault, self.only, self.times, self.delay, self.answer = fault, only, times, delay, answer

    def seen(self, part: str) -> list[str]:
        """First lines that contain `part`."""
        return [line for line in self.requests if part in line]

    async def late_done(self) -> None:
        """Until every late request has been carried out."""
        await asyncio.gather(*self.late)

    def _take(self, line: str, form: bytes) -> Fault:
        there = self.only in line or (line.startswith("POST / ") and self.only.encode() in form)
        if self.fault is Fault.NONE or not there or self.times == 0:
            return Fault.NONE
        self.times -= 1
        return self.fault

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError), contextlib.closing(writer):
            while request := await _message(reader):
                line = request.split(b"\r\n", 1)[0].decode()
                self.requests.append(line)
                fault = self._take(line, request.partition(b"\r\n\r\n")[2])
                if fault is Fault.REPLACE:
                    writer.write(self.answer)
                elif fault in (Fault.LATE, Fault.HELD):
                    late = asyncio.create_task(self._forward_later(request, self.delay))
                    self.late.append(late)
                    if fault is Fault.LATE:
                        return
                    writer.write(await late)
                else:
                    answer = await self._forward(request)
                    if fault is not Fault.NONE:
                        self.lost.append(answer)
                    if fault is Fault.CUT:
                        return
                    if fault is Fault.HANG:
                        await asyncio.sleep(60)
                    writer.write(self.answer if fault is Fault.ANSWER else answer)
                await writer.drain()

    async def _forward(self, request: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.upstream)
        with contextlib.closing(writer):
            writer.write(request)
            await writer.drain()
            return await _message(reader)

    async def _forward_later(self, request: bytes, delay: float) -> bytes:
        await asyncio.sleep(delay)
        return await self._forward(request)


ProxyType = TypeVar("ProxyType", bound=Proxy)


async def _message(reader: asyncio.StreamReader) -> bytes:
    """One HTTP/1.1 message with Content-Length or chunked, or b"" at the end."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b""
    fields = dict(line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line)
    if b"chunked" in fields.get(b"transfer-encoding", b""):
        body = b""
        while not body.endswith(b"0\r\n\r\n"):
            body += await reader.readuntil(b"\r\n")
        return head + body
    return head + await reader.readexactly(int(fields.get(b"content-length", b"0")))


def response(status: str, body: bytes = b"{}", *headers: str) -> bytes:
    """A whole answer, for example response("500 Internal Server Error", b'{"errors": []}')."""
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


@contextlib.asynccontextmanager
async def proxy(upstream: int) -> AsyncIterator[Proxy]:
    """A proxy on a free loopback port before `127.0.0.1:upstream`."""
    async with serving(Proxy(port=0, upstream=upstream)) as state:
        yield state


@contextlib.asynccontextmanager
async def serving(state: ProxyType) -> AsyncIterator[ProxyType]:
    """The same with one that knows more; its port is set here."""
    server = await asyncio.start_server(state._serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        for task in state.late:
            task.cancel()


@dataclass
class Counting(Proxy):
    """Counts the actions of AWS's query API."""

    actions: Counter[str] = field(default_factory=Counter)

    async def _forward(self, request: bytes) -> bytes:
        form = request.partition(b"\r\n\r\n")[2].decode(errors="replace")
        self.actions[parse_qs(form).get("Action", [""])[0]] += 1
        return await super()._forward(request)


@contextlib.contextmanager
def counting(upstream: int) -> Iterator[Counting]:
    """In a thread of its own, for who has no event loop."""
    with asyncio.Runner() as runner:
        loop, begun, over = runner.get_loop(), threading.Event(), asyncio.Event()
        state = Counting(port=0, upstream=upstream)

        async def serve() -> None:
            async with serving(state):
                begun.set()
                await over.wait()

        thread = threading.Thread(target=runner.run, args=(serve(),))
        thread.start()
        try:
            begun.wait(5)
            yield state
        finally:
            loop.call_soon_threadsafe(over.set)
            thread.join(5)


class Cable:
    """Plain TCP between a client and a server, which can be cut and mended from any thread."""

    def __init__(self, upstream: int) -> None:
        self.port = 0
        self._upstream = upstream
        self._loop = asyncio.get_running_loop()
        self._whole = True
        self._ends: set[asyncio.StreamWriter] = set()

    def cut(self) -> None:
        """Every connection is reset, and so is each new one."""
        self._whole = False
        self._loop.call_soon_threadsafe(self._abort)

    def mend(self) -> None:
        """New connections get through again."""
        self._whole = True

    def _abort(self) -> None:
        for end in self._ends:
            end.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not self._whole:
            writer.transport.abort()
            return
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._upstream)
        ends = {writer, far_writer}
        self._ends |= ends
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))
        self._ends -= ends


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError), contextlib.closing(writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()


@contextlib.asynccontextmanager
async def cable(upstream: int) -> AsyncIterator[Cable]:
    """On a free loopback port before `127.0.0.1:upstream`."""
    state = Cable(upstream)
    server = await asyncio.start_server(state._serve, "127.0.0.1", 0)
    state.port = server.sockets[0].getsockname()[1]
    try:
        yield state
    finally:
        server.close()
        state._abort()
