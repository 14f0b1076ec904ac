"""Threads for what a step does in the background, used again: to start one costs a step 0.2 ms of CPU, and a wait.

Each does one thing at a time, so that a call that hangs holds up nobody else's.
"""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

LINGER = 1.0  # seconds that one waits for more before it ends

_Work: TypeAlias = tuple[Callable[[], None], str]
_idle: deque[queue.SimpleQueue[_Work]] = deque()
os.register_at_fork(after_in_child=_idle.clear)  # threads are not inherited


def run(work: Callable[[], None], *, name: str) -> None:
    """In a daemon thread, which has this name meanwhile. Raises RuntimeError when there can be no more threads."""
    try:
        mine = _idle.pop()
    except IndexError:
        mine = queue.SimpleQueue()
        threading.Thread(target=_live, args=(mine,), name=name, daemon=True).start()
    mine.put((work, name))


def _live(mine: queue.SimpleQueue[_Work]) -> None:
    while True:
        try:
            _do(*mine.get(timeout=LINGER))
        except queue.Empty:
            try:
                _idle.remove(mine)
            except ValueError:  # somebody has just taken it, and is about to put
                continue
            return
        threading.current_thread().name = "stepcred-idle"
        _idle.append(mine)


def _do(work: Callable[[], None], name: str) -> None:
    """A function of its own: nothing of a step that is over is held while the next one is waited for."""
    threading.current_thread().name = name
    work()
