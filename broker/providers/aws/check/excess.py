"""Rights that the broker has and does not need, by calls that change nothing.

Writes go to names that cannot exist (64 random bits): who may do it hears that there is no such name, who may not hears
AccessDenied. A right that is bound to a permissions boundary, or to names of another pattern, is not seen so.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Mapping
from typing import Any

from broker.providers.aws.asks import Asks
from broker.providers.aws.calls import Failure
from broker.providers.aws.check.caller import Caller
from broker.providers.aws.roles import NO_POLICY, TRIAL_POLICY
from broker.providers.base import Findings

# What AWS says to those who may, when the name or the document is none.
ALLOWED = frozenset({"NoSuchEntity", "MalformedPolicyDocument"})
_NO_SUCH_POLICY = "arn:aws:iam::aws:policy/stepcred-check"
_LOOKS: Mapping[tuple[str, str], tuple[str, dict[str, int]]] = {
    ("iam", "list_users"): ("iam:ListUsers", {"MaxItems": 1}),
    ("iam", "list_roles"): ("iam:ListRoles", {"MaxItems": 1}),
    ("iam", "get_account_authorization_details"): ("iam:GetAccountAuthorizationDetails", {"MaxItems": 1}),
    ("s3", "list_buckets"): ("s3:ListAllMyBuckets", {}),
    ("secretsmanager", "list_secrets"): ("secretsmanager:ListSecrets", {"MaxResults": 1}),
    ("ssm", "describe_parameters"): ("ssm:DescribeParameters", {"MaxResults": 1}),
}


def writes(name: str) -> Mapping[str, tuple[str, dict[str, Any]]]:
    """Right → operation and parameters, on a role or user of this name."""
    role, user = {"RoleName": name}, {"UserName": name}
    document = {"PolicyName": TRIAL_POLICY, "PolicyDocument": NO_POLICY}
    return {
        "iam:PutRolePolicy": ("put_role_policy", {**role, **document}),
        "iam:AttachRolePolicy": ("attach_role_policy", {**role, "PolicyArn": _NO_SUCH_POLICY}),
        "iam:UpdateAssumeRolePolicy": ("update_assume_role_policy", {**role, "PolicyDocument": NO_POLICY}),
        "iam:DeleteRolePermissionsBoundary": ("delete_role_permissions_boundary", role),
        "iam:PutUserPolicy": ("put_user_policy", {**user, **document}),
        "iam:CreateAccessKey": ("create_access_key", user),
    }


async def too_much(asks: Asks, caller: Caller) -> Findings:
    """Rights to write are problems: each makes an administrator of the broker. Rights to look are remarked."""
    # Ceph, which does not say who is asking, looks for the name before it looks for the right (measured).
    trials = writes(f"stepcred-check-{secrets.token_hex(8)}") if caller.arn else {}
    answers = await asyncio.gather(*(asks.own("iam", operation, **given) for operation, given in trials.values()))
    looks = await asyncio.gather(*(asks.own(service, call, **given) for (service, call), (_, given) in _LOOKS.items()))
    may = [right for right, answer in zip(trials, answers, strict=True) if allowed(answer)]
    sees = [right for (right, _), look in zip(_LOOKS.values(), looks, strict=True) if not isinstance(look, Failure)]
    found = Findings()
    if may:
        found.append(
            f"the broker may {', '.join(may)} on any name, and so give itself every right:"
            " name in its policy the roles that are its own"
        )
    if sees:
        found.remarks.append(f"the broker may also {', '.join(sees)}, which it does not need")
    return found


def allowed(answer: Mapping[str, Any] | Failure) -> bool:
    """Did AWS come as far as to look for the name?"""
    return not isinstance(answer, Failure) or answer.code in ALLOWED
