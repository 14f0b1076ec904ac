"""`stepcred-broker` within the test's own process: a process of its own takes a second to import the broker."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from unittest import mock

from broker.__main__ import main


@dataclass(frozen=True, kw_only=True)
class Done:
    """What it said, and its exit code."""

    code: int
    out: str
    err: str


def broker_cli(*arguments: str, env: Mapping[str, str] | None = None) -> Done:
    """Not for `serve` that goes on to serve, and not from within an event loop that the command's own would meet."""
    out, err = io.StringIO(), io.StringIO()
    plain = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **(env or {})}
    with (
        mock.patch.dict(os.environ, plain),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main(arguments)
    return Done(code=code, out=out.getvalue(), err=err.getvalue())
