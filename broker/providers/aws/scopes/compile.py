"""From a scope's block and an absolute bound to the session policy of one lease. Pure.

A session has what the role *and* this policy allow. After the operator's statements come ours, all of
them denies, so that no spelling of an allow escapes them, nor one of `policy_arns`, which AWS adds to this policy:

1. Regions: everything outside `regions` is denied. Services with one global endpoint report us-east-1 as
   `aws:RequestedRegion` wherever the caller is; such a service is exempt when, and only when, a statement
   names it ("iam:GetRole", not "*"). Otherwise a scope for eu-west-1 would have to open us-east-1 for
   every service to use one global one. GetCallerIdentity needs no permission and works regardless.
2. Chaining: sessions made from this session would outlive its deny and its bound. Patterns, because they
   also cover what AWS added later (AssumeRoot, GetDelegatedAccessToken, GetWebIdentityToken), the bearer tokens of
   other services (GetServiceBearerToken), and an STS that does not know an action.
3. Time: everything is denied after the bound, so a lease shorter than STS's 900 s is really shorter.

A static scope has no statements: its policy allows to read the one thing, in the one version where that is said.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime

from broker.model import JsonValue
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.reading import reading
from broker.providers.aws.scopes.statement import Statement

POLICY_CHARACTERS = 2048  # AWS's limit on session policies, before packing
VERSION = "2012-10-17"
_COMPACT = json.JSONEncoder(separators=(",", ":"))
CHAINING = ["sts:Assume*", "sts:Get*Token"]

# One endpoint for the world, signed for us-east-1 (AWS's own example of a region deny, and its kin).
GLOBAL_SERVICES = frozenset(
    {
        *("account", "budgets", "ce", "cloudfront", "globalaccelerator", "health", "iam", "organizations"),
        *("route53", "route53domains", "shield", "support", "waf"),
    }
)


class PolicyTooLargeError(ValueError):
    """The compiled policy does not fit; the text says by how much, and holds no word of the policy."""


def session_policy(block: AwsBlock, bound: datetime) -> str:
    """Compact JSON. Sessions are refused after `bound` (aware; whole seconds, rounded down).

    Raises PolicyTooLargeError: AWS counts 2,048 characters over this and `policy_arns`.
    """
    text = unbounded_policy(block, bound)
    if (size := counted(text, block.policy_arns)) > POLICY_CHARACTERS:
        raise PolicyTooLargeError(too_long(size))
    return text


def too_long(characters: int) -> str:
    """By how much."""
    return f"the session policy has {characters:,} characters, {characters - POLICY_CHARACTERS:,} more than AWS takes"


def counted(policy: str, arns: Iterable[str]) -> int:
    """Characters as AWS counts them: "the plaintext of both inline and managed session policies"."""
    return len(policy) + sum(map(len, arns))


def unbounded_policy(block: AwsBlock, bound: datetime) -> str:
    """The same at whatever length: to see how long it is."""
    statements = [*reading(block)] if block.stored else [spelled(statement) for statement in block.statements]
    if block.used_regions:
        statements.append(_outside(block))
    if not block.may_chain:
        statements.append({"Effect": "Deny", "Action": CHAINING, "Resource": "*"})
    statements.append(_deny("*", "DateGreaterThan", "aws:CurrentTime", timestamp(bound)))
    return document(statements)


def document(statements: Iterable[JsonValue]) -> str:
    """A policy as compact JSON: AWS counts characters, and Ceph takes nothing else (measured)."""
    return _COMPACT.encode({"Version": VERSION, "Statement": list(statements)})


def timestamp(at: datetime) -> str:
    """As IAM writes dates: UTC, whole seconds, rounded down."""
    return f"{at.astimezone(UTC).isoformat(timespec='seconds')[:-6]}Z"  # three times as fast as strftime


def spelled(statement: Statement) -> JsonValue:
    """Without the keys that were not given; a list of one as a text."""
    fields: dict[str, JsonValue] = statement.model_dump(exclude_none=True)
    for name in ("Action", "NotAction", "Resource", "NotResource"):
        if name in fields:
            fields[name] = _short(fields[name])
    if "Condition" in fields:
        fields["Condition"] = {
            operator: {key: _short(values) for key, values in keys.items()}
            for operator, keys in fields["Condition"].items()
        }
    return fields


def _outside(block: AwsBlock) -> JsonValue:
    deny = _deny("*", "StringNotEquals", "aws:RequestedRegion", _short(block.used_regions))
    if not (named := global_services(block)):
        return deny
    del deny["Action"]
    return {"Effect": "Deny", "NotAction": _short([f"{name}:*" for name in named]), **deny}


def global_services(block: AwsBlock) -> list[str]:
    """Those that an allow names. A wildcard service or a NotAction names none: the strict reading."""
    actions = (action for each in block.statements if each.Effect == "Allow" for action in each.Action or ())
    return sorted({action.partition(":")[0].lower() for action in actions} & GLOBAL_SERVICES)


def _deny(action: str, operator: str, key: str, value: JsonValue) -> dict[str, JsonValue]:
    return {"Effect": "Deny", "Action": action, "Resource": "*", "Condition": {operator: {key: value}}}


def _short(values: Iterable[str]) -> JsonValue:
    listed = list(values)
    return listed[0] if len(listed) == 1 else listed
