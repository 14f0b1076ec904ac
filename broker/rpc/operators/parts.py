"""What the operators' methods work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Protocol

from broker.identity.door import FrontDoor
from broker.leases.core import Core
from broker.leases.orders import Fallen
from broker.leases.selection import Selection
from broker.operators.desk import Frozen
from broker.operators.model import Caller, Operator
from broker.operators.second_factor import NewFactor
from broker.store.approvals import Approval, Vote
from broker.store.base import GuardRow, Tx
from broker.store.halts import Freeze, Review


class Registry(Protocol):
    """The operators file in force."""

    def of(self, spiffe_id: str) -> Operator | None: ...

    def owner_of_key(self, key: str) -> Operator | None: ...


class Desk(Protocol):
    """Whatever an operator changes."""

    async def revoke(
        self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, end_steps: bool
    ) -> Fallen: ...

    async def freeze(
        self, caller: Caller, selection: Selection, *, reason: str, dry_run: bool, revoke: bool
    ) -> Frozen: ...

    async def unfreeze(self, caller: Caller, freeze_id: str, *, reason: str, dry_run: bool) -> Freeze: ...

    async def reset(
        self, caller: Caller, key: str, *, reason: str, code: str, break_glass: bool
    ) -> tuple[GuardRow, str]: ...

    async def sign_review(self, caller: Caller, review_id: str, *, note: str) -> Review: ...

    async def decide(
        self,
        caller: Caller,
        approval_id: str,
        *,
        approve: bool,
        reason: str,
        code: str,
        digest: str,
        good_for: timedelta | None,
    ) -> tuple[Approval, Sequence[Vote]]: ...

    async def seal_second_factor(self, caller: Caller) -> NewFactor: ...

    def why_not(self, tx: Tx, caller: Caller, approval: Approval, votes: Sequence[Vote]) -> str:
        """Why this operator may not decide it; "" when it may. Writes nothing."""
        ...

    def approvals_off(self) -> str:
        """Why nothing can be approved under the map in force; "" when it can."""
        ...


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
