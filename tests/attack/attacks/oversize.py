"""Messages beyond the limit: said to be, and really."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator

from tests.attack.target import Target
from tests.attack.wire import block_of, call, flood, headers_of, message

CALLS = 8000
PEERS = 2
AT_ONCE = 8
SIZE = 1 << 20


async def attack(target: Target) -> Counter[str]:
    block = block_of(headers_of("Heartbeat"))

    def large(ids: Iterator[int]) -> bytes:
        return call(next(ids), block, message(bytes(SIZE)))

    def said(ids: Iterator[int]) -> bytes:
        """4 GB are promised, 60 kB come, and no end."""
        return b"".join(
            call(next(ids), block, b"\0\xff\xff\xff\xff" + bytes(60_000), end=False) for _ in range(AT_ONCE)
        )

    batches = target.scaled(CALLS) // 2 // PEERS // AT_ONCE
    counts = await asyncio.gather(
        flood(target, large, batches=batches, peers=PEERS), flood(target, said, batches=batches, peers=PEERS)
    )
    return sum(counts, Counter())
