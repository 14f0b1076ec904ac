"""From an order to the parameters of its one AssumeRole. Pure."""

from __future__ import annotations

import math
from datetime import datetime

from broker.model import JsonValue
from broker.providers.aws.block import AwsBlock
from broker.providers.aws.compile import PolicyTooLargeError, session_policy
from broker.providers.aws.scope import LONGEST_SESSION
from broker.providers.base import MintOrder, MintRefused

SHORTEST_SESSION = 900  # seconds; STS's limit. The session policy's bound makes a lease shorter


def assume_role(block: AwsBlock, order: MintOrder, now: datetime) -> dict[str, JsonValue]:
    """Raises MintRefused: it must not be sent."""
    ref = order.ref
    life = (ref.expires_at - now).total_seconds()
    if life <= 0:
        raise MintRefused("the lease is past its bound")
    try:
        policy = session_policy(block, ref.expires_at)
    except PolicyTooLargeError:
        raise MintRefused("the compiled session policy is larger than AWS takes") from None
    parameters: dict[str, JsonValue] = {
        "RoleArn": block.role_arn,
        "RoleSessionName": ref.lease_id,  # CloudTrail shows it: joins AWS's records with the journal
        "DurationSeconds": min(LONGEST_SESSION, max(SHORTEST_SESSION, math.ceil(life))),
        "Policy": policy,
    }
    if block.external_id is not None:  # the operator's, never the agent's (confused deputy)
        parameters["ExternalId"] = block.external_id
    return parameters
