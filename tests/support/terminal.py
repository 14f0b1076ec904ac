"""A program in a real pseudo-terminal, and what an xterm would show of it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import pyte

_PRIVATE = re.compile(rb"\x1b\[[<>=][0-9;]*[a-zA-Z]")  # pyte 0.8 prints these instead of ignoring them
_SECONDS = 20.0
_ALTERNATE = {b"\x1b[?1049h": True, b"\x1b[?1049l": False}


class Terminal:
    """Use in a `with`: the program is ended with it."""

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        *,
        columns: int = 100,
        lines: int = 30,
        term: str = "xterm-256color",
    ) -> None:
        self.screen = pyte.Screen(columns, lines)
        self._stream = pyte.ByteStream(self.screen)
        self._master, self._slave = pty.openpty()
        fcntl.ioctl(self._slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.modes_before = termios.tcgetattr(self._slave)
        self.output = b""
        self.process = subprocess.Popen(
            list(argv),
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            env={**env, "TERM": term, "COLUMNS": "", "LINES": ""},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(timeout=_SECONDS)
        os.close(self._master)
        os.close(self._slave)

    def press(self, keys: str) -> None:
        os.write(self._master, keys.encode())

    @property
    def text(self) -> str:
        return "\n".join(line.rstrip() for line in self.screen.display)

    def wait_for(self, *texts: str, gone: Sequence[str] = ()) -> str:
        """Until all of them stand on the screen, and nothing of what shall be gone."""
        return self.wait(
            lambda: all(text in self.text for text in texts) and not any(text in self.text for text in gone),
            f"{texts} there, {tuple(gone)} gone",
        )

    def wait(self, condition: Callable[[], Any], what: str) -> str:
        deadline = time.monotonic() + _SECONDS
        while not condition():
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError(f"not seen: {what}\n{self.text}\n{self.output[-500:]!r}")
            self._read(min(left, 0.1))
        return self.text

    def ended(self) -> int:
        """The exit code; the rest of the output has been read."""
        self.wait(lambda: self.process.poll() is not None, "the end of the program")
        while self._read(0.0):
            pass
        return self.process.returncode

    @property
    def alternate(self) -> bool:
        """Whether the program's own screen is still there instead of the shell's."""
        last = max(_ALTERNATE, key=self.output.rfind)
        return self.output.rfind(last) >= 0 and _ALTERNATE[last]

    @property
    def modes(self) -> list[Any]:
        return termios.tcgetattr(self._slave)

    def _read(self, wait: float) -> bool:
        if not select.select([self._master], [], [], wait)[0]:
            return False
        data = os.read(self._master, 65536)
        self.output += data
        self._stream.feed(_PRIVATE.sub(b"", data))
        return True
