"""Structured logs on stderr, JSON or console, with a second net against secrets (I6).

The first net is that nobody logs one: secrets travel as `Secret`. This one catches what slips through: keys
that sound like a secret, texts that look like one, and SDKs that print what they mint at DEBUG.
"""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from broker.redaction import redact_item

# botocore at DEBUG prints the minted session, urllib3 and aiohttp URLs, hvac and grpc payloads (measured). watchfiles
# prints each change of a folder: a log in the map's own folder would feed itself.
PINNED = (
    "aiohttp",
    "asyncio",
    "boto3",
    "botocore",
    "grpc",
    "hvac",
    "requests",
    "s3transfer",
    "spiffe",
    "urllib3",
    "watchfiles",
)
KEPT_BACK = "kept back: this library may print what it carries"


def _quieted(*arguments: Any, **fields: Any) -> logging.LogRecord:
    """Makes the log records: those that a pinned library writes below WARNING are empty, whoever asked for them.

    `boto3.set_stream_logger`, or a level that somebody sets later on one of its loggers, would go around our levels and
    our handler; every record comes from here.
    """
    record = logging.LogRecord(*arguments, **fields)
    if _is_kept_back(record):
        record.msg, record.args, record.exc_info, record.stack_info = KEPT_BACK, (), None, None
    return record


def _is_kept_back(record: logging.LogRecord) -> bool:
    name: str | None = record.name  # logging.makeLogRecord fills it in later
    return name is not None and name.partition(".")[0] in PINNED and record.levelno < logging.WARNING


class _Handler(logging.StreamHandler[TextIO]):
    """What goes wrong with a record is said without the record: the standard handler prints its arguments."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        with contextlib.suppress(OSError, ValueError):
            self.stream.write(
                f"a log record of {record.name} could not be written ({record.pathname}:{record.lineno})\n"
            )


def _thread_failed(failed: threading.ExceptHookArgs) -> None:
    error = failed.exc_value or failed.exc_type()
    get_logger(__name__).error("a thread failed", thread=failed.thread and failed.thread.name, exc_info=error)


def _unraisable(failed: sys.UnraisableHookArgs) -> None:
    error = failed.exc_value or failed.exc_type()
    get_logger(__name__).error("an error could not be raised", exc_info=error)


def _redactor(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    return {key: value if key.startswith("_") else redact_item(key, value) for key, value in event.items()}


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module; usable before `configure`."""
    logger: structlog.stdlib.BoundLogger = structlog.stdlib.get_logger(name)
    return logger


def configure(level: str = "info", style: str = "json", stream: TextIO | None = None) -> None:
    """Set up every logger of the process.

    Args:
        level: debug, info, warning or error; of our own loggers. The SDKs' stay at warning.
        style: "json" (one object per line) or "console".
        stream: where to; standard error by default.
    """
    out = stream or sys.stderr
    shared: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        # Plain text on purpose: the richer tracebacks print local variables, and locals hold secrets.
        structlog.processors.format_exc_info,
        _redactor,
    ]
    renderer: Processor = structlog.processors.JSONRenderer()
    if style == "console":
        renderer = structlog.dev.ConsoleRenderer(colors=out.isatty(), exception_formatter=structlog.dev.plain_traceback)
    logging.setLogRecordFactory(_quieted)
    handler = _Handler(out)
    handler.addFilter(lambda record: not _is_kept_back(record))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    # By themselves these write to standard error, around the redactor.
    threading.excepthook, sys.unraisablehook = _thread_failed, _unraisable
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in PINNED:
        logging.getLogger(name).setLevel(logging.WARNING)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
