"""What the guard keeps: attempt budgets, the charges of the rolling hour, and its clock."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol

from broker.model import JsonValue


class GuardState(Enum):
    """DESIGN section 7."""

    OPEN = "OPEN"
    COOLING = "COOLING"
    LOCKED = "LOCKED"
    HELD = "HELD"


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardRow:
    """The durable attempt budget of one guard key. Its times are guard time: see GuardClock."""

    key: str
    hour_key: str  # the key of the rolling-hour limit
    tier: str
    about: Mapping[str, JsonValue]  # workload, captures, workflow, run, step, scope: for people
    spent: int = 0  # credentials that may exist, against the budget
    admitted: int = 0  # all admitted intents, against the ceiling
    failures: int = 0  # failed mints in a row
    state: GuardState = GuardState.OPEN
    until: datetime | None = None  # end of COOLING or LOCKED
    cool: timedelta = timedelta(0)  # last cool-down, doubled by the next
    refilled_at: datetime | None = None
    locked_at: Sequence[datetime] = field(default_factory=tuple)  # locks of the last 24 h
    hour_exhausted_at: Sequence[datetime] = field(default_factory=tuple)  # of the last 24 h
    reset_by: str = ""  # the operator who opened it last
    reset_at: datetime | None = None  # by the wall clock


@dataclass(frozen=True, kw_only=True, slots=True)
class GuardClock:
    """Guard time when it was last looked at, and what the clocks said then: from there it is counted on."""

    at: datetime
    wall: datetime
    boot: float  # seconds of CLOCK_BOOTTIME
    boot_id: str


class GuardTx(Protocol):
    """Part of `Tx`."""

    def guard_row(self, key: str) -> GuardRow | None: ...
    def put_guard_row(self, row: GuardRow) -> None: ...
    def guard_page(self, *, after: str, limit: int, open_too: bool = False) -> list[GuardRow]:
        """By key, those after this one; `open_too`: not only those that are cooling, locked or held."""
        ...

    def guard_counts(self) -> Mapping[GuardState, int]:
        """Of those that are not OPEN; states without any may be missing."""
        ...

    def add_charge(self, *, lease_id: str, key: str, hour_key: str, at: datetime, shared: str | None = None) -> None:
        """`shared`: the scope, when it has a limit over all agents."""
        ...

    def return_charge(self, lease_id: str) -> bool:
        """Give a charge back, once."""
        ...

    def forget_charges(self, before: datetime, limit: int) -> int:
        """Delete so many of those at < before, given back or not."""
        ...

    def count_charges(self, hour_key: str, since: datetime) -> int:
        """Charges not given back, at >= since."""
        ...

    def nth_charge(self, n: int, *, hour_key: str, since: datetime) -> datetime | None:
        """When the n-th newest of them was made; None when there are fewer. Looks at no more than n."""
        ...

    def nth_shared(self, n: int, *, shared: str, since: datetime) -> datetime | None:
        """The same over all agents."""
        ...

    def guard_clock(self) -> GuardClock | None:
        """None until it was first set."""
        ...

    def set_guard_clock(self, clock: GuardClock) -> None: ...
