"""Which step is open here: in this thread, this task, and in the tasks that it starts."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from stepcred._errors import StepcredError

if TYPE_CHECKING:
    from stepcred._aio_step import Step as AioStep
    from stepcred._sync_step import Step


class Nested(Protocol):
    """What a step remembers for it."""

    outer: Self | None
    left: bool


S = TypeVar("S", bound=Nested)


class Current(Generic[S]):
    """The innermost one. A step may be left in another context than it was entered in, and then counts nowhere."""

    def __init__(self, name: str) -> None:
        self._var: ContextVar[S | None] = ContextVar(name, default=None)

    def enter(self, step: S) -> None:
        step.outer = self.get()
        self._var.set(step)

    def leave(self, step: S) -> None:
        step.left = True
        self._var.set(self.get())

    def get(self) -> S | None:
        step = self._var.get()
        while step is not None and step.left:
            step = step.outer
        return step


SYNC: Current[Step] = Current("stepcred-step")
AIO: Current[AioStep] = Current("stepcred-aio-step")


def current_step() -> Step:
    """The innermost step whose `with` block this code runs in.

    A thread begins without one (`contextvars.copy_context().run` takes it along); an asyncio task has that of whoever
    started it. For the steps of `stepcred.aio` there is `stepcred.aio.current_step`. Raises StepcredError without one.
    """
    step = SYNC.get()
    if step is None:
        raise StepcredError("no step is open here: current_step() works inside of `with broker.step(…)`")
    return step


class Borrowed:
    """Inside of which `lease` blocks this code runs."""

    def __init__(self) -> None:
        self._var: ContextVar[tuple[tuple[int, str], ...]] = ContextVar("stepcred-leases", default=())

    def enter(self, step: object, scope: str) -> None:
        self._var.set((*self._var.get(), (id(step), scope)))

    def leave(self, step: object, scope: str) -> None:
        """Once, if it is known here."""
        here = list(self._var.get())
        if (id(step), scope) in here:
            here.remove((id(step), scope))
            self._var.set(tuple(here))

    def inside(self, step: object, scope: str) -> bool:
        return (id(step), scope) in self._var.get()


LEASES = Borrowed()
