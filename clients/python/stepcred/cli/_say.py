"""What the command itself says: on stderr, for stdout is the child's."""

from __future__ import annotations

import contextlib
import json
import logging
import select
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any, TextIO

_AT_ONCE = 1024  # characters, of four bytes at most: what a pipe that takes anything takes without waiting
_PATIENCE = 1.0  # seconds


def say(first: str, *more: str) -> None:
    """A stderr that is closed or full does not change what becomes of the child."""
    write(_lines(first, *more, end="\n"))


class Teller:
    """One exec's own words: lines for people, or one JSON object per line.

    `raw`: the terminal adds no returns. `waits`: for as long as it takes until it is read; only once all is over.
    """

    def __init__(self, *, as_json: bool = False) -> None:
        self.raw = False
        self.waits = False
        self._as_json = as_json

    def tell(self, event: str, *lines: str, **fields: Any) -> None:
        """`lines` for people, in JSON as `message`; without them it is told in JSON alone."""
        end = "\r\n" if self.raw else "\n"
        if self._as_json:
            message = {"message": "\n".join(lines)} if lines else {}
            write(json.dumps({"event": event, **message, **fields}) + end, waits=self.waits)
        elif lines:
            write(_lines(*lines, end=end), waits=self.waits)


@contextlib.contextmanager
def hearing_the_sdk(tell: Callable[[logging.LogRecord], None]) -> Iterator[None]:
    """Its warnings, which Python's logging would write on stderr as they are."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tell(record)

    handler, log = Handler(logging.WARNING), logging.getLogger("stepcred")
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)


def as_json_text(value: Any) -> str:
    """A dataclass as an object. Never given a credential: those hold secrets."""
    return json.dumps(plain(value), indent=2)


def plain(value: Any) -> Any:
    """A dataclass as what JSON can hold, in its own order. Never given a credential: those hold secrets."""
    if is_dataclass(value):
        return {item.name: plain(getattr(value, item.name)) for item in fields(value)}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    return dict(value) if hasattr(value, "items") else value


def write(text: str, *, waits: bool = True) -> None:
    """On stderr. Without `waits` what a reader who has stopped reading does not take within a second is not said."""
    if sys.stderr is None:  # print would take stdout
        return
    with contextlib.suppress(OSError):
        for begin in range(0, len(text), _AT_ONCE):
            if not waits and not _takes(sys.stderr):
                return
            print(text[begin : begin + _AT_ONCE], end="", file=sys.stderr, flush=True)  # noqa: T201


def _lines(first: str, *more: str, end: str) -> str:
    return end.join([f"stepcred: {first}", *more]) + end


def _takes(stream: TextIO) -> bool:
    """At least PIPE_BUF, 4096 bytes."""
    poll = select.poll()
    try:
        poll.register(stream, select.POLLOUT)
    except ValueError:  # no file at all
        return True
    return bool(poll.poll(_PATIENCE * 1000))
