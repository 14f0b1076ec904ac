"""The single writer of one policy: what is in it, and what may be claimed of it.

1. One write at a time, for everybody who asks meanwhile; a new one begins a moment after the last.
2. A write that lands late takes away at most what was sent after it (`Contents`). Hence after a write of unknown
   outcome nothing that was not sure before is claimed, until a look that began when it could no longer land.
3. A claim needs the policy to be read back, also after a 200: some other writer of the role may have undone it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import datetime, timedelta

import structlog

from broker.clock import Clock
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.ages import Age
from broker.providers.aws.denies.contents import Contents, Draft, Entry, Offer
from broker.providers.aws.denies.iam import IamCall, Problem, missing, problem_of, refused_write
from broker.providers.aws.denies.looking import LATE_WRITE_SECONDS, LOOK_AGAIN, Looking
from broker.providers.aws.denies.policy import Cut, Held, deny_policy, held_in
from broker.providers.base import Contact

log = structlog.get_logger(__name__)

PACE = 0.5  # seconds between two writes of a role's policy: IAM limits the rate of writes of an account
SLOWEST = 32.0  # seconds: after throttled writes the pace is doubled up to it
DOUBT_LOOK = 10.0  # seconds, while a late write may land: what it takes away is seen, and written again
PATIENCE = 2.0  # seconds that callers are kept waiting for the pace
CUT_EVERY = 60.0  # seconds: a cut-off ends everybody's sessions


class Writer:
    """Of one role's policy in one epoch."""

    def __init__(
        self,
        *,
        iam: IamCall,
        role: str,
        policy: str,
        looking: Looking,
        contents: Contents,
        clock: Clock,
        age: Callable[[], Age],
        offer: Callable[[], Awaitable[Offer | None]],
    ) -> None:
        self._iam = iam
        self._role = role
        self.policy = policy
        self._looking = looking
        self._contents = contents
        self._clock = clock
        self._age = age
        self._offer = offer
        self._held = Held()  # what the policy says, as last read
        self._unread = False  # it was written since
        self._read_at = float("inf")  # monotonic seconds, as all of these; never: nothing is claimed of it
        self._sure: dict[str, datetime] = {}  # lease id → since when it is denied by name
        self._cut_sure: tuple[Cut, datetime] | None = None
        self._cut_asked = False
        self._next_cut = float("-inf")
        self._doubt_until: float | None = None  # a late write may still land
        self._not_before = float("-inf")
        self._pause = PACE
        self._task: asyncio.Task[Problem | None] | None = None
        self._gathering = False  # the write under way has not begun: it takes whoever comes

    # --- what is known ---

    def written(self, lease_id: str) -> datetime | None:
        """Since when this session is surely denied by name."""
        return self._sure.get(lease_id)

    def cut_off(self, entry: Entry) -> tuple[Cut, datetime] | None:
        """The cut-off that surely denies this session, and since when."""
        sure = self._cut_sure
        return sure if sure is not None and sure[0].covers(entry.issued, entry.bound) else None

    @property
    def stale(self) -> bool:
        """It was read so long ago that somebody may have undone it."""
        return self._clock.monotonic() >= self._read_at + LOOK_AGAIN

    def doubt(self) -> float:
        """Seconds until it is worth looking again what a write of unknown outcome came to; zero: there is none."""
        if self._doubt_until is None:
            return 0.0
        return min(DOUBT_LOOK, max(1.0, self._doubt_until - self._clock.monotonic()))

    def cut_in(self) -> timedelta:
        """Until the next cut-off may be made."""
        return timedelta(seconds=max(0.0, self._next_cut - self._clock.monotonic()))

    # --- asking ---

    async def write(self, lease_id: str, entry: Entry, *, cut: bool = False) -> Problem | None:
        """Deny this session, or see how far that is. `cut`: if there is no room, by ending all that are older."""
        self._contents.want(lease_id, entry)
        if not self._gathering:
            await self.settled()  # it may have begun without this entry
        if (lease_id in self._sure and not self.stale) or self._can_only_wait(lease_id):
            return None
        # Not before: a wish that is left over would be granted to whoever writes next, and might not have it.
        self._cut_asked = self._cut_asked or cut
        begins = self._task is None or self._task.done()
        if self._task is None or self._task.done():
            self._gathering = True
            self._task = asyncio.create_task(self._write())
        # Not cancelled with its caller: two writers at once could undo each other.
        problem = await asyncio.shield(self._task)
        # One call is one answer, however many waited for it.
        return problem if begins or problem is None else replace(problem, contact=Contact.NOT_ASKED)

    async def settled(self) -> None:
        """Wait for the write under way, whatever it comes to."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _can_only_wait(self, lease_id: str) -> bool:
        """It is in the policy as last read, but a late write may still land."""
        late = self._doubt_until is not None and self._clock.monotonic() < self._doubt_until
        return late and not self._unread and not self._look_due() and lease_id in self._held.names

    # --- writing ---

    async def _write(self) -> Problem | None:
        try:
            problem = await self._ready()
            asked, self._cut_asked = self._cut_asked and self._clock.monotonic() >= self._next_cut, False
            offer = await self._offer() if asked and problem is None else None
        finally:
            self._gathering = False
        if problem is not None:
            return problem
        # 4. What should be in it? Nobody else runs from here until it is sent.
        draft = self._draft(offer)
        if not (draft.entries or draft.cut) or draft.is_in(self._held):
            return None
        # 5. One write for everybody who is waiting.
        return await self._put(draft)

    async def _ready(self) -> Problem | None:
        # 1. Not too often.
        wait = self._not_before - self._clock.monotonic()
        if wait > PATIENCE:
            return Problem(text="IAM limits the rate of writes: a deny waits", contact=Contact.NOT_ASKED)
        if wait > 0:
            await self._clock.sleep(wait)
        # 2. Is this the role that the scope means, and what else is on it?
        now = self._age()
        problem = await self._looking.look(now) if self._looking.due(now) else None
        if problem is not None and not self._looking.known:
            return problem
        # 3. What did the last write come to?
        return await self._read_back() if self._unread or self.stale or self._look_due() else None

    def _draft(self, offer: Offer | None) -> Draft:
        self._contents.sweep(self._age())
        room = self._looking.room
        draft = self._contents.draft(room)
        cut = self._contents.cut_off(room, offer, draft) if offer is not None and draft.waiting else None
        if cut is not None:
            self._next_cut = self._clock.monotonic() + CUT_EVERY
            draft = cut
            log.error("the older sessions of a role are cut off", policy=self.policy, waiting=draft.waiting)
        if draft.waiting:
            log.warning("deny list full", policy=self.policy, entries=len(draft.entries), waiting=draft.waiting)
        self._contents.take(draft)
        return draft

    async def _put(self, draft: Draft) -> Problem | None:
        text = deny_policy(draft.entries, draft.cut)
        answer = await self._iam("put_role_policy", RoleName=self._role, PolicyName=self.policy, PolicyDocument=text)
        failure = answer if isinstance(answer, Failure) else None
        self._mind_the_pace(slow=failure is not None and failure.throttled)
        if failure is not None and refused_write(failure):
            if failure.code == "LimitExceeded":  # somebody added a policy beside ours
                self._looking.recount()
            if failure.code == "AccessDenied":
                self._looking.writable(yes=False)
            return problem_of(failure, "IAM refused PutRolePolicy")
        self._contents.went(draft)
        self._unread = True
        if failure is not None:
            # It may have been written, or may be written yet: whoever asks is told to ask again.
            self._doubt_until = self._clock.monotonic() + LATE_WRITE_SECONDS
            return await self._read_back() or problem_of(failure, "a deny write is of unknown outcome")
        self._looking.writable(yes=True)
        if problem := await self._read_back():
            return problem
        self._unread = not draft.is_in(self._held)  # IAM may only be late to show it
        return Problem(text="a deny write was lost", contact=Contact.ANSWERED) if self._unread else None

    def _mind_the_pace(self, *, slow: bool) -> None:
        self._pause = min(SLOWEST, max(1.0, self._pause * 2)) if slow else PACE
        self._not_before = self._clock.monotonic() + self._pause

    def _look_due(self) -> bool:
        if self._doubt_until is None:
            return False
        return self._doubt_is_over() or self._clock.monotonic() >= self._read_at + DOUBT_LOOK

    def _doubt_is_over(self) -> bool:
        return self._doubt_until is not None and self._clock.monotonic() >= self._doubt_until

    async def _read_back(self) -> Problem | None:
        settles = self._doubt_is_over()
        answer = await self._iam("get_role_policy", RoleName=self._role, PolicyName=self.policy)
        if isinstance(answer, Failure) and not missing(answer):
            return problem_of(answer, "IAM did not say what a deny write came to")
        self._held = Held() if isinstance(answer, Failure) else held_in(answer)
        self._unread, self._read_at = False, self._clock.monotonic()
        if settles:
            self._doubt_until = None
        self._claim()
        return None

    def _claim(self) -> None:
        """What is surely so, by what was read just now."""
        at, names, cut, contents = self._clock.now(), self._held.names, self._held.cut, self._contents
        self._sure = {name: since for name, since in self._sure.items() if name in names or contents.covered(name, cut)}
        if self._cut_sure is not None and self._cut_sure[0] != cut:
            self._cut_sure = None
        if self._doubt_until is not None:
            return
        self._sure |= {name: self._sure.get(name, at) for name in names & contents.wanted.keys()}
        if cut is not None and cut == contents.cut:
            self._cut_sure = self._cut_sure or (cut, at)
            contents.cut_is_sure()
            self._sure = {name: since for name, since in self._sure.items() if name in contents.wanted}
