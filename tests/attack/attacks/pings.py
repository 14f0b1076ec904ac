"""PING frames, each of which asks for an answer."""

from __future__ import annotations

from collections import Counter

from hyperframe.frame import PingFrame

from tests.attack.target import Target
from tests.attack.wire import flood, serialized

PINGS = 1_000_000
PEERS = 4
AT_ONCE = 500


async def attack(target: Target) -> Counter[str]:
    pings = serialized(PingFrame(0, b"12345678")) * AT_ONCE
    return await flood(target, lambda _ids: pings, batches=target.scaled(PINGS) // PEERS // AT_ONCE, peers=PEERS)
