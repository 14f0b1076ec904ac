"""What a flow yields: the client's operations without I/O. `_sync` and `aio` are two small drivers of the same flows."""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """Send `request` to `method` once, waiting at most `timeout` seconds."""

    method: str
    request: Any = field(repr=False)
    timeout: float


@dataclass(frozen=True, slots=True)
class Pause:
    """Wait."""

    seconds: float


# Yields `Call` (answer with the response, or throw `CallFailed` in) and `Pause`, and returns its result.
Flow: TypeAlias = Generator[Call | Pause, Any, T]
