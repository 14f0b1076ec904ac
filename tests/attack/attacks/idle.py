"""2,000 TCP connections that say nothing; each that is closed comes back, three times in all."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

from tests.attack.target import Target

CONNECTIONS = 2000
TIMES = 3


async def attack(target: Target, connections: int = CONNECTIONS, times: int = TIMES) -> Counter[str]:
    told: Counter[str] = Counter()

    async def hold() -> None:
        for _ in range(times):
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", target.port)
                told["connections"] += 1
                await reader.read()
                writer.transport.abort()
                told["closed by the daemon"] += 1
            await asyncio.sleep(0.1)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(target.seconds):
            await asyncio.gather(*(hold() for _ in range(connections)))
    return told


async def come_and_go(port: int, connections: int) -> None:
    """At once, until the daemon has seen them all."""
    opened = await asyncio.gather(*(asyncio.open_connection("127.0.0.1", port) for _ in range(connections)))
    await asyncio.sleep(1)
    for _reader, writer in opened:
        writer.transport.abort()
