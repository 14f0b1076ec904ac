"""What the scope map must know of AWS: is a block good, and how dead can its sessions be made."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TypeAlias

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from broker.model import JsonValue, Remark, Revocability, Tier
from broker.providers.aws.block import AwsBlock, Statement
from broker.providers.aws.compile import PolicyTooLargeError, session_policy
from broker.providers.aws.remarks import SOME_BOUND, TEMPLATE, remarks
from broker.providers.aws.roles import Roles

LONGEST_SESSION = 43_200  # seconds; of AssumeRole

Problem: TypeAlias = tuple[tuple[str | int, ...], str]

_EXPECTED = {
    "role_arn": "must be a role's ARN: arn:aws:iam::<12 digits>:role/<name>, without templates",
    "Action": "must be actions such as s3:GetObject",
    "NotAction": "must be actions such as s3:GetObject",
    "Resource": "must be * or ARNs",
    "NotResource": "must be * or ARNs",
    "regions": "must be a list of regions such as eu-west-1",
    "sts_endpoint": "must be an https URL without a path (http on loopback only)",
    "endpoint_url": "must be an https URL without a path (http on loopback only)",
}


class AwsScope:
    """`ScopeKind` of the `aws` block. Imports no SDK."""

    name = "aws"

    def __init__(self, roles: Roles | None = None) -> None:
        """`roles`: what is known of their policies; tools know nothing."""
        self._roles = roles or Roles()

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[Problem]:
        """Every mistake as (path, message). Templates count one character each in the size check."""
        try:
            good = AwsBlock.model_validate(block)
        except ValidationError as error:
            return [_problem(each) for each in error.errors(include_url=False, include_input=False)]
        try:
            session_policy(_shortest(good), SOME_BOUND)
        except PolicyTooLargeError as error:
            return [(("statements",), str(error))]
        return []

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:
        """`revoke` where it is not said: IAM limits the rate of writes, so tier `low` only waits for the bound.

        So does every scope whose role's policies the broker may not write.
        """
        if self._roles.why_not(AwsBlock.model_validate(block).role_arn):
            return {**block, "revoke": "bound"}
        if "revoke" in block:
            return block
        return {**block, "revoke": "bound" if tier is Tier.LOW else "deny"}

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:  # noqa: ARG002 - as the protocol has it
        """STS's own limit."""
        return timedelta(seconds=LONGEST_SESSION)

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """DENY_POLICY, or EXPIRY_ONLY by `revoke: bound`."""
        bound_only = AwsBlock.model_validate(block).revoke == "bound"
        return Revocability.EXPIRY_ONLY if bound_only else Revocability.DENY_POLICY

    def why_weaker(self, block: Mapping[str, JsonValue]) -> str:
        """What AWS refused."""
        return self._roles.why_not(AwsBlock.model_validate(block).role_arn)

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        """The role's ARN, since a session never has more than its role; and what makes others trust, or outlive, it."""
        made = AwsBlock.model_validate(block)
        told = {"sts_endpoint": made.sts_endpoint, "endpoint_url": made.endpoint_url, "may_chain": made.may_chain}
        return [made.role_arn, *(f"{name}:{value}" for name, value in told.items() if value)]

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:
        """Those that the session policy lets it use."""
        return AwsBlock.model_validate(block).regions

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:
        """Statements without edges, and a policy that might not fit; templates count 64 characters each."""
        return list(remarks(AwsBlock.model_validate(block)))

    def json_schema(self) -> JsonValue:
        """Of the block."""
        return AwsBlock.model_json_schema()


def _problem(error: ErrorDetails) -> Problem:
    path = error["loc"]
    name = next((part for part in reversed(path) if isinstance(part, str)), "")
    if error["type"] == "missing":
        return path, "is required"
    if error["type"] == "extra_forbidden":
        known = Statement.model_fields if path[0] == "statements" else AwsBlock.model_fields
        close = difflib.get_close_matches(name, known, n=1)
        return path, "unknown key" + (f"; did you mean {close[0]}?" if close else "")
    if error["type"] == "value_error":
        return path, error["msg"].removeprefix("Value error, ")
    return path, _EXPECTED.get(name, error["msg"][0].lower() + error["msg"][1:])


def _shortest(block: AwsBlock) -> AwsBlock:
    """The block with every template at its shortest, so that what does not fit now never will."""
    return AwsBlock.model_validate_json(TEMPLATE.sub("x", block.model_dump_json(exclude_none=True)))
