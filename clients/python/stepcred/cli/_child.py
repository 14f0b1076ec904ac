"""Run one program in our place: its output masked, signals passed on, its exit code ours.

No shell, and no fork of a process that has threads: posix_spawn.

| our terminal | the child's output | the child's process group |
|---|---|---|
| on stdin and stdout, in the foreground | a terminal of its own | its own session there |
| another, or in the background | pipes | ours: it may read that terminal, and stops and goes on with us |
| none | pipes | its own, so that signals reach what it has started too |

Unmasked, the child has our files instead, and with any terminal our process group.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from stepcred.cli import _terminal
from stepcred.cli._exits import SIGNALLED
from stepcred.cli._mask import Mask, Secrets
from stepcred.cli._say import Teller
from stepcred.cli._signals import NOTED, SignalRelay
from stepcred.cli._streams import Stream
from stepcred.cli._terminal import OwnTerminal

# Python ignores these two, and an ignored signal stays ignored in a child: `cmd | head` must end it.
_DEFAULTS = (signal.SIGPIPE, signal.SIGXFSZ)
_LOOK_AGAIN = 0.5  # seconds until a terminal whose keys others have is asked for them again


class Child:
    """One run of one program. `secrets`: what its output must not show; None: it has our own files.

    `kill_after`: seconds from the first SIGTERM that is passed on to SIGKILL, 0 for never. `watch` is called at the
    start, and answers in how many seconds it wants to be called again.
    """

    def __init__(
        self,
        relay: SignalRelay,
        *,
        secrets: Secrets | None,
        kill_after: float,
        teller: Teller,
        watch: Callable[[], float | None] = lambda: None,
    ) -> None:
        self._relay = relay
        self._secrets = secrets
        self._kill_after = kill_after
        self._teller = teller
        self._watch = watch
        self._streams: list[Stream] = []
        self._keys: Stream | None = None
        self._terminal: OwnTerminal | None = None
        self._own_group = False
        self._ended = False
        self._pid = 0
        self._kill_at: float | None = None
        self._watch_at: float | None = 0.0
        self._keys_at = 0.0

    def start(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        """Raises OSError when it cannot be started."""
        self._terminal = self._make_terminal()
        try:
            self._spawn(argv, environ)
        except BaseException:
            for stream in self._streams:
                stream.finish()
            self._close_terminal()
            raise

    def wait(self) -> int:
        """Its exit code, 128 + n if signal n ended it. What it wrote is read by then, `finish` writes the rest of it."""
        try:
            if self._terminal is not None:
                self._terminal.raw()
            code = self._until_it_ends()
            for stream in self._streams:
                stream.drain()
            return code
        finally:
            self._close_terminal()
            if not self._ended:  # we fail, and its credentials end: nobody would look after it
                self._signal(signal.SIGKILL)

    def finish(self) -> None:
        """Write the rest, as slowly as it is taken, until a signal."""
        while pending := [stream for stream in self._streams if stream.writes]:
            poll = select.poll()
            poll.register(self._relay.reader, select.POLLIN)
            for stream in pending:
                poll.register(stream.sink, select.POLLOUT)
            poll.poll()
            for stream in pending:
                stream.write()
            if any(number not in NOTED for number in self._relay.take()):
                break
        for stream in self._streams:
            if stream.failure:
                self._teller.tell("output-lost", f"the child's output cannot be written: {stream.failure}")

    def _make_terminal(self) -> OwnTerminal | None:
        ours = _terminal.is_terminal(sys.__stdin__) and _terminal.is_terminal(sys.__stdout__)
        if self._secrets is None or not ours or not _terminal.is_ours(0):
            return None

        def on_raw(raw: bool) -> None:  # noqa: FBT001
            self._teller.raw = raw

        return OwnTerminal.make(on_raw)

    def _close_terminal(self) -> None:
        if self._terminal is not None:
            self._terminal.close()
            self._terminal = None

    def _spawn(self, argv: Sequence[str], environ: Mapping[str, str]) -> None:
        how: dict[str, Any] = {}
        if self._terminal is not None:
            how["setsid"] = True
        elif (controlling := _terminal.controlling()) is None:
            how["setpgroup"] = 0
        else:
            os.close(controlling)
        self._own_group = bool(how)
        actions, ends = self._wiring(self._terminal)
        self._relay.hold()
        try:
            self._pid = os.posix_spawnp(
                argv[0], list(argv), dict(environ), file_actions=actions, setsigdef=_DEFAULTS, **how
            )
        finally:
            for end in ends:
                os.close(end)
        if self._terminal is not None:
            self._terminal.give()

    def _wiring(self, terminal: OwnTerminal | None) -> tuple[list[tuple[Any, ...]], list[int]]:
        """The child's files, and our descriptors of its ends, to be closed once it has them."""
        if self._secrets is None:
            return [], []
        actions: list[tuple[Any, ...]] = []
        ends: list[int] = []
        sinks = [(stream.fileno(), stream) for stream in (sys.__stdout__, sys.__stderr__) if stream is not None]
        if terminal is not None:
            actions.append((os.POSIX_SPAWN_OPEN, 0, terminal.path, os.O_RDWR, 0))  # which makes it the session's
            self._keys = Stream(terminal.keys, terminal.master, close=lambda: None)
            self._add(terminal.master, 1, close=terminal.hang_up)
            shown = [number for number, stream in sinks if _terminal.is_terminal(stream)]
            actions += [(os.POSIX_SPAWN_DUP2, 0, number) for number in shown]
            sinks = [(number, stream) for number, stream in sinks if number not in shown]
        earlier: dict[int, int] = {}
        for number, _ in sinks:
            same = next((writer for other, writer in earlier.items() if os.path.sameopenfile(other, number)), None)
            if same is None:  # one pipe for 2>&1: its order stays
                reader, same = os.pipe2(os.O_CLOEXEC)
                os.set_blocking(reader, False)
                ends.append(same)
                self._add(reader, number, close=_closing(reader))
            earlier[number] = same
            actions.append((os.POSIX_SPAWN_DUP2, same, number))
        return actions, ends

    def _add(self, source: int, sink: int, *, close: Callable[[], None]) -> None:
        mask = Mask(self._secrets) if self._secrets is not None else None
        self._streams.append(Stream(source, sink, close=close, mask=mask))

    def _until_it_ends(self) -> int:
        while True:
            finished, status = os.waitpid(self._pid, os.WNOHANG)
            if finished:
                self._ended = True
                code = os.waitstatus_to_exitcode(status)
                return code if code >= 0 else SIGNALLED - code
            self._wait()
            for number in self._relay.take():
                self._pass_on(number)
            now = time.monotonic()
            if self._kill_at is not None and now >= self._kill_at:
                self._kill_at = None
                self._signal(signal.SIGKILL)
                self._teller.tell("killed", f"the child is still there {self._kill_after:g} s after SIGTERM: killed")
            if self._watch_at is not None and now >= self._watch_at:
                pause = self._watch()
                self._watch_at = None if pause is None else now + pause

    def _wait(self) -> None:
        """Until something can be read or written, a signal comes, or a time is reached."""
        readable: dict[int, Stream] = {stream.source: stream for stream in self._streams if stream.reads}
        writable = {stream.sink: stream for stream in self._streams if stream.writes}
        now = time.monotonic()
        times = [at - now for at in (self._kill_at, self._watch_at) if at is not None]
        if self._keys is not None and self._terminal is not None and self._terminal.master >= 0:
            if self._keys.writes:
                writable[self._keys.sink] = self._keys
            elif self._keys.reads and now >= self._keys_at:
                readable[self._keys.source] = self._keys
            elif self._keys.reads:
                times.append(self._keys_at - now)
        poll = select.poll()
        poll.register(self._relay.reader, select.POLLIN)
        for fd in {*readable, *writable}:
            poll.register(fd, (select.POLLIN if fd in readable else 0) | (select.POLLOUT if fd in writable else 0))
        times += [pause for stream in self._streams if (pause := stream.pause()) is not None]
        events = poll.poll(max(min(times), 0.0) * 1000 + 1 if times else None)
        for fd, event in events:
            if fd in writable and event & ~select.POLLIN:
                writable[fd].write()
            if fd in readable and event & ~select.POLLOUT:
                self._read(readable[fd])
        for stream in self._streams:
            stream.show()
            stream.write()

    def _read(self, stream: Stream) -> None:
        if stream is self._keys and not _terminal.is_ours(stream.source):
            self._keys_at = time.monotonic() + _LOOK_AGAIN  # the shell's; to read them would stop us
            return
        stream.read()
        stream.write()

    def _pass_on(self, number: signal.Signals) -> None:
        if number in (signal.SIGWINCH, signal.SIGCONT):
            if self._terminal is not None:
                self._terminal.resize()
                if number == signal.SIGCONT:
                    self._terminal.raw()  # whoever had it meanwhile has set it up for himself
            return
        if number == signal.SIGCHLD:
            return
        if not self._own_group and number in (signal.SIGINT, signal.SIGQUIT) and _terminal.sends_to_us():
            return
        if number == signal.SIGTERM and self._kill_after and self._kill_at is None:
            self._kill_at = time.monotonic() + self._kill_after
        self._signal(number)

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(OSError):  # gone, or by now another user's
            if self._own_group:
                os.killpg(self._pid, number)
            else:
                os.kill(self._pid, number)


def _closing(fd: int) -> Callable[[], None]:
    return lambda: os.close(fd)
