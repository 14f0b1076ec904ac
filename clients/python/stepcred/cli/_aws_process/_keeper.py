"""The keeper: one step, its credentials in memory alone, for as long as its users live. Started by `_start`.

Who may ask: the same user (SO_PEERCRED; the socket lies in a folder that is theirs alone besides). What is asked:
scope, the process that wants it (pid and start time, 0 for none), how long to linger; one a line. What is answered: an
exit code on the first line, and then what the call shall print.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import os
import signal
import socket
import struct
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepcred import aio
from stepcred._errors import Refused, StepcredError
from stepcred._outlets import Unusable
from stepcred._refusals import is_final, pause_after
from stepcred.cli import _exits, _spans
from stepcred.cli._aws_process import _start
from stepcred.cli._aws_process._users import Users
from stepcred.cli._exec import explain
from stepcred.cli._memory import keep_private
from stepcred.cli._sidecar import _aws
from stepcred.cli._sidecar._held import Denied, Held, Wanted
from stepcred.cli._sidecar._told import told

log = logging.getLogger("stepcred")

LINGER = "10s"
REFUSED_LINGER = 60.0  # seconds; what was refused for good is remembered at least as long, whoever calls and goes
START = 20.0  # seconds for the first call to arrive: it stands in the queue already
MAX_QUESTION = 1024  # bytes
ASKED_WITHIN = 10.0  # seconds
OLD = 86_400.0  # seconds; then a log is of no interest any more


class Keeper:
    """`run` it once."""

    def __init__(self, base: str, given: Mapping[str, Any], listener: socket.socket) -> None:
        self._base = base
        self._listener = listener
        self._wanted = Wanted(
            scopes=given["scopes"],
            workflow=given["workflow"] or None,
            run=given["run"] or None,
            step=given["step"] or None,
            handle=given["handle"],
            wait_broker=given["wait_broker"],
        )
        self._users = Users()
        self._held: Held | None = None
        self._opening = asyncio.Lock()
        self._failed: _Failed | None = None
        self._asked = asyncio.Event()  # for the first time
        self._stop = asyncio.Event()
        self._closing = False
        self._closed = asyncio.Event()
        self._made: os.stat_result | None = None  # our socket's

    async def run(self) -> None:
        """Until nobody uses it, or a signal comes."""
        with suppress(FileNotFoundError):
            self._made = os.stat(f"{self._base}.sock")  # noqa: PTH116
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, self._stop.set)
        server = await asyncio.start_unix_server(self._serve, sock=self._listener, limit=MAX_QUESTION)
        gone, stop = asyncio.create_task(self._unused()), asyncio.create_task(self._stop.wait())
        await asyncio.wait({gone, stop}, return_when=asyncio.FIRST_COMPLETED)
        self._closing = True  # whoever calls now waits: the next attempt must not find this one open
        try:
            await self._close()
        finally:
            with _start.locked(self._base):
                if self._is_called():
                    os.unlink(f"{self._base}.sock")  # noqa: PTH108
                    os.unlink(f"{self._base}.lock")  # noqa: PTH108 (`locked` sees it)
                server.close()
            self._closed.set()
            self._users.close()

    def _is_called(self) -> bool:
        """Our socket is where callers look. Somebody may have cleaned up there, and the next keeper has its own."""
        with suppress(FileNotFoundError):
            return self._made is not None and os.path.samestat(self._made, os.stat(f"{self._base}.sock"))  # noqa: PTH116
        return False

    async def _unused(self) -> None:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), START)
        await self._users.gone()

    # --- calls

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if not _is_ours(writer):
            writer.close()
            return
        try:
            async with asyncio.timeout(ASKED_WITHIN):
                scope, pid, started, linger = [(await reader.readuntil()).decode().rstrip("\n") for _ in range(4)]
        except (TimeoutError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
            writer.close()
            return
        if self._closing:
            await self._closed.wait()  # no answer: it asks the next keeper
            writer.close()
            return
        with self._users.call():
            code, text = self._register(pid, started, linger) or await self._answer(scope)
            self._asked.set()
            with suppress(ConnectionError):
                writer.write(f"{code}\n{text}".encode())
                await writer.drain()
        writer.close()

    def _register(self, pid: str, started: str, linger: str) -> tuple[int, str] | None:
        """What is wrong with the question."""
        try:
            self._users.linger = max(self._users.linger, _spans.read(linger or LINGER).total_seconds())
            if int(pid):
                self._users.add(int(pid), int(started) or None)
        except ValueError as problem:
            return _exits.USAGE, _lines([f"--linger: {problem}"])
        return None

    async def _answer(self, scope: str) -> tuple[int, str]:
        """The exit code of the call, and what it prints."""
        try:
            held = await self._opened()
            session = _aws.session_of(await held.credential(scope))
        except Denied as denied:
            return _exits.DENIED, _lines([line for verdict in denied.verdicts for line in explain(verdict)])
        except StepcredError as error:
            self._remember(error)
            return _exits.exit_code(error), _lines([told(error).message, *_exits.lines_of(error)[1:]])
        except Unusable as problem:
            return _exits.USAGE, _lines([str(problem)])
        return 0, json.dumps(_aws.process(session, held.fresh_until(session))) + "\n"

    # --- the step

    async def _opened(self) -> Held:
        """Opened by the first call, and never a second time: what was refused for good stays refused."""
        async with self._opening:
            if self._held is not None:
                return self._held
            if self._failed is not None and time.monotonic() < self._failed.until:
                raise self._failed.error
            held = Held(self._wanted)
            try:
                await self._end_what_was_left()
                await held.open()
            except StepcredError as error:
                times = self._failed.times + 1 if self._failed else 1
                later = math.inf if _is_final(error) else time.monotonic() + pause_after(times)
                self._failed = _Failed(error=error, until=later, times=times)
                self._remember(error)
                raise
            if not self._wanted.handle:
                self._handle_file.touch(mode=0o600)
                self._handle_file.write_text(held.step.handle)
            self._held = held
        return held

    def _remember(self, error: StepcredError) -> None:
        if _is_final(error):
            self._users.linger = max(self._users.linger, REFUSED_LINGER)

    @property
    def _handle_file(self) -> Path:
        """Of use with our certificate only. For the next keeper, should this one be killed."""
        return Path(f"{self._base}.handle")

    async def _end_what_was_left(self) -> None:
        """A keeper that was killed left its step open, which would keep us from opening it again."""
        try:
            handle = self._handle_file.read_text()
        except FileNotFoundError:
            return
        try:
            async with aio.connect(wait_broker=self._wanted.wait_broker) as broker:
                await broker.end(handle)
        except Refused:
            pass  # it is over, or another's by now
        self._handle_file.unlink(missing_ok=True)

    async def _close(self) -> None:
        if self._held is None:
            return
        try:
            await self._held.close()
            log.warning("%s", self._held.step.summary())
        except StepcredError as error:
            for line in _exits.lines_of(error):
                log.warning("%s", line)
        with suppress(FileNotFoundError):
            if self._handle_file.read_text() == self._held.step.handle:  # not the next one's
                self._handle_file.unlink()


@dataclass(frozen=True, kw_only=True, slots=True)
class _Failed:
    """Why the step could not be opened, and until when (monotonic seconds) nobody asks again."""

    error: StepcredError
    until: float
    times: int


def _is_final(error: StepcredError) -> bool:
    return isinstance(error, Denied) or (isinstance(error, Refused) and is_final(error))


def _lines(lines: list[str]) -> str:
    return "stepcred: " + "\n".join(lines) + "\n"


def _is_ours(writer: asyncio.StreamWriter) -> bool:
    """The same user's, as the kernel says."""
    peer = writer.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _pid, uid, _gid = struct.unpack("3i", peer)
    return bool(uid == os.geteuid())


def main() -> None:
    """Entry point: arguments are the listening socket's number and where we are, what is wanted comes on stdin."""
    keep_private()
    _forget_old_logs(Path(sys.argv[2]).parent)
    given = json.load(sys.stdin)
    listener = socket.socket(fileno=int(sys.argv[1]))
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    asyncio.run(_live(sys.argv[2], given, listener))


def _forget_old_logs(folder: Path) -> None:
    """There is one for each run of a step."""
    for log_file in folder.glob("*.log"):
        with suppress(OSError):
            if time.time() - log_file.stat().st_mtime > OLD:
                log_file.unlink()


async def _live(base: str, given: Mapping[str, Any], listener: socket.socket) -> None:
    await Keeper(base, given, listener).run()


if __name__ == "__main__":
    main()
