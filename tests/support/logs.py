"""Logging as it was before a test: what one test sets up in this process, another would be judged by."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

import structlog

from broker import log

_configure = structlog.configure


def keep_no_logger() -> None:
    """A module's logger holds on to the first set-up that it meets; in a process of many tests it may not."""

    def configure(**given: Any) -> None:
        _configure(**given | {"cache_logger_on_first_use": False})

    structlog.configure = configure  # type: ignore[assignment]


@contextlib.contextmanager
def restored() -> Iterator[None]:
    """Everything that `log.configure` touches."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    hooks, factory = (threading.excepthook, sys.unraisablehook), logging.getLogRecordFactory()
    levels = {name: logging.getLogger(name).level for name in log.PINNED}
    yield
    if not structlog.is_configured():
        return
    structlog.reset_defaults()
    threading.excepthook, sys.unraisablehook = hooks
    logging.setLogRecordFactory(factory)
    root.handlers, root.level = handlers, level
    for name, before in levels.items():
        logging.getLogger(name).setLevel(before)
