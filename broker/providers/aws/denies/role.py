"""One role's denies in one epoch: who may rely on them, and how each end stands."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from enum import Enum

import structlog

from broker.clock import Clock
from broker.errors import StoreError
from broker.model import JsonValue, Revocability
from broker.providers.aws.denies.ages import KEEP_AFTER, Age, age
from broker.providers.aws.denies.book import Book, Lack, Place
from broker.providers.aws.denies.contents import Contents, Entry, Offer
from broker.providers.aws.denies.iam import IamCall
from broker.providers.aws.denies.looking import LOOK_AGAIN, Looking, Names
from broker.providers.aws.denies.policy import ISSUED_WITHIN, Cut, entries_in
from broker.providers.aws.denies.writer import Writer
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import ISSUED_AT, LeaseRef, MintRefused, NoRoom, ProviderError, Room

log = structlog.get_logger(__name__)

LOOK_LIMIT = 10.0  # seconds that a mint waits for what IAM says of its role
SECOND = timedelta(seconds=1)
SEE_AGAIN = timedelta(seconds=LOOK_AGAIN)  # until it is seen whether a deny is still there: others change a role, too
FULL_AGAIN = timedelta(seconds=60)  # until whoever found no room looks again
SHORTEST_SESSION = timedelta(seconds=900)
# A mint in doubt was sent within seconds of its intent; if its process slept in between, nobody got the session.
LATEST_ISSUE = timedelta(minutes=5)


class Denied(Enum):
    """What became of an entry; the names are what the journal says."""

    DENY_WRITTEN = "DENY_WRITTEN"
    DENY_UNSURE = "DENY_UNSURE"  # written or found, but a late write may still undo it: looked at again
    DENY_LIST_FULL = "DENY_LIST_FULL"  # nothing written; the lease dies at its bound
    ROLE_CUT_OFF = "ROLE_CUT_OFF"  # denied with all older sessions of its role
    WAITING_FOR_BOUND = "WAITING_FOR_BOUND"  # too late for a deny to be quicker


@dataclass(frozen=True, kw_only=True, slots=True)
class DenyResult:
    """Where a lease's deny stands; `policy` and `at` only when it is written, `again` when it is to be asked again.

    `asked`: IAM was, and answered; else it is as it is remembered.
    """

    state: Denied
    policy: str = ""
    at: datetime | None = None
    again: timedelta | None = None
    cut: Cut | None = None
    asked: bool = field(default=False, compare=False)


def issued_of(ref: LeaseRef) -> datetime:
    """When its session was issued, at the latest."""
    for name, earlier in ((ISSUED_AT, timedelta(0)), ("session_expires_at", SHORTEST_SESSION)):
        if (at := _date(ref.refs.get(name))) is not None:
            return at - earlier
    return ref.intent_at + LATEST_ISSUE


def relies(ref: LeaseRef, block: AwsBlock) -> bool:
    """Does this lease promise that its session can be denied?"""
    return ref.revocability is Revocability.DENY_POLICY and block.revoke != "bound"


class RoleDenies:
    """Of one role in one epoch."""

    def __init__(
        self,
        *,
        iam: IamCall,
        block: AwsBlock,
        names: Names,
        settings: AwsSettings,
        clock: Clock,
        heard: Callable[[], datetime | None],
        open_leases: Callable[[], Awaitable[Sequence[LeaseRef]]],
    ) -> None:
        self._arn = block.role_arn
        self._epoch = names.epoch
        self._clock = clock
        self._heard = heard
        self._open_leases = open_leases
        self._book = Book(settings.deny_share)
        self._seeding: asyncio.Task[None] | None = None
        self._is_seeded = False
        self._looking = Looking(
            iam=iam, block=block, names=names, clock=clock, unbounded=settings.accept_unbounded_roles
        )
        self._contents = Contents(self._book, self._is_found)
        self._writer = Writer(
            iam=iam,
            role=block.role_name,
            policy=names.own,
            looking=self._looking,
            contents=self._contents,
            clock=clock,
            age=self._age,
            offer=self._offer,
        )

    # --- before a mint ---

    async def reserve(self, block: AwsBlock, ref: LeaseRef) -> None:
        """See `DenyList.reserve`."""
        try:
            async with asyncio.timeout(LOOK_LIMIT):
                now = self._age()
                problem = await self._looking.look(now) if self._looking.due(now) else None
                seeded = problem is None and await self._seeded()
        except TimeoutError:
            raise MintRefused("IAM did not say in time what is on the role") from None
        if problem is not None:
            raise MintRefused(problem.text, problem.contact)
        if not seeded:
            raise MintRefused("the store did not say which leases of the role are alive")
        if self._looking.unfit:
            raise MintRefused(self._looking.unfit)
        self._book.sweep(self._age())
        if ref.lease_id in self._book:
            return
        lack = self._book.lack(ref.agent, self._capacity())
        if lack is None:
            self._book.hold(ref.lease_id, Place(agent=ref.agent, bound=ref.expires_at))
        elif block.when_full != "cutoff":
            raise MintRefused(lack.value)

    def release(self, lease_id: str) -> None:
        """Nothing was minted."""
        self._book.free(lease_id)

    def no_room(self, block: AwsBlock, agent: str) -> NoRoom | None:
        """See `DenyList.no_room`."""
        now = self._age()
        if not self._looking.known or self._looking.due(now):  # the mint looks, and decides
            return None
        if self._looking.unfit:
            return NoRoom(why=self._looking.unfit, after=timedelta(seconds=LOOK_AGAIN))
        self._book.sweep(now)
        lack = None if block.when_full == "cutoff" else self._book.lack(agent, self._capacity())
        if lack is None:
            return None
        return NoRoom(why=lack.value, after=self._book.free_in(now, agent if lack is Lack.SHARE else ""))

    def taken(self) -> Room | None:
        """Places; None before the first look."""
        if not self._looking.known:
            return None
        self._book.sweep(self._age())
        return Room(taken=len(self._book), places=self._capacity())

    # --- the end ---

    async def deny(self, block: AwsBlock, ref: LeaseRef, *, may_cut: bool) -> DenyResult:
        """See `DenyList.deny`."""
        entry = Entry(agent=ref.agent, issued=issued_of(ref), bound=ref.expires_at)
        now = self._age()
        stands, late = self._stands(ref.lease_id, entry), now.too_late(entry.bound)
        stale = self._writer.stale or self._looking.due(now)
        if stands is not None and (late or not stale):
            return stands
        if late:
            return DenyResult(state=Denied.WAITING_FOR_BOUND)
        # What a predecessor's list denies takes no place: so that is looked at before those who live get theirs.
        if not self._looking.known and (problem := await self._looking.look(now)) is not None:
            raise ProviderError(problem.text, problem.contact)
        await self._seeded()  # without it the write takes room that others reserved: better than no write
        cut = may_cut and block.when_full == "cutoff"
        problem = await self._writer.write(ref.lease_id, entry)
        if problem is None and cut and self._stands(ref.lease_id, entry) is None:
            problem = await self._writer.write(ref.lease_id, entry, cut=True)
        if (stands := self._stands(ref.lease_id, entry)) is not None:
            return replace(stands, asked=problem is None)
        if problem is not None:
            raise ProviderError(problem.text, problem.contact)
        if doubt := self._writer.doubt():
            return DenyResult(state=Denied.DENY_UNSURE, again=timedelta(seconds=doubt))
        if self._age().too_late(entry.bound):  # by now
            return DenyResult(state=Denied.WAITING_FOR_BOUND)
        return DenyResult(state=Denied.DENY_LIST_FULL, again=self._room_in(entry, cut=cut))

    async def settled(self) -> None:
        """Wait for what is under way."""
        await self._writer.settled()
        await self._looking.settled()

    def _stands(self, lease_id: str, entry: Entry) -> DenyResult | None:
        """How it stands by what is known; None: it has to be written."""
        policy = self._writer.policy
        if (sure := self._writer.cut_off(entry)) is not None:
            return DenyResult(state=Denied.ROLE_CUT_OFF, policy=policy, at=sure[1], cut=sure[0], again=SEE_AGAIN)
        if (at := self._writer.written(lease_id)) is not None:
            return DenyResult(state=Denied.DENY_WRITTEN, policy=policy, at=at, again=SEE_AGAIN)
        found = self._looking.found(lease_id, entry.issued, entry.bound)
        if found is None:
            return None
        if found.wait:
            return DenyResult(state=Denied.DENY_UNSURE, again=timedelta(seconds=found.wait))
        state = Denied.DENY_WRITTEN if found.cut is None else Denied.ROLE_CUT_OFF
        return DenyResult(state=state, policy=found.policy, at=found.at, cut=found.cut, again=SEE_AGAIN)

    def _room_in(self, entry: Entry, *, cut: bool) -> timedelta:
        """Until it is worth asking again; for one that may cut off the rest, when it is old enough and the next may be."""
        now = self._age()
        again = min(FULL_AGAIN, self._book.free_in(now))
        soon = max(self._writer.cut_in(), entry.issued + ISSUED_WITHIN + SECOND - now.at)
        return min(again, soon) if cut and soon > timedelta(0) else again

    # --- what they stand on ---

    def _age(self) -> Age:
        return age(self._heard(), self._clock.now())

    def _capacity(self) -> int:
        return entries_in(self._looking.room, cut=self._contents.cut is not None)

    def _is_found(self, lease_id: str, entry: Entry) -> bool:
        return self._looking.found(lease_id, entry.issued, entry.bound) is not None

    async def _seeded(self) -> bool:
        """Once: every lease of an earlier epoch that is alive and not denied by a predecessor's list holds a place."""
        if self._is_seeded:
            return True
        if self._seeding is None or self._seeding.done():
            self._seeding = asyncio.create_task(self._seed())
        await asyncio.shield(self._seeding)
        return self._is_seeded

    async def _seed(self) -> None:
        try:
            live = await self._live()
        except StoreError:
            return
        except Exception:  # whatever it is, no deny may fail for it
            log.exception("which leases of a role are alive cannot be read", role=self._arn)
            return
        for ref in live:
            if ref.epoch < self._epoch and not self._is_found(ref.lease_id, _entry(ref)):
                self._book.hold(ref.lease_id, Place(agent=ref.agent, bound=ref.expires_at))
        self._is_seeded = True

    async def _live(self) -> list[LeaseRef]:
        """Those of this role that rely on it. There may be thousands of others: their blocks are not read (10 us each, measured)."""
        mine = [ref for ref in await self._open_leases() if ref.params.get("role_arn") == self._arn]
        return [ref for ref in mine if (block := block_of(ref.params)) is not None and relies(ref, block)]

    async def _offer(self) -> Offer | None:
        """A cut-off at AWS's own time: sessions that are issued from now on are untouched."""
        heard, clock = self._heard(), self._clock.now()
        if heard is None or heard > clock + KEEP_AFTER:  # not AWS's: sessions that are yet to come would be cut off
            return None
        try:
            live = {ref.lease_id: _entry(ref) for ref in await self._live()}
        except StoreError:
            return None
        bounds = [entry.bound for entry in (*live.values(), *self._contents.wanted.values())]
        until = max(bounds, default=heard) + SECOND
        return Offer(cut=Cut(before=heard.replace(microsecond=0), until=until.replace(microsecond=0)), live=live)


def _entry(ref: LeaseRef) -> Entry:
    return Entry(agent=ref.agent, issued=issued_of(ref), bound=ref.expires_at)


def _date(value: JsonValue) -> datetime | None:
    try:
        return datetime.fromisoformat(value) if isinstance(value, str) else None
    except ValueError:
        return None
