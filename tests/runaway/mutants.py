"""The daemon with a guard that forgets something: whoever claims to see one mint too many must see these."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from broker.guard.guard import Guard
from broker.guard.verdicts import Admitted
from broker.leases import issuing
from broker.leases.ending import Ending
from broker.leases.halting import Halting
from broker.leases.issuing import Intended, Issuing
from broker.model import Lease, LeaseState

LATER = 0.2  # seconds


def uncharged() -> None:
    """Asked, and told nothing of what it admitted."""

    def admit(self: Guard, tx: Any, ask: Any, *, lease_id: str, now: Any) -> Any:
        return self.look(tx, ask, now)

    setattr(Guard, "admit", admit)  # noqa: B010 - deliberate: this process is the mutant


def new_attempt_new_budget() -> None:
    """The attempt, and the certificate that opened it, are in the budget's key."""
    ask_of = issuing._ask

    def ask(step: Any, allowed: Any) -> Any:
        asked = ask_of(step, allowed)
        own = f"{asked.key} {step.attempt} {step.certificate.spki_sha256}"
        return replace(asked, key=hashlib.sha256(own.encode()).hexdigest())

    setattr(issuing, "_ask", ask)  # noqa: B010


def charged_later(wait: float = LATER) -> None:
    """In a transaction of its own, when there is time for it."""
    admit_now, intend = Guard.admit, Issuing._admitted
    owed: dict[str, tuple[Any, Any]] = {}

    def admit(self: Guard, tx: Any, ask: Any, *, lease_id: str, now: Any) -> Any:
        verdict = self.look(tx, ask, now)
        if not isinstance(verdict, Admitted):
            return admit_now(self, tx, ask, lease_id=lease_id, now=now)
        owed[lease_id] = ask, now
        return verdict

    async def admitted(self: Any, *asked: Any) -> Any:
        result = await intend(self, *asked)
        if isinstance(result, Intended) and (lease_id := result.lease.id) in owed:
            ask, now = owed.pop(lease_id)
            await asyncio.sleep(wait)
            await self._core.store.write(lambda tx: admit_now(self._core.guard, tx, ask, lease_id=lease_id, now=now))
        return result

    setattr(Guard, "admit", admit)  # noqa: B010
    setattr(Issuing, "_admitted", admitted)  # noqa: B010


def doubts_given_back() -> None:
    """Also of a mint that had landed."""
    end = Ending._end

    async def ended(self: Any, lease: Lease, state: LeaseState, evidence: Any) -> None:
        await end(self, lease, state, evidence)
        if lease.state is LeaseState.IN_DOUBT:
            await self._core.store.write(lambda tx: self._core.guard.give_back(tx, lease))

    setattr(Ending, "_end", ended)  # noqa: B010


def told_later() -> None:
    """Who is locked is journalled, and alarmed of, in a transaction of its own."""
    tell, admit = Halting._tell, Issuing._admitted
    owed: list[Callable[[Any], None]] = []

    def told(self: Any, _: Any, *args: Any, **more: Any) -> None:
        owed.append(lambda tx: tell(self, tx, *args, **more))

    async def admitted(self: Any, *asked: Any) -> Any:
        result = await admit(self, *asked)
        while owed:
            await self._core.store.write(owed.pop())
        return result

    setattr(Halting, "_tell", told)  # noqa: B010
    setattr(Issuing, "_admitted", admitted)  # noqa: B010


MUTANTS: dict[str, Callable[[], None]] = {
    "uncharged": uncharged,
    "new-attempt-new-budget": new_attempt_new_budget,
    "charged-later": charged_later,
    "told-later": told_later,
    "doubts-given-back": doubts_given_back,
}
