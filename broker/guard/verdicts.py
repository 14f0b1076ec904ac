"""The guard's answers, as values. A verdict that carries a `row` has changed it: it must be stored."""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import TypeAlias

from broker.errors import BrokerError, Reason
from broker.store.guard import GuardRow


class Why(Enum):
    """What a request has to wait for."""

    BUDGET = "BUDGET"  # the refill, or the proof that a doubtful mint made nothing
    ATTEMPT = "ATTEMPT"  # the cool-down after an attempt
    FAILURE = "FAILURE"  # the cool-down after failed mints
    HOUR = "HOUR"  # the rolling hour
    SHARED = "SHARED"  # the scope's rolling hour over all agents, or its part of it


@dataclass(frozen=True, kw_only=True, slots=True)
class Admitted:
    """Mint. The row is charged."""

    row: GuardRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Cooling:
    """Not yet."""

    until: datetime
    wait: timedelta  # from now, in guard time
    why: Why
    row: GuardRow | None = None  # only when the refusal itself had to be counted


@dataclass(frozen=True, kw_only=True, slots=True)
class LockNow:
    """This very request locks: its step ends and all of its leases die, in this transaction."""

    row: GuardRow
    until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class Locked:
    """Locked before."""

    until: datetime


@dataclass(frozen=True, kw_only=True, slots=True)
class HoldNow:
    """This very request makes the key wait for an operator; its step ends as with `LockNow`.

    `row` is that of the hourly limit when that is what is held (`row.key == row.hour_key`).
    """

    row: GuardRow


@dataclass(frozen=True, kw_only=True, slots=True)
class Held:
    """Held before."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ceiling:
    """Too many intents in a step's life. Refuses for good and holds nobody."""

    row: GuardRow | None = None  # only with the first such refusal: the one that alerts


GuardRefusal: TypeAlias = Cooling | LockNow | Locked | HoldNow | Held | Ceiling
GuardVerdict: TypeAlias = Admitted | GuardRefusal


def as_error(verdict: GuardRefusal) -> BrokerError:
    """What the agent is told: only cooling is worth another try, and not before `retry_after`."""
    match verdict:
        case Cooling(wait=wait, why=why):
            # Whole seconds, rounded up: a client that comes back exactly then must not come too early.
            seconds = max(1, math.ceil(wait.total_seconds()))
            return BrokerError(
                Reason.COOLING,
                "this step asked too often for this scope; ask again later",
                retry_after=timedelta(seconds=seconds),
                metadata={"cooling": why.value},
            )
        case LockNow(until=until) | Locked(until=until):
            return BrokerError(
                Reason.LOCKED,
                "this step used up its attempts for this scope and is locked; its credentials are revoked",
                metadata={"until": until.isoformat()},
            )
        case HoldNow() | Held():
            return BrokerError(Reason.HELD, "this scope is held for this workload until an operator resets it")
        case Ceiling():
            return BrokerError(Reason.CEILING, "this step made as many attempts for this scope as it ever may")
