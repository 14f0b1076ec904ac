"""What is on a role beside this epoch's own policy: its other inline policies, and the predecessors' lists."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from broker.clock import Clock
from broker.model import JsonValue
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.ages import Age
from broker.providers.aws.denies.iam import IamCall, Problem, missing, policy_names, problem_of, safe
from broker.providers.aws.denies.policy import Cut, Held, held_in, size_of
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.base import Contact

log = structlog.get_logger(__name__)

ROLE_CHARACTERS = 10_240  # AWS's limit on all inline policies of a role together
LOOK_AGAIN = 600.0  # seconds: others change a role, too
RETRY = 60.0  # seconds, before a look that is due for something else than its age
FAILED_PAUSE = 2.0  # seconds after a look that failed: not each mint of the role asks an IAM in trouble
LATE_WRITE_SECONDS = 60.0  # after a write of unknown outcome, until it can no longer land

UNBOUNDED = (
    "the role has no permissions boundary, and the broker may write its policies: give it one, "
    "or set accept_unbounded_roles"
)
UNWRITABLE = "the broker may not write the role's policies: IAM refused PutRolePolicy"
ANOTHER_ACCOUNT = "the role is in another account than the broker's own: its sessions cannot be denied"


@dataclass(frozen=True, kw_only=True, slots=True)
class Names:
    """What the policies of this installation are called."""

    prefix: str  # of the deny lists: the epoch's number follows, and whose list it is
    epoch: int
    writer: str  # of this process: a copy of its database counts the same epochs
    recovery: str  # what `recover` writes

    @property
    def own(self) -> str:
        return f"{self.prefix}{self.epoch}-{self.writer}"

    def is_older(self, name: str) -> bool:
        """A predecessor's list, or that of another process that took the same epoch?"""
        epoch, _, writer = name.removeprefix(self.prefix).partition("-")
        theirs = epoch.isdecimal() and (int(epoch) < self.epoch or (int(epoch) == self.epoch and bool(writer)))
        return name.startswith(self.prefix) and name != self.own and theirs


def names_of(installation: str, epoch: int, writer: str) -> Names:
    """By the first 8 characters of the installation's id."""
    some = installation[:8]
    return Names(prefix=f"stepcred-deny-{some}-", epoch=epoch, writer=writer, recovery=recovery_policy(installation))


def recovery_policy(installation: str) -> str:
    """What `recover` writes on each role."""
    return f"stepcred-cutoff-{installation[:8]}"


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """A session that a predecessor's list denies. `wait`: seconds until that can no longer be undone by a late write."""

    policy: str
    at: datetime
    wait: float
    cut: Cut | None = None  # by this, and not by name


@dataclass(frozen=True, kw_only=True, slots=True)
class _Older:
    """A predecessor's list, and since when each of its parts is seen in it."""

    held: Held
    names: Mapping[str, tuple[float, datetime]]
    cut: tuple[float, datetime]


class Looking:
    """One role, as this epoch sees it. Concurrent looks are one."""

    def __init__(self, *, iam: IamCall, block: AwsBlock, names: Names, clock: Clock, unbounded: bool) -> None:
        self._iam = iam
        self._arn, self._role = block.role_arn, block.role_name
        self._names = names
        self._clock = clock
        self._unbounded = unbounded  # roles without a permissions boundary are accepted
        self._began = float("-inf")  # monotonic: the last whole look
        self._tried = float("-inf")  # and the last one of all
        self._recount = False
        self._others: dict[str, int] = {}  # name → characters
        self._ours: dict[str, Held] = {}  # those of them that are ours to delete once they are over
        self._older: dict[str, _Older] = {}
        self._task: asyncio.Task[Problem | None] | None = None
        self._failed: tuple[Problem, float] | None = None  # what the last look came to, and when
        self._bounded = True
        self._unwritable = False

    @property
    def known(self) -> bool:
        """It was looked at, and is the right role."""
        return self._began > float("-inf")

    @property
    def unfit(self) -> str:
        """Why no lease on it can promise to be denied, in constant text; "" = it can."""
        return UNWRITABLE if self._unwritable else "" if self._bounded else UNBOUNDED

    @property
    def room(self) -> int:
        """Characters for this epoch's own policy."""
        return ROLE_CHARACTERS - sum(self._others.values())

    def writable(self, *, yes: bool) -> None:
        """Whether IAM lets its policies be written, as the last write showed; believed until the next look."""
        if not yes and not self._unwritable:
            log.error("no session of a role is ended early: IAM refuses the broker PutRolePolicy", role=self._arn)
        self._unwritable = not yes

    def recount(self) -> None:
        """IAM says that there is less room than was thought."""
        self._recount = True

    def due(self, now: Age) -> bool:
        """Is another look needed?"""
        clock = self._clock.monotonic()
        if self._recount or clock - self._began >= LOOK_AGAIN:
            return True
        doubtful = any(clock >= since for since in self._unsure())
        over = any(now.over(held.until) for held in self._ours.values())
        return (doubtful or over) and clock - self._tried >= RETRY

    async def look(self, now: Age) -> Problem | None:
        """See all of it, and delete what is over. What is known stays known when it fails."""
        begins = self._task is None or self._task.done()
        if begins and self._failed is not None and self._clock.monotonic() < self._failed[1] + FAILED_PAUSE:
            return replace(self._failed[0], contact=Contact.NOT_ASKED)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._surely(now))
        problem = await asyncio.shield(self._task)
        # One look is one answer, however many waited for it.
        return problem if begins or problem is None else replace(problem, contact=Contact.NOT_ASKED)

    def found(self, lease_id: str, issued: datetime, bound: datetime) -> Found | None:
        """Does a predecessor's list deny this session already?"""
        for name, older in self._older.items():
            seen, cut = older.names.get(lease_id), older.held.cut
            if seen is not None:
                return Found(policy=name, at=seen[1], wait=self._wait(seen[0]))
            if cut is not None and cut.covers(issued, bound):
                return Found(policy=name, at=older.cut[1], wait=self._wait(older.cut[0]), cut=cut)
        return None

    async def settled(self) -> None:
        """Wait for the look under way."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    def _wait(self, since: float) -> float:
        settled = since + LATE_WRITE_SECONDS
        return 0.0 if self._began >= settled else max(1.0, settled - self._clock.monotonic())

    def _unsure(self) -> list[float]:
        """Monotonic times from which on a look would settle what is in a predecessor's list."""
        since = {seen[0] for older in self._older.values() for seen in older.names.values()}
        since |= {older.cut[0] for older in self._older.values() if older.held.cut is not None}
        return [each + LATE_WRITE_SECONDS for each in since if self._began < each + LATE_WRITE_SECONDS]

    async def _surely(self, now: Age) -> Problem | None:
        problem = await self._look(now)
        self._failed = None if problem is None else (problem, self._clock.monotonic())
        return problem

    async def _look(self, now: Age) -> Problem | None:
        begun = self._tried = self._clock.monotonic()
        # IAM writes in the caller's own account only: a namesake there must not be taken for the role.
        answer = await self._iam("get_role", RoleName=self._role)
        if isinstance(answer, Failure):
            return problem_of(answer, "IAM refused GetRole")
        role = answer.get("Role", {})
        if role.get("Arn") != self._arn:
            return Problem(text=ANOTHER_ACCOUNT, contact=Contact.ANSWERED)
        names = await policy_names(self._iam, self._role)
        if isinstance(names, Failure):
            return problem_of(names, "IAM refused ListRolePolicies")
        held: dict[str, Mapping[str, JsonValue]] = {}
        for name in names:
            if name == self._names.own:
                continue
            one = await self._iam("get_role_policy", RoleName=self._role, PolicyName=name)
            if not isinstance(one, Failure):
                held[name] = one
            elif not missing(one):
                return problem_of(one, "IAM refused GetRolePolicy")
        self._take(held)
        self._bounded = self._unbounded or bool(role.get("PermissionsBoundary"))
        self._unwritable = False
        self._began, self._recount = begun, False
        await self._sweep(now)
        return None

    def _take(self, held: Mapping[str, Mapping[str, JsonValue]]) -> None:
        seen = (self._clock.monotonic(), self._clock.now())
        self._others = {name: size_of(one) for name, one in held.items()}
        older, self._ours = self._older, {}
        self._older = {}
        for name, one in held.items():
            if not self._names.is_older(name) and name != self._names.recovery:
                continue
            self._ours[name] = now = held_in(one)
            if name == self._names.recovery:
                continue
            before = older.get(name)
            first = {} if before is None else before.names
            same_cut = before is not None and before.held.cut == now.cut
            self._older[name] = _Older(
                held=now,
                names={lease_id: first.get(lease_id, seen) for lease_id in now.names},
                cut=before.cut if before is not None and same_cut else seen,
            )

    async def _sweep(self, now: Age) -> None:
        """Delete predecessors' policies whose sessions are all past their bound. Failing at it stops nothing."""
        for name in [name for name, held in self._ours.items() if now.over(held.until)]:
            answer = await self._iam("delete_role_policy", RoleName=self._role, PolicyName=name)
            if isinstance(answer, Failure) and not missing(answer):
                log.warning("an old deny list could not be deleted", policy=name, code=safe(answer))
                continue
            for table in (self._ours, self._others, self._older):
                table.pop(name, None)
