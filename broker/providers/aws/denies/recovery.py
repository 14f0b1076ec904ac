"""After lost state: deny every session of a role that was issued before now.

Role-wide, so that it needs no list of sessions: it also ends those that the database knows, and those that somebody
else made of the role.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta

from pydantic import ValidationError

from broker.clock import Clock
from broker.providers.aws.calls import Failure
from broker.providers.aws.denies.ages import SKEW, now_there
from broker.providers.aws.denies.iam import IamCall, safe
from broker.providers.aws.denies.looking import recovery_policy
from broker.providers.aws.denies.policy import Cut, cut_statement, held_in
from broker.providers.aws.roles import ends_early
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import document, timestamp
from broker.providers.base import Sweep, Swept


class RoleCutOff:
    """One policy per role and installation; written again, it moves forward."""

    def __init__(
        self,
        iam: Callable[[AwsBlock], IamCall],
        installation: str,
        clock: Clock,
        heard: Callable[[], datetime | None],
    ) -> None:
        self._iam = iam
        self._heard = heard
        self._policy = recovery_policy(installation)
        self._clock = clock

    async def sweep(self, sweep: Sweep) -> Swept:
        """Every role of these scopes."""
        longest: dict[str, timedelta] = {}
        blocks: dict[str, AwsBlock] = {}
        written: list[str] = []
        unproven: list[str] = []
        for scope in sweep.scopes:
            try:
                block = AwsBlock.model_validate(scope.block)
            except ValidationError:
                unproven.append("aws: a scope's block cannot be read")
                continue
            if block.stored:  # the sessions that read it never leave the broker, and live a minute
                continue
            longest[block.role_arn] = max(scope.ttl, longest.get(block.role_arn, scope.ttl))
            if block.role_arn not in blocks or ends_early(block):  # one of its scopes is enough
                blocks[block.role_arn] = block
        for arn, block in sorted(blocks.items()):
            problem, at = await self._write(block)
            until = timestamp(at + longest[arn] + SKEW)
            if problem:
                unproven.append(f"aws: {arn}: {problem}; its sessions end by themselves at {until}")
            else:
                written.append(f"{arn}: sessions issued before {timestamp(at)} are denied by policy {self._policy}")
                unproven.append(
                    f"aws: {arn}: a deny takes seconds to minutes to spread; at {until} all are over, unless"
                    " the map was another one with a longer ttl"
                )
        return Swept(cut_off=tuple(written), unproven=tuple(unproven))

    async def _write(self, block: AwsBlock) -> tuple[str, datetime]:
        """What went wrong, in constant text, "" when the policy was read back as written; and since when it holds."""
        at = self._clock.now().replace(microsecond=0)
        if block.revoke == "bound":
            return "the scope says revoke: bound, so the broker may not write policies", at
        role, iam = block.role_name, self._iam(block)
        # IAM writes in the broker's own account only: a namesake there must not be taken for the role.
        answer = await iam("get_role", RoleName=role)
        if isinstance(answer, Failure):
            return f"IAM refused GetRole: {safe(answer)}", at
        if answer.get("Role", {}).get("Arn") != block.role_arn:
            return "the role is in another account than the broker's own", at
        at = now_there(self._heard(), self._clock.now()).replace(microsecond=0)
        # What is lost may have had a longer ttl than any scope of today's map.
        cut = Cut(before=at, until=at + block.longest_session)
        text = document([cut_statement(cut)])
        answer = await iam("put_role_policy", RoleName=role, PolicyName=self._policy, PolicyDocument=text)
        if isinstance(answer, Failure):
            return f"IAM refused PutRolePolicy: {safe(answer)}", at
        answer = await iam("get_role_policy", RoleName=role, PolicyName=self._policy)
        if isinstance(answer, Failure) or held_in(answer).cut != cut:
            return "the policy was not read back as it was written", at
        return "", at
