"""What a watcher looks at: a rule, and what fires under it now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeAlias

from broker.alert import Alert, AlertRule
from broker.clock import Moment
from broker.store.base import Tx
from broker.store.notices import AlertRow

EVERY = 5.0  # seconds between looks

Here: TypeAlias = Callable[[Moment], Iterable[Alert]]
Stored: TypeAlias = Callable[[Tx, Moment], Iterable[Alert]]
GoesOn: TypeAlias = Callable[[Tx, AlertRow, Moment], bool]


@dataclass(frozen=True, kw_only=True, slots=True)
class Condition:
    """Alerts of this rule fire as long as one of the looks finds them, and are resolved when none does."""

    rule: AlertRule
    here: Here | None = None  # what the process knows; on its event loop, quick, no I/O
    stored: Stored | None = None  # what the database knows; in a read
    every: float = EVERY  # seconds


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """Alerts of this rule are sounded by whoever does it, in that transaction. They need an end."""

    rule: AlertRule
    goes_on: GoesOn


@dataclass(frozen=True, kw_only=True, slots=True)
class Rules:
    """All of them. Raises ValueError when a rule has no entry, or more than one."""

    conditions: tuple[Condition, ...]
    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        named = [one.rule for one in self.conditions] + [one.rule for one in self.events]
        if sorted(named, key=lambda rule: rule.value) != sorted(AlertRule, key=lambda rule: rule.value):
            raise ValueError("every rule needs exactly one condition or event")
