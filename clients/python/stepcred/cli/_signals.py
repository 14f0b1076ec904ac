"""Signals while a child runs in our place: noted, to be passed on."""

from __future__ import annotations

import os
import signal
from types import FrameType, TracebackType
from typing import Self

from stepcred.cli._exits import SIGNALLED

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
NOTED = (signal.SIGCHLD, signal.SIGWINCH, signal.SIGCONT)


class Interrupted(BaseException):
    """A signal came before there was a child to pass it to. Like KeyboardInterrupt it is no Exception."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.exit_code = SIGNALLED + number


class SignalRelay:
    """Use in a `with`, in the main thread. Until `hold` a signal raises Interrupted, once; from then on it is noted.

    So a second Ctrl-C does not keep the step's credentials from being revoked; every call of that has a deadline.
    """

    def __enter__(self) -> Self:
        self._held = False
        self.reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        # Python writes each signal's number here whichever thread receives it, so that no wait misses one.
        self._old_fd = signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        ours = [number for number in FORWARDED if signal.getsignal(number) is not signal.SIG_IGN]  # nohup stays nohup
        self._old = {number: signal.signal(number, self._on_signal) for number in (*ours, *NOTED)}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._old_fd)
        os.close(self.reader)
        os.close(self._writer)

    def hold(self) -> None:
        """From here on somebody takes what is noted."""
        self._held = True

    def take(self) -> list[signal.Signals]:
        """What has come since the last time."""
        try:
            numbers = os.read(self.reader, 4096)
        except BlockingIOError:
            return []
        return [signal.Signals(number) for number in numbers if number in self._old]

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        if number not in NOTED and not self._held:
            self._held = True  # once: the way out is not interrupted again
            raise Interrupted(number)
