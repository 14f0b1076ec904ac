"""What the command itself says: on stderr, for stdout is the child's."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Any


def say(first: str, *more: str, end: str = "\n") -> None:
    """A stderr that is closed or full does not change what becomes of the child."""
    _write(f"{end}".join([f"stepcred: {first}", *more]) + end)


class Teller:
    """One exec's own words: lines for people, or one JSON object per line. `raw`: the terminal adds no returns."""

    def __init__(self, *, as_json: bool = False) -> None:
        self.raw = False
        self._as_json = as_json

    def tell(self, event: str, *lines: str, **fields: Any) -> None:
        """`lines` for people, in JSON as `message`; without them it is told in JSON alone."""
        end = "\r\n" if self.raw else "\n"
        if self._as_json:
            message = {"message": "\n".join(lines)} if lines else {}
            _write(json.dumps({"event": event, **message, **fields}) + end)
        elif lines:
            say(*lines, end=end)


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


def _write(text: str) -> None:
    if sys.stderr is not None:  # print would take stdout
        with contextlib.suppress(OSError):
            print(text, end="", file=sys.stderr, flush=True)  # noqa: T201
