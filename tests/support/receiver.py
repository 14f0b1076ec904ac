"""A receiver of webhooks on loopback: it keeps what it was sent, and answers as it is told to."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass(frozen=True, kw_only=True)
class Message:
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Receiver:
    """`status`: what it answers. `hangs`: it takes what it is sent, and says nothing."""

    url: str = ""
    status: int = 200
    hangs: bool = False
    headers: dict[str, str] = field(default_factory=dict)  # of its answers
    messages: list[Message] = field(default_factory=list)

    async def take(self, request: web.Request) -> web.Response:
        message = Message(path=request.path, headers=dict(request.headers), body=await request.read())
        self.messages.append(message)
        if self.hangs:
            await asyncio.Event().wait()
        return web.Response(status=self.status, headers=self.headers, text="what it says is not looked at" * 1000)


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """It listens until the block ends."""
    found = Receiver()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", found.take)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0))
    site = web.SockSite(runner, listener)
    await site.start()
    found.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    try:
        yield found
    finally:
        await runner.cleanup()


@contextmanager
def receiving() -> Iterator[Receiver]:
    """The same on a thread of its own, for tests that wait for other processes."""
    loop = asyncio.new_event_loop()
    made, over = threading.Event(), asyncio.Event()
    found: list[Receiver] = []

    async def serve() -> None:
        async with receiver() as one:
            found.append(one)
            made.set()
            await over.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    made.wait(timeout=10)
    try:
        yield found[0]
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(timeout=10)
        loop.close()
