"""What asyncio lacks."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any


async def within(seconds: float, event: asyncio.Event) -> None:
    """Set, or not in time. Not `asyncio.wait_for`: before 3.12 that loses a cancellation that comes with the event."""
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()


def seen(task: asyncio.Future[Any]) -> None:
    """Also when nobody waits any more, so that asyncio has nothing to complain of."""
    if not task.cancelled():
        task.exception()
