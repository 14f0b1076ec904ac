"""Which roles' policies the broker may write, found by trials that change nothing.

Without that right no session of the role can be ended early: its scopes are EXPIRY_ONLY, whatever they say. Only a
definite no of AWS counts; an unreachable AWS says nothing, and takes nothing back.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from broker.model import Revocability
from broker.providers.aws.block import AwsBlock, block_of
from broker.providers.aws.calls import Failure
from broker.providers.aws.denylist import Answer
from broker.providers.base import DeclaredScope, LeaseRef, MintRefused

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
    """Of one role. `why` is for the operator, with what to do."""

    writable: Writable
    why: str = ""


class Roles:
    """What is known of each role now. Maps are loaded in threads, so it may be asked from any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[str, Known] = {}

    def learn(self, role_arn: str, writable: Writable) -> bool:
        """Does it change how dead sessions can be made? UNKNOWN takes nothing back."""
        if writable is Writable.UNKNOWN:
            return False
        with self._lock:
            before = self._known.get(role_arn)
            why = _why(role_arn) if writable is Writable.NO else ""
            self._known[role_arn] = Known(writable=writable, why=why)
            return (before is not None and before.writable is Writable.NO) != (writable is Writable.NO)

    def why_not(self, role_arn: str) -> str:
        """Why its policies may not be written; "": they may, or nothing is known."""
        with self._lock:
            known = self._known.get(role_arn)
        return known.why if known else ""

    def must_keep_promise(self, ref: LeaseRef) -> None:
        """A map that was in force before this was known may still promise it. Raises MintRefused."""
        block = block_of(ref.params)
        if block is not None and ref.revocability is Revocability.DENY_POLICY and self.why_not(block.role_arn):
            raise MintRefused("the broker may not write its role's policies, so that it could not be ended early")

    def known(self, role_arn: str) -> Writable:
        """What AWS last said."""
        with self._lock:
            known = self._known.get(role_arn)
        return known.writable if known else Writable.UNKNOWN


class Survey:
    """Asks about the roles of scopes whose sessions are to be ended early."""

    def __init__(self, roles: Roles, iam: AsksIam) -> None:
        self._roles = roles
        self._iam = iam

    async def of(self, scopes: Iterable[DeclaredScope]) -> bool:
        """True: something is known otherwise than before. What is not heard in time is not known."""
        free, asked = asyncio.Semaphore(AT_ONCE), self._to_ask(scopes)
        changed = False

        async def ask(block: AwsBlock) -> None:
            nonlocal changed
            async with free:
                changed |= self._roles.learn(block.role_arn, await may_write(self._iam, block))

        try:
            async with asyncio.timeout(SURVEY_SECONDS), asyncio.TaskGroup() as group:
                for block in asked.values():
                    group.create_task(ask(block))
        except TimeoutError:
            pass
        return changed

    def uncertain(self, scopes: Iterable[DeclaredScope]) -> list[DeclaredScope]:
        """Those with a role that it may not write, or that nothing is known of."""
        return [
            scope
            for scope in scopes
            if any(self._roles.known(role_arn) is not Writable.YES for role_arn in self._to_ask([scope]))
        ]

    def _to_ask(self, scopes: Iterable[DeclaredScope]) -> Mapping[str, AwsBlock]:
        """Also what is known as not writable: such scopes say `revoke: bound` by now."""
        blocks = [block for scope in scopes if (block := block_of(scope.block)) is not None]
        return {
            block.role_arn: block for block in blocks if block.revoke != "bound" or self._roles.why_not(block.role_arn)
        }


async def may_write(iam: AsksIam, block: AwsBlock) -> Writable:
    """May the broker write this role's policies? Nothing is written."""
    answer = await iam(
        block, "put_role_policy", RoleName=block.role_name, PolicyName=TRIAL_POLICY, PolicyDocument=NO_POLICY
    )
    if isinstance(answer, Failure):
        return {"AccessDenied": Writable.NO, "MalformedPolicyDocument": Writable.YES}.get(answer.code, Writable.UNKNOWN)
    return Writable.YES


def _why(role_arn: str) -> str:
    return f"AWS refuses the broker iam:PutRolePolicy on {role_arn}"
