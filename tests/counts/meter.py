"""Counts while an operation runs, from outside: nothing in the product knows of it.

Statements come from the cursors of each connection; tasks and hand-overs between threads from the event loop; calls and
objects from `sys.setprofile` in every thread. Nothing here reads a clock.
"""

from __future__ import annotations

import asyncio
import dis
import sys
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import CodeType, FrameType

from tests.counts.statements import Statement, seen, statement
from tests.fakes.loop import LoopOnClock

READ, WRITE, THREAD = "read", "write", "thread"  # what is under way
PATIENCE = 10.0  # seconds of real time: an end to what hangs

_RESUME = dis.opmap["RESUME"]
_RESUMED = 3  # of its argument: 0 is a function's start, the others go on after a yield or an await


@dataclass
class Meter:
    """What has happened since `reset`. Appended to from every thread."""

    ran: list[tuple[str, object]] = field(default_factory=list)  # statements with their values
    called: list[tuple[CodeType, int]] = field(default_factory=list)
    provider: list[str] = field(default_factory=list)
    tasks: int = 0
    hops: int = 0
    writes: int = 0
    reads: int = 0
    profiling: bool = False
    slow_disk: bool = False  # a commit takes as long as anything else can be done
    waiting: Counter[str] = field(default_factory=Counter)  # what is under way outside of the loop, by what it is
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _loop: LoopOnClock | None = None

    def reset(self) -> None:
        self.ran, self.called, self.provider = [], [], []
        self.tasks = self.hops = self.writes = self.reads = 0

    @contextmanager
    def under_way(self, what: str) -> Iterator[None]:
        """On another thread."""
        self.waiting[what] += 1
        try:
            yield
        finally:
            self.done(what)

    def done(self, what: str) -> None:
        self.waiting[what] -= 1
        self._changed.set()

    async def settled(self, *, but: str = "") -> None:
        """Return when nothing goes on without time passing: not on the loop, not in the store, not in a thread.

        `but`: whatever goes on of this.
        """
        loop = asyncio.get_running_loop()
        assert isinstance(loop, LoopOnClock)
        self._loop = loop
        while True:
            await loop.idle()
            if not any(number for what, number in self.waiting.items() if what != but):
                return
            self._changed.clear()
            await self._changed.wait()

    # --- statements ---

    @contextmanager
    def tracing(self) -> Iterator[None]:
        """Every connection that is opened meanwhile is counted for its whole life."""
        with seen(self._heard):
            yield

    def _heard(self, text: str, values: object) -> None:
        self.ran.append((text, values))
        if text == "COMMIT" and self.slow_disk:
            self._wait_for_others()

    def _wait_for_others(self) -> None:
        """By the writer: what comes together in the next group no longer depends on which thread is quicker."""
        loop, over = self._loop, threading.Event()
        assert loop is not None

        async def wait() -> None:
            await self.settled(but=WRITE)
            over.set()

        def start() -> None:
            tasks.append(asyncio.Task(wait(), loop=loop))  # past the task factory: it is not counted

        tasks: list[asyncio.Task[None]] = []
        super(type(loop), loop).call_soon_threadsafe(start)
        over.wait(PATIENCE)

    @property
    def statements(self) -> list[Statement]:
        return [statement(*one) for one in self.ran]

    def repeated(self) -> dict[str, int]:
        """Queries that had been run before in this operation with the same values, by name."""
        again = Counter(one for one in self.statements if one.kind != "control")
        found: Counter[str] = Counter()
        for one, times in again.items():
            found[one.name] += times - 1
        return dict(+found)

    # --- calls ---

    @contextmanager
    def profiled(self) -> Iterator[None]:
        """Calls are counted in this thread and in those that start meanwhile."""
        before = sys.getprofile()
        threading.setprofile(self._profile)
        sys.setprofile(self._profile)
        self.profiling = True
        try:
            yield
        finally:
            self.profiling = False
            sys.setprofile(before)
            threading.setprofile(None)

    def _profile(self, frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and self.profiling and is_ours(frame.f_globals):
            self.called.append((frame.f_code, frame.f_lasti))

    def calls(self) -> Counter[CodeType]:
        """Of the broker's own functions. Comprehensions are none (no longer calls since Python 3.12), nor resumptions."""
        return Counter(code for code, at in self.called if not _comprehension(code) and _starts(code, at))

    def objects(self) -> int:
        """Made of the broker's own classes: calls of their `__init__`, generated ones included."""
        return sum(times for code, times in self.calls().items() if code.co_name == "__init__")


def is_ours(module: Mapping[str, object]) -> bool:
    """What libraries do differs by their version, and asyncio's by Python's."""
    return str(module.get("__name__", "")).startswith("broker.")


def _comprehension(code: CodeType) -> bool:
    return code.co_name in ("<listcomp>", "<dictcomp>", "<setcomp>", "<genexpr>")


def _starts(code: CodeType, at: int) -> bool:
    """Before Python 3.12 a coroutine that goes on is a call like any other."""
    if at < 0 or code.co_code[at] != _RESUME:
        return True
    return code.co_code[at + 1] & _RESUMED == 0
