"""Bytes from one descriptor to another, masked on the way, never waiting for either side."""

from __future__ import annotations

import errno
import os
import select
import stat
import time
from collections.abc import Callable

from stepcred.cli._mask import Mask

CHUNK = 65536
AT_ONCE = 4096  # bytes that a pipe takes without waiting, once it says that it takes any (PIPE_BUF)
LEFT_BEHIND = 1 << 20  # bytes that are read after the end: as much as a pipe can hold
LOOK_AGAIN = 0.5  # seconds until a terminal that nobody has open is looked at again
PATIENCE = 0.1  # seconds that the beginning of what may be a secret is kept from a reader


class Stream:
    """One direction. Reads only when all that was read before has been written: the writer feels the reader's pace."""

    def __init__(self, source: int, sink: int, *, close: Callable[[], None], mask: Mask | None = None) -> None:
        self.source, self.sink = source, sink
        self.failure = ""  # why the sink took nothing any more
        self._close = close  # of the source, once it is read no more
        self._mask = mask
        self._out = memoryview(b"")
        self._quiet_since = 0.0
        self._again_at = 0.0
        self._at_once = CHUNK if stat.S_ISREG(os.fstat(sink).st_mode) else AT_ONCE

    @property
    def reads(self) -> bool:
        return self.source >= 0 and not self._out and time.monotonic() >= self._again_at

    @property
    def writes(self) -> bool:
        return bool(self._out)

    def pause(self) -> float | None:
        """Seconds until there is something to do without an event; None: there will not be."""
        shown, again = self._until_shown(), self._again_at - time.monotonic()
        if self.source < 0 or again <= 0:
            return shown
        return again if shown is None else min(shown, again)

    def _until_shown(self) -> float | None:
        """Seconds until what is held back is to be shown to one who waits; None: nothing is."""
        if self._mask is None or self._out or not self._mask.waiting:
            return None
        return max(self._quiet_since + PATIENCE - time.monotonic(), 0.0)

    def show(self) -> None:
        if self._mask is not None and self._until_shown() == 0.0:
            self._put(self._mask.let_out())

    def read(self) -> int:
        """Bytes read; 0: nothing is there now, or never again."""
        try:
            data = os.read(self.source, CHUNK)
        except BlockingIOError:
            return 0
        except OSError:  # EIO: nobody has the terminal open. Hung up, it would end a child that only writes elsewhere
            self._again_at = time.monotonic() + LOOK_AGAIN
            return 0
        self._quiet_since = time.monotonic()
        if not data:
            self.finish()
            return 0
        self._put(self._mask.feed(data) if self._mask else data)
        return len(data)

    def write(self) -> None:
        """As much as is taken without waiting."""
        while self._out and _takes(self.sink):
            try:
                self._out = self._out[os.write(self.sink, self._out[: self._at_once]) :]
            except BlockingIOError:
                return
            except OSError as error:
                self.failure = "" if error.errno == errno.EPIPE else os.strerror(error.errno or 0)
                self.give_up()

    def drain(self) -> None:
        """The writer has ended: what it left is read, but nobody is waited for who has inherited its end."""
        left = LEFT_BEHIND
        while self.source >= 0 and left > 0 and (size := self.read()):
            left -= size
            self.write()
        self.finish()
        self.write()

    def finish(self) -> None:
        """No more is read. What is held back was no secret."""
        if self.source >= 0:
            self.source = -1
            self._close()
            if self._mask is not None:
                self._put(self._mask.end())

    def give_up(self) -> None:
        """Nobody takes what is left. Its writer is told as it would be without us, by SIGPIPE or SIGHUP."""
        self.finish()
        self._out = memoryview(b"")

    def _put(self, data: bytes) -> None:
        self._out = memoryview(bytes(self._out) + data)


def _takes(sink: int) -> bool:
    poll = select.poll()
    poll.register(sink, select.POLLOUT)
    return bool(poll.poll(0))
