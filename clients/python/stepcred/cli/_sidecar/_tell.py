"""What the sidecar says, on stderr: for people a line, for programs an object a line. Never a secret."""

from __future__ import annotations

import contextlib
import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime

from stepcred.cli._say import write


class Teller:
    """`tell("ready", "serving on …")`; the event's name is stable, its text is not."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, event: str, text: str, *, level: str = "info") -> None:
        """A stderr that is closed or full changes nothing; the event loop waits a second for it at most."""
        if not self._as_json:
            write(f"stepcred: {text}\n", waits=False)
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": at, "level": level, "event": event, "message": text})
        write(line + "\n", waits=False)

    @contextlib.contextmanager
    def hearing_the_sdk(self) -> Iterator[None]:
        """Its warnings are told in the same way."""
        handler, log = _Handler(self), logging.getLogger("stepcred")
        log.addHandler(handler)
        try:
            yield
        finally:
            log.removeHandler(handler)


class _Handler(logging.Handler):
    def __init__(self, teller: Teller) -> None:
        super().__init__(logging.WARNING)
        self._teller = teller

    def emit(self, record: logging.LogRecord) -> None:
        self._teller.tell("sdk", record.getMessage(), level=record.levelname.lower())
