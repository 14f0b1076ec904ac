"""What stands in for Vault and AWS: it knows which credentials are alive, and fails when it is told to.

It lives longer than a broker: a restart of the broker takes nothing from it.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum

from broker.model import Revocability
from broker.providers.base import LeaseRef
from broker.secret import Secret


class Failure(Enum):
    """What goes wrong."""

    REFUSED = "refused"  # definitely nothing was minted
    LOST = "lost"  # minted, and the answer was lost: the broker must find out
    REVOKE = "revoke"  # it cannot be ended for now


@dataclass(frozen=True, kw_only=True, slots=True)
class Living:
    """One credential, as its verifier knows it."""

    lease_id: str
    scope: str
    agent: str
    until: datetime
    revocability: Revocability
    secrets: tuple[Secret, ...]


@dataclass(kw_only=True, slots=True)
class Backend:
    """`now`: the time of whoever verifies."""

    now: Callable[[], datetime]
    values: dict[str, Mapping[str, str]] = field(default_factory=dict)  # scope → what its credentials hold
    _alive: dict[str, Living] = field(default_factory=dict)
    _failing: dict[tuple[str, Failure], int] = field(default_factory=dict)  # how often still

    def clear(self) -> None:
        """As at the start."""
        self._alive.clear()
        self._failing.clear()
        self.values.clear()

    def fail(self, scope: str, how: Failure, times: int) -> None:
        """From now on, so many times."""
        self._failing[scope, how] = times

    def fails(self, scope: str, how: Failure) -> bool:
        """Does it this time?"""
        left = self._failing.get((scope, how), 0)
        self._failing[scope, how] = max(0, left - 1)
        return left > 0

    def land(self, ref: LeaseRef, secrets: tuple[Secret, ...]) -> None:
        """It works from now on."""
        self._alive[ref.lease_id] = Living(
            lease_id=ref.lease_id,
            scope=ref.scope,
            agent=ref.agent,
            until=ref.expires_at,
            revocability=ref.revocability,
            secrets=secrets,
        )

    def kill(self, lease_id: str) -> None:
        """It works no more."""
        self._alive.pop(lease_id, None)

    def lives(self, lease_id: str) -> bool:
        """Would it be let in now? Whoever verifies enforces its end."""
        found = self._alive.get(lease_id)
        return found is not None and self.now() < found.until

    def alive(self) -> list[Living]:
        """All that would be let in now, in the order of their mints."""
        return [one for one in self._alive.values() if self.lives(one.lease_id)]

    def accepts(self, value: str) -> bool:
        """Is this a secret of a credential that is alive?"""
        given = value.encode()
        return any(
            hmac.compare_digest(secret.reveal().encode(), given) for one in self.alive() for secret in one.secrets
        )
