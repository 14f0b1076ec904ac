"""More connections than the daemon may open files, twice: meanwhile nobody new gets in, for as long as handshakes may last."""

from __future__ import annotations

from collections import Counter

from tests.attack.attacks import idle
from tests.attack.target import Target

CONNECTIONS = 1000
TIMES = 2


async def attack(target: Target) -> Counter[str]:
    return await idle.attack(target, CONNECTIONS, TIMES)
