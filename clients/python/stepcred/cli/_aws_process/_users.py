"""Who uses a keeper: processes, each as long as it lives, and calls that are being answered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator

from stepcred.cli._sidecar._watch import Watched


class Users:
    """For one event loop."""

    def __init__(self) -> None:
        self.linger = 0.0  # seconds without any user until it is enough; the longest that anybody asked for
        self._watched: dict[tuple[int, int | None], Watched] = {}
        self._calls = 0
        self._some = asyncio.Event()
        self._none = asyncio.Event()

    def add(self, pid: int, started: int | None) -> None:
        """Known or gone already is fine."""
        if (pid, started) in self._watched:
            return
        watched = Watched(pid, started=started)
        if not watched.gone:
            self._watched[pid, started] = watched
            watched.call(lambda: self._gone(pid, started))
            self._changed()

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Somebody waits for an answer."""
        self._calls += 1
        self._changed()
        try:
            yield
        finally:
            self._calls -= 1
            self._changed()

    async def gone(self) -> None:
        """Until there has been nobody for as long as `linger`."""
        while True:
            await self._none.wait()
            try:
                async with asyncio.timeout(self.linger):
                    await self._some.wait()
            except TimeoutError:
                return

    def close(self) -> None:
        for watched in self._watched.values():
            watched.close()

    def _gone(self, pid: int, started: int | None) -> None:
        self._watched.pop((pid, started), None)
        self._changed()

    def _changed(self) -> None:
        now, before = (self._some, self._none) if self._watched or self._calls else (self._none, self._some)
        now.set()
        before.clear()
