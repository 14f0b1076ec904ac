"""Run one program in our place: same terminal, signals passed on, its exit code ours.

No shell, and no fork of a process that has threads: posix_spawn.
"""

from __future__ import annotations

import os
import select
import signal
from collections.abc import Mapping, Sequence
from types import FrameType, TracebackType
from typing import Self

from stepcred.cli._exits import SIGNALLED

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class Interrupted(BaseException):
    """A signal came before there was a child to pass it to. Like KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = SIGNALLED + number


class SignalRelay:
    """Use in a `with`, in the main thread. Before `run` a signal raises Interrupted; after it, signals are ignored.

    So a second Ctrl-C does not keep the step's credentials from being revoked; every call of that has a deadline.
    """

    def __enter__(self) -> Self:
        self._child_gets_them = False
        self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Python writes each signal's number here whichever thread receives it, so that no wait misses one.
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        ours = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
        self._ignored = [number for number in FORWARDED if number not in ours]
        self._old = {number: signal.signal(number, self._on_signal) for number in (*ours, signal.SIGCHLD)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self._reader)
        os.close(self._writer)

    def run(self, argv: Sequence[str], environ: Mapping[str, str]) -> int:
        """The child's exit code, 128 + n if signal n ended it. Raises OSError when it cannot be started."""
        self._child_gets_them = True
        # Python ignores these two, and an ignored signal stays ignored in a child: `cmd | head` must end it.
        defaults = [signal.SIGPIPE, signal.SIGXFSZ]
        pid = os.posix_spawnp(argv[0], list(argv), dict(environ), setsigdef=defaults)
        while True:
            finished, status = os.waitpid(pid, os.WNOHANG)
            if finished:
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else SIGNALLED - code
            select.select([self._reader], [], [])
            for number in os.read(self._reader, 64):
                if number in self._old and number != signal.SIGCHLD and not _terminal_sends(number):
                    os.kill(pid, number)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number != signal.SIGCHLD and not self._child_gets_them:
            self._child_gets_them = True  # once: the way out is not interrupted again
            raise Interrupted(number)


def _terminal_sends(number: int) -> bool:
    """The terminal's own signals reach the whole foreground group, our child too: passed on, they would come twice."""
    if number not in (signal.SIGINT, signal.SIGQUIT):
        return False
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)
