"""Which roles' policies the broker may write, found by trials that change nothing.

Without that right no session of the role can be ended early: its scopes are EXPIRY_ONLY, whatever they say. Only a
definite no of AWS counts; an unreachable AWS says nothing, and takes nothing back.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from broker.log import get_logger
from broker.model import Revocability
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.iam import Answer
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.base import DeclaredScope, LeaseRef, MintRefused

log = get_logger(__name__)

SURVEY_SECONDS = 10.0  # for all roles together
AT_ONCE = 4  # calls to IAM, whose limits are low and for the whole account
TRIAL_POLICY = "stepcred-check"  # never written: what is sent under this name is no policy
NO_POLICY = "{"  # AWS looks at rights first, then at the document


class AsksIam(Protocol):
    """One IAM request about the role of a block, by whoever the block says does it."""

    def __call__(self, block: AwsBlock, operation: str, **parameters: str) -> Awaitable[Answer]: ...


class Writable(Enum):
    """What is known of a role's policies."""

    YES = "yes"
    NO = "no"  # AWS said so
    UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """Of one role, and by whom it would be written: of `block`."""

    block: AwsBlock
    writable: Writable


class Roles:
    """What is known of each role now, by who would write its policies. Maps are loaded in threads, so it may be asked from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str], Known] = {}

    def learn(self, block: AwsBlock, writable: Writable) -> bool:
        """Does it change how dead sessions can be made? UNKNOWN takes nothing back."""
        if writable is Writable.UNKNOWN:
            return False
        with self._lock:
            before = self._known.get(_key(block))
            self._known[_key(block)] = Known(block=block, writable=writable)
        if changed := (before is not None and before.writable is Writable.NO) != (writable is Writable.NO):
            if writable is Writable.NO:
                log.warning("sessions of a role cannot be ended early: its scopes are EXPIRY_ONLY", why=_why(block))
            else:
                log.info("sessions of a role can be ended early again", role=block.role_arn)
        return changed

    def why_not(self, block: AwsBlock) -> str:
        """Why its policies may not be written; "": they may, or nothing is known."""
        return _why(block) if self.known(block) is Writable.NO else ""

    def must_keep_promise(self, ref: LeaseRef, block: AwsBlock) -> None:
        """A map that was in force before this was known may still promise it. Raises MintRefused."""
        if ref.revocability is Revocability.DENY_POLICY and self.why_not(block):
            raise MintRefused("the broker may not write its role's policies, so that it could not be ended early")

    def known(self, block: AwsBlock) -> Writable:
        """What AWS last said."""
        with self._lock:
            known = self._known.get(_key(block))
        return known.writable if known else Writable.UNKNOWN

    def refused(self) -> list[AwsBlock]:
        """Blocks with roles that may not be written: perhaps of maps that were therefore never in force."""
        with self._lock:
            return [known.block for known in self._known.values() if known.writable is Writable.NO]


class Survey:
    """Asks about the roles of scopes whose sessions are to be ended early."""

    def __init__(self, roles: Roles, iam: AsksIam) -> None:
        self._roles = roles
        self._iam = iam

    async def of(self, scopes: Iterable[DeclaredScope]) -> bool:
        """True: something is known otherwise than before. What is not heard in time is not known."""
        return await self._ask(_blocks(scopes))

    async def again(self, scopes: Iterable[DeclaredScope]) -> bool:
        """The same, about what is not known to be good."""
        asked = [block for block in _blocks(scopes) if self._roles.known(block) is not Writable.YES]
        return await self._ask([*asked, *self._roles.refused()])

    async def _ask(self, blocks: Iterable[AwsBlock]) -> bool:
        """Also about what is known as refused: by now its scopes say `revoke: bound`."""
        asked = {_key(block): block for block in blocks if ends_early(block) or self._roles.why_not(block)}
        free, changed = asyncio.Semaphore(AT_ONCE), False

        async def ask(block: AwsBlock) -> None:
            nonlocal changed
            async with free:
                changed |= self._roles.learn(block, await may_write(self._iam, block))

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SURVEY_SECONDS), asyncio.TaskGroup() as group:
                for block in asked.values():
                    group.create_task(ask(block))
        return changed


def _blocks(scopes: Iterable[DeclaredScope]) -> list[AwsBlock]:
    return [block for scope in scopes if (block := block_of(scope.block)) is not None]


def ends_early(block: AwsBlock) -> bool:
    """Are its sessions denied on the role?"""
    return not block.stored and block.revoke != "bound"


async def may_write(iam: AsksIam, block: AwsBlock) -> Writable:
    """May the broker write this role's policies? Nothing is written."""
    answer = await iam(
        block, "put_role_policy", RoleName=block.role_name, PolicyName=TRIAL_POLICY, PolicyDocument=NO_POLICY
    )
    if isinstance(answer, Failure):
        return {"AccessDenied": Writable.NO, "MalformedPolicyDocument": Writable.YES}.get(answer.code, Writable.UNKNOWN)
    return Writable.YES


def _key(block: AwsBlock) -> tuple[str, str]:
    return block.via or "", block.role_arn


def _why(block: AwsBlock) -> str:
    who = f"{block.via}, through which the broker goes," if block.via else "the broker"
    return f"AWS refuses {who} iam:PutRolePolicy on {block.role_arn}"
