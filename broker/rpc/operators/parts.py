"""What the operators' methods work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from broker.identity.door import FrontDoor
from broker.leases.core import Core
from broker.operators.desk import Desk
from broker.operators.registry import Registry


def nothing() -> Sequence[str]:
    """Is in the way."""
    return ()


def of_none() -> Mapping[str, Sequence[str]]:
    """No provider has been looked at."""
    return {}


@dataclass(frozen=True, kw_only=True, slots=True)
class Parts:
    """Wired once."""

    core: Core
    door: FrontDoor
    registry: Registry
    desk: Desk
    environment: str
    problems: Callable[[], Sequence[str]] = field(default=nothing)  # of readiness, and its remarks
    provider_problems: Callable[[], Mapping[str, Sequence[str]]] = field(default=of_none)
    sinks: Sequence[str] = ()  # names of those that alerts go to
