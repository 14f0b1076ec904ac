"""Structured logs on stderr, JSON or console, with a second net against secrets (I6).

The first net is that nobody logs one: secrets travel as `Secret`. This one catches what slips through: keys
that sound like a secret, texts that look like one, and SDKs that print what they mint at DEBUG.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from broker.secret import Secret

REDACTED = "[redacted]"
MAX_DEPTH = 6  # nested deeper than this, a value is left out rather than walked

# botocore at DEBUG prints the minted session, urllib3 and aiohttp URLs, hvac and grpc payloads (measured).
PINNED = ("aiohttp", "asyncio", "boto3", "botocore", "grpc", "hvac", "requests", "s3transfer", "urllib3")

_SECRET_KEY = re.compile(
    r"secret|passw|passphrase|token|credential|private_?key|api_?key|authori[sz]ation|cookie|handle|nonce",
    re.IGNORECASE,
)
_HARMLESS_KEY = re.compile(r"_(file|path|count|seconds)$", re.IGNORECASE)
_SECRET_TEXT = re.compile(
    r"scv1-[\w-]+"  # our own Vault token ids
    r"|\bhv[sbr]\.[\w-]+|\b[sbr]\.[A-Za-z0-9]{24,}"  # Vault's and OpenBao's
    r"|(?i:bearer)\s+[\w.~+/=-]+"
    r"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)"
    r"|(?<=://)[^/\s:@]+:[^/\s@]+(?=@)",  # user:password in a URL
    re.DOTALL,
)


def redact(value: object, depth: int = 0) -> object:
    """A copy of `value` that may be logged."""
    if isinstance(value, str):
        return _SECRET_TEXT.sub(REDACTED, value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Secret | bytes | bytearray) or depth >= MAX_DEPTH:
        return REDACTED
    if isinstance(value, Mapping):
        return {str(key): redact_item(str(key), item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [redact(item, depth + 1) for item in value]
    return _SECRET_TEXT.sub(REDACTED, str(value))


def redact_item(key: str, value: object, depth: int = 0) -> object:
    """`value` as it may be logged under `key`: a key that sounds like a secret shows numbers only."""
    sounds_secret = _SECRET_KEY.search(key) and not _HARMLESS_KEY.search(key)
    if sounds_secret and value is not None and not isinstance(value, bool | int | float):
        return REDACTED
    return redact(value, depth)


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
    handler = logging.StreamHandler(out)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
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
