"""The event loop, so that grpc.aio frees what it allocates for a call (grpc/grpc#43360, open in grpcio 1.85.3).

It frees the operations of a batch only where the one who waits for them goes on: 96 bytes each stay for ever when a call is
cancelled while gRPC receives or sends, or when the batch fails. Of calls that are taken back in the same breath 24 bytes each
stayed on average, a megabyte per second of such a flood (measured).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

import uvloop
from grpc._cython import cygrpc  # type: ignore[attr-defined]

_CALLS = "HandleExceptions["  # how grpc names the tasks that handlers run in


class Loop(uvloop.Loop):
    """For the daemon. On any other loop everything works, and leaks."""

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def create_task(self, coro: Any, *, name: Any = None, **more: Any) -> asyncio.Task[Any]:
        if isinstance(name, str) and name.startswith(_CALLS):
            return CallTask(coro, loop=self, name=name, **more)
        return super().create_task(coro, name=name, **more)


class _Future(asyncio.Future[Any]):
    """A batch that failed is done: what it was for is over anyway, and so it is freed."""

    def set_exception(self, exception: type | BaseException, /) -> None:
        if isinstance(exception, cygrpc.ExecuteBatchError):
            self.set_result(None)
        else:
            super().set_exception(exception)


class CallTask(asyncio.Task[Any]):
    """A call. Its client's going away interrupts our handler, and never gRPC's own work, which ends by itself then."""

    asked = False  # to stop
    in_handler = False

    def cancel(self, msg: Any | None = None) -> bool:
        # Outside of tasks it is the loop that ends.
        if self.in_handler or asyncio.current_task(self.get_loop()) is None:
            return super().cancel(msg)
        self.asked = True
        return False


class interruptible:  # noqa: N801 - used like a function; a generator's context manager costs a call more than its checks
    """The part of a call that is ours. Raises CancelledError when the client has already gone."""

    __slots__ = ("_task",)

    def __enter__(self) -> None:
        task = asyncio.current_task()
        self._task = task if isinstance(task, CallTask) else None
        if self._task is not None:
            if self._task.asked:
                raise asyncio.CancelledError
            self._task.in_handler = True

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            self._task.in_handler = False


@contextlib.contextmanager
def left_alone() -> Iterator[None]:
    """Inside of `interruptible`: gRPC's own work again, for example while a stream's message is on its way.

    Raises CancelledError after it when the client has gone meanwhile.
    """
    task = asyncio.current_task()
    if not isinstance(task, CallTask):
        yield
        return
    task.in_handler = False
    try:
        yield
    finally:
        task.in_handler = True
    if task.asked:
        raise asyncio.CancelledError
