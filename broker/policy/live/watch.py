"""Loads the scope map when its files change: told by the file system, and looked at now and then in any case."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

from watchfiles import awatch

from broker.errors import StoreError
from broker.log import get_logger
from broker.policy.live.holder import Policies

log = get_logger(__name__)

SOON = 1.0  # seconds until a look after a watch began: what changed just before it is told by nobody
PAUSE = 0.1  # seconds at least between two looks, however busy a folder is
DEBOUNCE = 200  # milliseconds for which events are gathered
STEP = 20  # milliseconds without an event that end the gathering


class Watcher:
    """One task; nothing that happens to it changes the map that is in force."""

    def __init__(self, policies: Policies, *, poll: timedelta, events: bool) -> None:
        self._policies = policies
        self._poll = poll.total_seconds()
        self._events = events
        self._changed = asyncio.Event()
        self._watched: frozenset[Path] = frozenset()
        self._task: asyncio.Task[None] | None = None

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Until the block ends."""
        task = asyncio.create_task(self._run(), name="scope map watch")
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _run(self) -> None:
        try:
            while True:
                began = await self._surely(self._follow)
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(min(SOON, self._poll) if began else self._poll):
                        await self._changed.wait()
                self._changed.clear()
                await self._surely(self._policies.look)
                await asyncio.sleep(PAUSE)
        finally:
            await self._unfollow()

    async def _surely(self, step: Callable[[], Awaitable[bool]]) -> bool:
        """What it says; False when it fails."""
        try:
            return await step()
        except StoreError as error:
            log.warning("the scope map has changed and could not be journalled; it is tried again", problem=str(error))
        except Exception:  # a dead watch would leave a grant in force that an operator took away
            log.exception("the scope map could not be looked at")
        return False

    async def _follow(self) -> bool:
        """Watch the folders of today's files. True when the watch began anew."""
        if not self._events:
            return False
        folders = await asyncio.to_thread(self._policies.folders)
        alive = self._task is not None and not self._task.done()
        if folders == self._watched and alive:
            return False
        failed_before = folders == self._watched
        await self._unfollow()
        self._watched = folders
        self._task = asyncio.create_task(self._gather(folders), name="scope map events")
        return not failed_before

    async def _unfollow(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _gather(self, folders: frozenset[Path]) -> None:
        """Whatever happens in these folders is a reason to look; what has changed is told by the contents alone."""
        try:
            events = awatch(
                *folders, watch_filter=None, debounce=DEBOUNCE, step=STEP, recursive=False, force_polling=False
            )
            async for _ in events:
                self._changed.set()
        except Exception as error:  # noqa: BLE001 - no inotify left, a folder that has gone: the poll goes on
            log.warning(
                "no word of changes from the file system", folders=sorted(map(str, folders)), problem=str(error)
            )
