"""Handshakes that drip: a true ClientHello, a byte at a time."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections import Counter

from tests.attack.target import Target

CONNECTIONS = 500
PAUSE = 0.25  # seconds between two bytes


def client_hello(target: Target) -> bytes:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    handshake = target.context().wrap_bio(incoming, outgoing, server_hostname="localhost")
    with contextlib.suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    return outgoing.read()


async def attack(target: Target) -> Counter[str]:
    told: Counter[str] = Counter()
    hello = client_hello(target)

    async def drip() -> None:
        while True:
            with contextlib.suppress(OSError):
                _reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
                told["connections"] += 1
                try:
                    for at in range(len(hello)):
                        writer.write(hello[at : at + 1])
                        await writer.drain()
                        told["bytes"] += 1
                        await asyncio.sleep(PAUSE)
                finally:
                    writer.transport.abort()
            told["closed by the daemon"] += 1
            await asyncio.sleep(0.1)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(drip() for _ in range(target.scaled(CONNECTIONS))))
    return told
