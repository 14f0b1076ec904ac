"""A look at one role of the scope map: is it there, can its sessions be ended early, and who else may assume it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any
from urllib.parse import unquote

from broker.model import JsonValue
from broker.providers.aws.asks import Asks
from broker.providers.aws.calls import Failure
from broker.providers.aws.check import trust
from broker.providers.aws.check.caller import Caller
from broker.providers.aws.check.excess import allowed, writes
from broker.providers.aws.denies.iam import policy_names, safe
from broker.providers.aws.denies.looking import ROLE_CHARACTERS
from broker.providers.aws.denies.policy import entries_in, size_of
from broker.providers.aws.roles import TRIAL_POLICY, Writable, ends_early, may_write
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.settings import AwsSettings
from broker.providers.base import DeclaredScope, Findings

OUR_LISTS = "stepcred-deny-"
LONGEST_NAME = 200  # characters of what AWS says; an ARN with a path
FEW = 100  # places; below it a busy role is soon full


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """One role, and the scopes that use it, at least one."""

    scopes: tuple[tuple[DeclaredScope, AwsBlock], ...]

    @property
    def block(self) -> AwsBlock:
        """To ask as: one that is to be ended early, if there is one."""
        return next((block for _, block in self.scopes if ends_early(block)), self.scopes[0][1])

    @property
    def denies(self) -> bool:
        """Is any session of it to be ended early?"""
        return ends_early(self.block)


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """What is known of a role; without the right to look, or in another account, nothing."""

    missing: bool = False
    longest: timedelta | None = None  # session that it gives
    trust: JsonValue = None


async def look_at(asks: Asks, settings: AwsSettings, caller: Caller, wanted: Wanted) -> tuple[Seen, Findings]:
    """Changes nothing."""
    found, block, role = Findings(), wanted.block, f"role {wanted.block.role_arn}"
    home = caller.account
    if block.account and home and block.account != home:
        if wanted.denies:
            whose = "the account of its via," if block.via else f"the broker's account {home},"
            found.append(
                f"{role}: is not of {whose} so that its sessions cannot be denied: give its scopes revoke: bound, or"
                " via: a role of that account"
            )
        return Seen(), found
    answer = await asks.iam(block, "get_role", RoleName=block.role_name)
    if isinstance(answer, Failure):
        return _unseen(answer, role, found, wanted), found
    held: Mapping[str, Any] = answer.get("Role", {})
    if held.get("Arn") != block.role_arn:
        found.append(f"{role}: IAM knows it by another ARN; write it as IAM does: account, path and case")
    seconds = held.get("MaxSessionDuration")
    seen = Seen(
        longest=timedelta(seconds=seconds) if isinstance(seconds, int) else None,
        trust=_decoded(held.get("AssumeRolePolicyDocument")),
    )
    _trust(seen.trust, caller, role, found)
    if wanted.denies:
        if not held.get("PermissionsBoundary") and not settings.accept_unbounded_roles:
            found.append(
                f"{role}: has no permissions boundary, so that nothing bounds who writes its policies, and its sessions"
                " are not denied: give it one, or set aws.accept_unbounded_roles"
            )
        await _room(asks, block, role, found)
        await _rights(asks, block, role, found)
    return seen, found


def _unseen(failure: Failure, role: str, found: Findings, wanted: Wanted) -> Seen:
    if failure.code == "NoSuchEntity":
        found.append(f"{role}: does not exist; make it, or correct role_arn")
        return Seen(missing=True)
    if wanted.denies:
        found.append(f"{role}: {_refused(failure, 'iam:GetRole')}")
    return Seen()


def _trust(document: JsonValue, caller: Caller, role: str, found: Findings) -> None:
    everybody = [name for name in trust.trusted(document) if name == "*"]
    if not caller.arn and document is not None and not trust.keys_alone(document):
        found.remarks.append(
            f"{role}: a store that does not say who asks may also let sessions of the role assume it, and what they get"
            ' is neither narrowed nor denied: give each statement of its trust policy "Condition": {"Null":'
            ' {"aws:TokenIssueTime": "true"}}, if the broker has a stored key'
        )
    others = trust.others(document, caller) if caller.arn else everybody
    if others:
        named = ", ".join(ascii(name[:LONGEST_NAME]) for name in others)
        found.remarks.append(f"{role}: its trust policy lets {named} assume it; nobody but the broker needs to")


async def _room(asks: Asks, block: AwsBlock, role: str, found: Findings) -> None:
    """For the deny list, beside what is on the role."""
    names = await policy_names(partial(asks.iam, block), block.role_name)
    if isinstance(names, Failure):
        found.append(f"{role}: {_refused(names, 'iam:ListRolePolicies')}")
        return
    used = 0
    for name in (*names, TRIAL_POLICY):
        if name.startswith(OUR_LISTS):
            continue
        held = await asks.iam(block, "get_role_policy", RoleName=block.role_name, PolicyName=name)
        if isinstance(held, Failure) and held.code == "NoSuchEntity":
            continue
        if isinstance(held, Failure):
            found.append(f"{role}: {_refused(held, 'iam:GetRolePolicy')}")
            return
        used += size_of(held)
    places = max(0, entries_in(ROLE_CHARACTERS - used))
    told = f"{role}: its inline policies take {used:,} of {ROLE_CHARACTERS:,} characters"
    mend = "move them into managed policies"
    if not places:
        found.append(f"{told}, which leaves no room for a deny list: {mend}")
    elif places < FEW:
        found.remarks.append(f"{told}, which leaves room to deny {places} sessions at a time: {mend}")


async def _rights(asks: Asks, block: AwsBlock, role: str, found: Findings) -> None:
    """To write deny lists and to clean up; and no more."""
    if await may_write(asks.iam, block) is Writable.NO:
        found.append(
            f"{role}: the broker may not write its policies (iam:PutRolePolicy): its scopes are EXPIRY_ONLY, and tiers"
            " that demand more refuse them; give the right, or say revoke: bound"
        )
    answer = await asks.iam(block, "delete_role_policy", RoleName=block.role_name, PolicyName=TRIAL_POLICY)
    if isinstance(answer, Failure) and answer.code == "AccessDenied":
        found.append(f"{role}: {_refused(answer, 'iam:DeleteRolePolicy')}; old deny lists would stay and fill it")
    wide = []
    for right in ("iam:AttachRolePolicy", "iam:UpdateAssumeRolePolicy"):
        operation, given = writes(block.role_name)[right]
        if allowed(await asks.iam(block, operation, **given)):
            wide.append(right)
    if wide:
        found.append(f"{role}: the broker may {', '.join(wide)} on it, which it does not need")


def _refused(failure: Failure, right: str) -> str:
    if failure.code == "AccessDenied":
        return f"the broker may not {right}"
    return f"no answer that says whether the broker may {right} ({failure.why or safe(failure)})"


def _decoded(document: Any) -> JsonValue:
    """Botocore decodes it where it knows the answer's shape."""
    if not isinstance(document, str):
        return document
    try:
        decoded: JsonValue = json.loads(unquote(document))
    except ValueError:
        return None
    return decoded
