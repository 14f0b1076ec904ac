"""Terminals: whose we are, and one of the child's own, through which its output can be masked."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import sys
import termios
import tty
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO


def is_terminal(stream: TextIO | None) -> bool:
    """Of sys.__stdin__ and its like; None is one that was closed when we were started."""
    return stream is not None and os.isatty(stream.fileno())


def is_ours(fd: int) -> bool:
    """The terminal on this descriptor takes our keys now: we are not in the background."""
    try:
        return os.tcgetpgrp(fd) == os.getpgrp()
    except OSError:
        return False


def controlling() -> int | None:
    """The terminal that sends us signals, opened; None without one."""
    try:
        return os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return None


def sends_to_us() -> bool:
    """The terminal's own signals reach our whole group, the child in it too: passed on, they would come twice."""
    terminal = controlling()
    if terminal is None:
        return False
    try:
        return is_ours(terminal)
    finally:
        os.close(terminal)


@dataclass(kw_only=True, slots=True)
class OwnTerminal:
    """The child's. Ours is raw meanwhile: keys go through as they are, Ctrl-C becomes a signal over there."""

    master: int
    slave: int  # -1 once the child has it
    path: str
    keys: int  # our terminal, for reading
    _before: list[Any]
    _on_raw: Callable[[bool], None]

    @classmethod
    def make(cls, on_raw: Callable[[bool], None]) -> OwnTerminal | None:
        """None where the system gives none, or our own is gone."""
        keys = sys.__stdin__.fileno() if sys.__stdin__ is not None else -1
        with contextlib.suppress(OSError, termios.error):
            before = termios.tcgetattr(keys)
            master, slave = os.openpty()
            try:
                path = _path_of(slave)
                termios.tcsetattr(slave, termios.TCSANOW, before)
                os.set_blocking(master, False)
            except BaseException:
                os.close(master)
                os.close(slave)
                raise
            made = cls(master=master, slave=slave, path=path, keys=keys, _before=before, _on_raw=on_raw)
            made.resize()
            return made
        return None

    def raw(self) -> None:
        """Ours, unless we are in the background: then it is the shell's."""
        if is_ours(self.keys):
            with contextlib.suppress(termios.error):
                tty.setraw(self.keys, termios.TCSANOW)
                self._on_raw(True)

    def restore(self) -> None:
        """Ours, as it was. Not waiting for what is still to be shown: a stopped terminal would keep us."""
        before = signal.signal(signal.SIGTTOU, signal.SIG_IGN)  # from the background this would stop us
        try:
            with contextlib.suppress(termios.error):  # it is gone
                termios.tcsetattr(self.keys, termios.TCSANOW, self._before)
        finally:
            signal.signal(signal.SIGTTOU, before)
        self._on_raw(False)

    def resize(self) -> None:
        """As large as ours; the kernel tells the child."""
        with contextlib.suppress(OSError):
            size = fcntl.ioctl(self.keys, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def give(self) -> None:
        """The child has it: from now on its end is seen at the master."""
        if self.slave >= 0:
            os.close(self.slave)
            self.slave = -1

    def close(self) -> None:
        self.restore()
        self.give()
        self.hang_up()

    def hang_up(self) -> None:
        """Whoever still has it is told by SIGHUP."""
        if self.master >= 0:
            os.close(self.master)
            self.master = -1


def _path_of(slave: int) -> str:
    """Raises OSError when by its name it is another one: in a container with another's /dev/pts."""
    path = os.ttyname(slave)
    if Path(path).stat().st_rdev != os.fstat(slave).st_rdev:
        raise FileNotFoundError(path)
    return path
