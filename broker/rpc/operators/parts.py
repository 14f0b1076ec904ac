"""What the operators' methods work with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Protocol

from broker.identity.door import FrontDoor
from broker.leases.core import Core
from broker.leases.selection import Selection
from broker.operators.model import Caller, Operator
from broker.store.approvals import Approval, Vote
from broker.store.base import Tx


class Registry(Protocol):
    """The operators file in force."""

    def of(self, spiffe_id: str) -> Operator | None: ...

    def owner_of_key(self, key: str) -> Operator | None: ...


class Desk(Protocol):
    """Whatever an operator changes."""

    async def revoke(self, by: Caller, selection: Selection, *, reason: str, dry_run: bool, end_steps: bool) -> Any: ...

    async def freeze(self, by: Caller, selection: Selection, *, reason: str, dry_run: bool, revoke: bool) -> Any: ...

    async def unfreeze(self, by: Caller, freeze_id: str, *, reason: str, dry_run: bool) -> Any: ...

    async def reset(self, by: Caller, key: str, *, reason: str, code: str, break_glass: bool) -> Any: ...

    async def sign_review(self, by: Caller, review_id: str, *, note: str) -> Any: ...

    async def decide(
        self,
        by: Caller,
        approval_id: str,
        *,
        approve: bool,
        reason: str,
        code: str,
        digest: str,
        good_for: timedelta | None,
    ) -> Any: ...

    async def seal_second_factor(self, by: Caller) -> Any: ...

    def why_not(self, tx: Tx, by: Caller, approval: Approval, votes: Sequence[Vote]) -> str:
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
