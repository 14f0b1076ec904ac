"""What the broker cannot see: backend, wire and verifier, on a true clock of their own."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from broker.model import Evidence, VaultToken
from broker.providers.base import (
    Contact,
    LeaseRef,
    Minted,
    MintInDoubt,
    MintOrder,
    MintRefused,
    Progress,
    ProviderError,
    Settlement,
)
from broker.secret import Secret
from tests.fakes.clock import START, FakeClock

REQUEST_LIMIT = 90.0  # seconds; a create that was sent lands within, or never
MINT_TIMEOUT = 10.0


class TrueClock(FakeClock):
    """Counts what really elapsed, whatever wall and boot time say."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed = 0.0

    def suspend(self, seconds: float) -> None:
        self.elapsed += seconds
        super().suspend(seconds)

    @property
    def truth(self) -> datetime:
        """The time of day, as verifiers have it."""
        return START + timedelta(seconds=self.elapsed)


@dataclass(kw_only=True)
class Sent:
    """A create on its way."""

    order: MintOrder
    dies_at: datetime  # of what it makes, by the verifier's clock
    at: float  # elapsed seconds
    lands_until: float  # elapsed seconds
    answer: asyncio.Future[bool]  # did it make anything


@dataclass(frozen=True, kw_only=True)
class Alive:
    """A credential that works."""

    agent: str
    request: str
    born_at: datetime
    dies_at: datetime


@dataclass
class Outside:
    """Survives every crash of the broker."""

    clock: TrueClock
    up: bool = True
    proves: bool = True  # False: a revocation is taken, and nothing is seen dead
    how: str = "answer"  # what happens to the next create
    made: dict[str, Alive] = field(default_factory=dict)
    mints: list[str] = field(default_factory=list)  # every create that landed
    born: dict[str, Sent] = field(default_factory=dict)  # the same, as they were ordered
    occupied: set[str] = field(default_factory=set)
    sent: dict[str, Sent] = field(default_factory=dict)

    def alive(self) -> dict[str, Alive]:
        """What a verifier would still take, by lease id."""
        return {lease_id: one for lease_id, one in self.made.items() if self.clock.truth < one.dies_at}

    def landing(self) -> list[str]:
        """Creates that may still land."""
        self.sent = {lease_id: one for lease_id, one in self.sent.items() if self.clock.elapsed <= one.lands_until}
        return list(self.sent)

    def land(self, lease_id: str) -> None:
        """A create arrives; its id may have been occupied meanwhile."""
        sent = self.sent.pop(lease_id)
        taken = lease_id in self.occupied or lease_id in self.made
        if not taken:
            self.mints.append(lease_id)
            self.born[lease_id] = sent
            request = sent.order.ref.lease_id
            self.made[lease_id] = Alive(
                agent=sent.order.agent, request=request, born_at=self.clock.truth, dies_at=sent.dies_at
            )
        if not sent.answer.done():
            sent.answer.set_result(not taken)


class Remote:
    """`Provider` and `SettlesDoubt` over the outside. `timed`: only time ends what it mints."""

    def __init__(self, outside: Outside, *, name: str, timed: bool) -> None:
        self.name = name
        self.landing_seconds = REQUEST_LIMIT
        self._outside = outside
        self._timed = timed
        self._heard: tuple[datetime, float] | None = None

    def time_heard(self) -> datetime | None:
        if self._heard is None:
            return None
        date, at = self._heard
        return date + timedelta(seconds=self._outside.clock.boottime() - at)

    async def mint(self, order: MintOrder) -> Minted:
        outside = self._outside
        if not outside.up:
            raise MintRefused("cannot be reached")
        how, outside.how = outside.how, "answer"
        if how == "refuse":
            raise MintRefused("refused")
        if how == "lose-request":
            raise MintInDoubt("no answer")
        sent = self._send(order)
        await asyncio.sleep(0)
        if how in {"answer", "lose-answer"}:
            outside.land(order.ref.lease_id)
        try:
            async with asyncio.timeout(MINT_TIMEOUT):
                made = await sent.answer
        except TimeoutError:
            raise MintInDoubt("no answer") from None
        await asyncio.sleep(0)
        if not made or how == "lose-answer":
            raise MintInDoubt("no answer")
        self._answered()
        return Minted(credential=VaultToken(token=Secret(secret_of(order.ref.lease_id)), address="outside://"))

    def _send(self, order: MintOrder) -> Sent:
        """A token's life is counted by the server from its making; a session's bound is absolute."""
        outside, ref = self._outside, order.ref
        life = ref.expires_at - outside.clock.now()
        sent = Sent(
            order=order,
            dies_at=ref.expires_at if self._timed else outside.clock.truth + life,
            at=outside.clock.elapsed,
            lands_until=outside.clock.elapsed + REQUEST_LIMIT,
            answer=asyncio.get_running_loop().create_future(),
        )
        outside.sent[ref.lease_id] = sent
        return sent

    async def revoke(self, ref: LeaseRef) -> Progress:
        await self._reach()
        if self._timed:
            self._answered()
            return Progress(step="WAITS")
        if not self._outside.proves:
            return Progress(step="SENT")
        self._outside.made.pop(ref.lease_id, None)
        await asyncio.sleep(0)
        self._answered()
        return Progress(evidence=Evidence.SEEN_DEAD)

    async def probe(self, ref: LeaseRef) -> Evidence | None:
        await self._reach()
        return None if ref.lease_id in self._outside.alive() else Evidence.SEEN_DEAD

    async def settle(self, ref: LeaseRef, *, final: bool) -> Settlement:
        await self._reach()
        if self._timed:
            self._answered()
            return Settlement(found=False)
        found = ref.found or ref.lease_id in self._outside.made
        if found and not ref.found:
            self._answered()
            return Settlement(found=True)
        self._outside.made.pop(ref.lease_id, None)
        self._outside.occupied.add(ref.lease_id)
        await asyncio.sleep(0)
        self._answered()
        evidence = (Evidence.SEEN_DEAD if found else Evidence.NOT_MINTED) if final else None
        return Settlement(found=found, evidence=evidence)

    async def check(self) -> list[str]:
        if self._outside.up:
            self._answered()
        return []

    async def close(self) -> None:
        return None

    async def _reach(self) -> None:
        await asyncio.sleep(0)
        if not self._outside.up:
            raise ProviderError("cannot be reached", Contact.NONE)

    def _answered(self) -> None:
        self._heard = (self._outside.clock.truth, self._outside.clock.boottime())


def secret_of(lease_id: str) -> str:
    return f"secret-of-{lease_id}"
