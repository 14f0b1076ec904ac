"""Processes that somebody else started, watched by a file descriptor: their number may be given again."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable
from pathlib import Path


def start_time(pid: int) -> int | None:
    """In clock ticks since boot; with the pid it names one process. None: there is none."""
    try:
        about = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return None
    return int(about.rpartition(b")")[2].split()[19])  # behind the name, which may hold anything


class Watched:
    """One process, until it exits. `gone` when it did before we looked, or when the number is another's by now."""

    def __init__(self, pid: int, *, started: int | None = None) -> None:
        self.pid = pid
        self._fd: int | None = None
        with contextlib.suppress(ProcessLookupError):
            self._fd = os.pidfd_open(pid)
        if started is not None and start_time(pid) != started:  # looked at after the descriptor holds it
            self.close()

    @property
    def gone(self) -> bool:
        return self._fd is None

    def call(self, then: Callable[[], None]) -> None:
        """`then`, from the event loop, once it has exited; soon, if it has already."""
        loop = asyncio.get_running_loop()
        if self._fd is None:
            loop.call_soon(then)
            return

        def exited() -> None:
            self.close()
            then()

        self._loop = loop
        loop.add_reader(self._fd, exited)

    def close(self) -> None:
        """Watch it no more."""
        if self._fd is not None:
            with contextlib.suppress(AttributeError):
                self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = None
