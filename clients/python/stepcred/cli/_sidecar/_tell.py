"""What the sidecar says, on stderr: for people a line, for programs an object a line. Never a secret."""

from __future__ import annotations

import contextlib
import json
import re
from datetime import UTC, datetime

from stepcred.cli._say import hearing_the_sdk, write


class Teller:
    """`tell("ready", "serving on …")`; the event's name is stable, its text is not."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json

    def tell(self, event: str, text: str, *, level: str = "info") -> None:
        """A stderr that is closed or full changes nothing; the event loop waits a second for it at most."""
        if not self._as_json:
            for lines in re.split(r"\n(?! )", text):  # an indented line belongs to the one before
                write(f"stepcred: {lines}\n", waits=False)
            return
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": at, "level": level, "event": event, "message": text})
        write(line + "\n", waits=False)

    def hearing_the_sdk(self) -> contextlib.AbstractContextManager[None]:
        """Its warnings are told in the same way."""
        return hearing_the_sdk(lambda record: self.tell("sdk", record.getMessage(), level=record.levelname.lower()))
