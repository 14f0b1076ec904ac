"""Ending one session early: an inline deny on its role that names it.

A role has one such policy per (installation, epoch), written by this process only, so that a paused older
broker cannot undo a newer one's denies: it writes another policy. A new epoch copies nothing: the
predecessor's policy goes on denying, and is deleted after its last bound, which the policy itself tells.

A deny takes AWS seconds to minutes to reach every region, so a written entry is progress, not evidence.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import Protocol, TypeAlias

import structlog

from broker.clock import Clock
from broker.model import LEASE_ID, JsonValue
from broker.providers.aws.block import AwsBlock
from broker.providers.aws.calls import Failure
from broker.providers.aws.denypolicy import deny_policy, entries_in, entries_of, size_of
from broker.providers.base import ProviderError

log = structlog.get_logger(__name__)

ROLE_CHARACTERS = 10_240  # AWS's limit on all inline policies of a role together
TOO_LATE = timedelta(seconds=60)  # a deny needs about that long to spread; the bound is then as quick
# SigV4 refuses callers whose clock is off by more than 5 min, so by then AWS's clock has passed the bound too.
KEEP_AFTER = timedelta(minutes=5)
LATE_WRITE_SECONDS = 60.0  # after a write of unknown outcome, until it can no longer land

# Answers after which the policy is certainly as it was.
_REFUSED_WRITES = frozenset(
    {"AccessDenied", "NoSuchEntity", "LimitExceeded", "MalformedPolicyDocument", "UnmodifiableEntity"}
)

Answer: TypeAlias = Mapping[str, JsonValue] | Failure


class IamCall(Protocol):
    """One IAM request in the revocation lane."""

    def __call__(self, operation: str, **parameters: JsonValue) -> Awaitable[Answer]: ...


class Denied(Enum):
    """What became of an entry; the names are what the journal says."""

    DENY_WRITTEN = "DENY_WRITTEN"
    DENY_LIST_FULL = "DENY_LIST_FULL"  # nothing written; the lease dies at its bound
    WAITING_FOR_BOUND = "WAITING_FOR_BOUND"  # too late for a deny to be quicker


@dataclass(frozen=True, kw_only=True, slots=True)
class DenyResult:
    """Where a lease's deny stands; `policy` and `at` only when it is written."""

    state: Denied
    policy: str = ""
    at: datetime | None = None


class DenyList:
    """The lists of all roles."""

    def __init__(self, *, iam: IamCall, installation: str, epoch: Callable[[], int], clock: Clock) -> None:
        self._iam = iam
        self._prefix = f"stepcred-deny-{installation[:8]}-"
        self._epoch = epoch
        self._clock = clock
        self._roles: dict[tuple[str, int], RoleDenies] = {}

    async def deny(self, block: AwsBlock, lease_id: str, until: datetime) -> DenyResult:
        """Deny the session of this lease until its bound. Idempotent.

        Raises ProviderError when it was not done, or is not sure yet: ask again.
        """
        if not LEASE_ID.fullmatch(lease_id):  # it becomes part of a pattern: "*" would deny everybody
            raise ProviderError("not a lease id")
        key = (block.role_arn, self._epoch())
        if key not in self._roles:
            self._roles[key] = RoleDenies(
                iam=self._iam, block=block, prefix=self._prefix, epoch=key[1], clock=self._clock
            )
        return await self._roles[key].deny(lease_id, until)

    async def close(self) -> None:
        """Let writes under way finish."""
        for role in self._roles.values():
            await role.settled()


class RoleDenies:
    """One role's list in one epoch: the single writer of one policy."""

    def __init__(self, *, iam: IamCall, block: AwsBlock, prefix: str, epoch: int, clock: Clock) -> None:
        self._iam = iam
        self._role_arn = block.role_arn
        self._role = block.role_name
        self._clock = clock
        self._prefix = prefix
        self._epoch = epoch
        self.policy = f"{prefix}{epoch}"
        self._wanted: dict[str, datetime] = {}  # lease id → bound
        self._written: dict[str, datetime] = {}  # lease id → when it was first seen in the policy
        self._writer: asyncio.Task[str] | None = None
        self._doubt_until: float | None = None  # monotonic seconds; a late write may still land
        self._known = False  # the role is the right one, and the policies beside ours are counted
        self._others: dict[str, int] = {}  # name → characters of the role's other inline policies
        self._older: dict[str, datetime] = {}  # predecessors' policies → their last bound

    async def deny(self, lease_id: str, until: datetime) -> DenyResult:
        """See `DenyList.deny`. Concurrent calls share one write."""
        if lease_id not in self._written and until - self._clock.now() < TOO_LATE:
            return DenyResult(state=Denied.WAITING_FOR_BOUND)
        self._wanted[lease_id] = until
        await self.settled()  # a write under way may have begun without this entry
        problem = ""
        if lease_id not in self._written or self._doubt_until is not None:
            if self._writer is None or self._writer.done():
                self._writer = asyncio.create_task(self._write())
            # Not cancelled with its caller: two writers at once could undo each other.
            problem = await asyncio.shield(self._writer)
        if self._doubt_until is not None:
            # Seen there now is not enough: a late write may still replace what was read.
            raise ProviderError(problem or "a deny write of unknown outcome is being read back")
        if lease_id in self._written:
            return DenyResult(state=Denied.DENY_WRITTEN, policy=self.policy, at=self._written[lease_id])
        if problem:
            raise ProviderError(problem)
        return DenyResult(state=Denied.DENY_LIST_FULL)

    async def settled(self) -> None:
        """Wait for the write under way, whatever it comes to."""
        if self._writer is not None and not self._writer.done():
            await asyncio.wait([self._writer])

    async def _write(self) -> str:
        """Bring the policy up to date. Returns what went wrong, in constant text; "" = nothing."""
        # 1. Is this the role that the scope means, and what else is on it?
        if problem := await self._look_around():
            return problem
        await self._sweep()
        # 2. After a write of unknown outcome only the policy itself tells what is in it.
        if self._doubt_until is not None and (problem := await self._read_back()):
            return problem
        # 3. What should be in it: entries live until their bound, new ones while there is room.
        entries = self._fitting()
        if entries.keys() <= self._written.keys():
            return ""
        # 4. One write for everybody who is waiting.
        answer = await self._iam(
            "put_role_policy", RoleName=self._role, PolicyName=self.policy, PolicyDocument=deny_policy(entries)
        )
        if not isinstance(answer, Failure):
            self._seen(entries)
            return ""
        if not answer.sent or answer.code in _REFUSED_WRITES:
            self._known = answer.code != "LimitExceeded"  # somebody added a policy beside ours: count again
            return f"IAM refused PutRolePolicy: {safe(answer)}"
        # 5. It may have been written, or may be written yet: whoever asks is told to ask again.
        self._doubt_until = self._clock.monotonic() + LATE_WRITE_SECONDS
        return await self._read_back() or ("" if entries.keys() <= self._written.keys() else "a deny write was lost")

    def _fitting(self) -> dict[str, datetime]:
        now = self._clock.now()
        keep = {name: -KEEP_AFTER if name in self._written else TOO_LATE for name in self._wanted}
        self._wanted = {name: until for name, until in self._wanted.items() if until - now > keep[name]}
        self._written = {name: at for name, at in self._written.items() if name in self._wanted}
        # Those already in stay; then the longest exposures first.
        order = sorted(self._wanted, key=lambda name: (name in self._written, self._wanted[name]), reverse=True)
        room = ROLE_CHARACTERS - sum(self._others.values())
        entries = {name: self._wanted[name] for name in order[: max(0, entries_in(room))]}
        if len(entries) < len(order):
            log.warning("deny list full", policy=self.policy, entries=len(entries), waiting=len(order) - len(entries))
        return entries

    def _seen(self, names: Iterable[str]) -> None:
        now = self._clock.now()
        self._written = {name: self._written.get(name, now) for name in names}

    async def _read_back(self) -> str:
        begun = self._clock.monotonic()
        answer = await self._iam("get_role_policy", RoleName=self._role, PolicyName=self.policy)
        if isinstance(answer, Failure) and not _missing(answer):
            return f"IAM did not say what a deny write came to: {safe(answer)}"
        names, until = entries_of({} if isinstance(answer, Failure) else answer)
        for name in names:
            self._wanted.setdefault(name, until)
        self._seen(names)
        if self._doubt_until is not None and begun >= self._doubt_until:
            self._doubt_until = None
        return ""

    async def _look_around(self) -> str:
        """Once: the role's account, its other inline policies, the predecessors' lists."""
        if self._known:
            return ""
        # IAM writes in the broker's own account only: a namesake there must not be taken for the role.
        answer = await self._iam("get_role", RoleName=self._role)
        if isinstance(answer, Failure):
            return f"IAM refused GetRole: {safe(answer)}"
        if answer.get("Role", {}).get("Arn") != self._role_arn:
            return "the role is in another account than the broker's own: its sessions cannot be denied"
        answer = await self._iam("list_role_policies", RoleName=self._role, MaxItems=1000)
        if isinstance(answer, Failure):
            return f"IAM refused ListRolePolicies: {safe(answer)}"
        self._others, self._older = {}, {}
        for name in answer.get("PolicyNames", ()):
            if name == self.policy:
                continue
            held = await self._iam("get_role_policy", RoleName=self._role, PolicyName=name)
            if isinstance(held, Failure) and _missing(held):
                continue
            if isinstance(held, Failure):
                return f"IAM refused GetRolePolicy: {safe(held)}"
            self._others[name] = size_of(held)
            epoch = name.removeprefix(self._prefix)
            if name.startswith(self._prefix) and epoch.isdecimal() and int(epoch) < self._epoch:
                self._older[name] = entries_of(held)[1]
        self._known = True
        return ""

    async def _sweep(self) -> None:
        """Delete predecessors' policies whose sessions are all past their bound. Failing at it stops no deny."""
        now = self._clock.now()
        for name in [name for name, until in self._older.items() if until + KEEP_AFTER < now]:
            answer = await self._iam("delete_role_policy", RoleName=self._role, PolicyName=name)
            if isinstance(answer, Failure) and not _missing(answer):
                log.warning("an old deny list could not be deleted", policy=name, code=safe(answer))
                continue
            del self._older[name]
            self._others.pop(name, None)


def _missing(failure: Failure) -> bool:
    return failure.status == 404 and failure.code == "NoSuchEntity"  # noqa: PLR2004 - HTTP's own number


def safe(failure: Failure) -> str:
    """A code is a service's or SDK's identifier; anything else is not repeated."""
    return failure.code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", failure.code, re.ASCII) else "unknown error"
