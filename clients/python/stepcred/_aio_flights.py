"""Any number of tasks that ask for one thing, a task of its own that gets it, and the same answer for all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Generic, TypeVar

from stepcred._awaiting import seen
from stepcred._errors import DeadlineExceeded, StepcredError
from stepcred._flights import for_another

T = TypeVar("T")


class TaskFlights(Generic[T]):
    """One for each key at a time. A caller that is cancelled does not cancel it for the others."""

    def __init__(self, give_back: Callable[[str], Coroutine[Any, Any, None]]) -> None:
        """`give_back`: what has come for a key after everybody who wanted it had gone."""
        self._give_back = give_back
        self._flying: dict[str, asyncio.Task[T]] = {}
        self._deserted: set[str] = set()
        self._returns: set[asyncio.Task[None]] = set()  # asyncio itself keeps no task alive

    async def join(
        self,
        key: str,
        *,
        known: Callable[[], T | None],
        get: Callable[[], Coroutine[Any, Any, T]],
        timeout: float | None,  # noqa: ASYNC109 (of another's answer: `get` has its own)
    ) -> T:
        """What is `known`, else what `get` gives to whoever comes first. `timeout`: seconds to wait for another's.

        Raises what `get` raises, and DeadlineExceeded when another's answer does not come in time.
        """
        self._deserted.discard(key)
        if (found := known()) is not None:
            return found
        flight, mine = self._flying.get(key), False
        if flight is None:
            mine = True
            flight = self._flying[key] = asyncio.create_task(get(), name=f"stepcred-credential-{key}")
            flight.add_done_callback(lambda done: self._landed(key, done))
        try:
            async with asyncio.timeout(None if mine else timeout):
                return await asyncio.shield(flight)
        except TimeoutError:
            raise DeadlineExceeded(f"{key}: no answer in time to what another task asks for") from None
        except StepcredError as error:
            raise error if mine else for_another(error)  # noqa: B904 (the same answer)

    def desert(self, key: str) -> None:
        """Whoever says so wants it no longer, and perhaps nobody else does. Whoever joins later wants it again."""
        if key in self._flying:
            self._deserted.add(key)

    def _landed(self, key: str, flight: asyncio.Task[T]) -> None:
        self._flying.pop(key, None)
        seen(flight)
        if key in self._deserted:
            self._deserted.discard(key)
            task = asyncio.create_task(self._give_back(key), name=f"stepcred-return-{key}")
            self._returns.add(task)
            task.add_done_callback(self._returns.discard)
