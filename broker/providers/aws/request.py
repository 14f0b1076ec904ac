"""From an order to the parameters of its one AssumeRole. Pure."""

from __future__ import annotations

import math
from datetime import datetime

from broker.model import JsonValue
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import PolicyTooLargeError, session_policy
from broker.providers.aws.scopes.size import measured
from broker.providers.aws.scopes.tags import LEASE, is_source_identity, is_value
from broker.providers.aws.scopes.texts import SHORTEST, UNFILLED
from broker.providers.base import MintOrder, MintRefused

SHORTEST_SESSION = 900  # seconds; STS's limit. The session policy's bound makes a lease shorter


def assume_role(
    block: AwsBlock, order: MintOrder, now: datetime, bound: datetime | None = None
) -> dict[str, JsonValue]:
    """`bound`: when the session ends, if before its lease does. Raises MintRefused: it must not be sent."""
    ref = order.ref
    end = ref.expires_at if bound is None else min(bound, ref.expires_at)
    return session_request(block, ref.lease_id, now=now, end=end)


def session_request(block: AwsBlock, lease_id: str, *, now: datetime, end: datetime) -> dict[str, JsonValue]:
    """The same of a lease that is no order yet. Raises MintRefused."""
    life = (end - now).total_seconds()
    if life <= 0:
        raise MintRefused("the lease is past its bound")
    longest = int(block.longest_session.total_seconds())
    parameters: dict[str, JsonValue] = {
        "RoleArn": block.role_arn,
        "RoleSessionName": lease_id,  # CloudTrail shows it: joins AWS's records with the journal
        "DurationSeconds": min(longest, max(SHORTEST_SESSION, math.ceil(life))),
        "Policy": _policy(block, end),
    }
    if block.policy_arns:
        parameters["PolicyArns"] = [{"arn": arn} for arn in block.policy_arns]
    if block.session_tags:
        parameters["Tags"] = _tags(block)
    if block.transitive:
        parameters["TransitiveTagKeys"] = list(block.transitive)
    if block.source_identity is not None:
        parameters["SourceIdentity"] = _source_identity(block.source_identity, lease_id)
    if block.external_id is not None:  # the operator's, never the agent's (confused deputy)
        parameters["ExternalId"] = block.external_id
    return parameters


def _policy(block: AwsBlock, end: datetime) -> str:
    try:
        policy = session_policy(block, end)
    except PolicyTooLargeError as error:  # no word of the policy: a template's values are in it
        raise MintRefused(f"{error}; {measured(block, SHORTEST).longest}") from None
    if UNFILLED.search(policy):
        raise MintRefused("a template of the scope's aws block was not filled")
    return policy


def _tags(block: AwsBlock) -> JsonValue:
    for value in block.session_tags.values():
        if not is_value(value):
            raise MintRefused("a session tag's value, filled, is not one that STS takes")
    return [{"Key": key, "Value": value} for key, value in block.session_tags.items()]


def _source_identity(said: str, lease_id: str) -> str:
    value = lease_id if said == LEASE else said
    if not is_source_identity(value):
        raise MintRefused("the source identity, filled, is not one that STS takes: 2 to 64 characters")
    return value
