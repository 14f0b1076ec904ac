"""More connections than the daemon may open files."""

from __future__ import annotations

from collections import Counter

from tests.attack.attacks import idle
from tests.attack.target import Target

CONNECTIONS = 1000


async def attack(target: Target) -> Counter[str]:
    return await idle.attack(target, CONNECTIONS)
