"""What has to be at AWS for a scope map: roles, who may assume them, what bounds them, and the broker's own policy. Pure.

A role's policies are written by the broker, to end sessions early. So each such role has a permissions boundary, and the
broker's right to write holds under that boundary alone: whatever it writes, a session can do no more than the scopes say.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from broker.model import JsonValue
from broker.providers.aws.roles import ends_early
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.compile import VERSION, unbounded_policy
from broker.providers.aws.scopes.size import SOME_BOUND
from broker.providers.aws.scopes.texts import UNFILLED
from broker.providers.base import DeclaredScope

# Ceph's have no account.
BROKER = re.compile(
    r"arn:aws(-[a-z]+)*:iam::([0-9]{12})?:(user|role)/([!-~]{1,511}/)?[A-Za-z0-9_+=,.@-]{1,64}", re.ASCII
)
POLICY_NAME = re.compile(r"[A-Za-z0-9_+=,.@-]{1,128}", re.ASCII)
PERMISSIONS = "stepcred-scopes"  # a role's own policy
MANAGED_CHARACTERS = 6144  # AWS's limit on a managed policy
SHORTEST_MAXIMUM, LONGEST_MAXIMUM = 3600, 43_200  # seconds; AWS's limits on MaxSessionDuration
LOOK = ["iam:GetRole", "iam:ListRolePolicies", "iam:GetRolePolicy"]
WRITE = ["iam:PutRolePolicy", "iam:DeleteRolePolicy"]
TAG, SOURCE = "sts:TagSession", "sts:SetSourceIdentity"

Document = dict[str, Any]
NOTHING: Document = {"Sid": "Nothing", "Effect": "Deny", "Action": "*", "Resource": "*"}  # IAM takes no empty policy


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """A managed policy."""

    arn: str
    document: Document

    @property
    def name(self) -> str:
        """As IAM's API calls it."""
        return self.arn.rpartition("/")[2]


@dataclass(frozen=True, kw_only=True, slots=True)
class Role:
    """One that the broker assumes. `boundary`: None when nobody writes its policies."""

    arn: str
    trust: Document
    permissions: Document
    boundary: Policy | None
    longest: int  # seconds

    @property
    def name(self) -> str:
        """As IAM's API calls it."""
        return self.arn.rpartition("/")[2]

    @property
    def path(self) -> str:
        """Around the name."""
        return "/" + self.arn.partition(":role/")[2].removesuffix(self.name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """`broker` is attached to `broker_arn`, who must be there already; `hints` are what only the operator can do."""

    broker_arn: str
    broker: Policy
    roles: tuple[Role, ...]
    hints: tuple[str, ...] = ()


@dataclass(kw_only=True, slots=True)
class _Use:
    """Of one role, by all of its scopes."""

    arn: str
    by: str  # who assumes it
    scopes: list[tuple[DeclaredScope, AwsBlock]] = field(default_factory=list)

    @property
    def blocks(self) -> list[AwsBlock]:
        return [block for _, block in self.scopes]

    @property
    def denies(self) -> bool:
        return any(map(ends_early, self.blocks))

    @property
    def extras(self) -> list[str]:
        """What AssumeRole needs beside itself."""
        tags, source = (
            any(map(of, self.blocks)) for of in (lambda one: one.session_tags, lambda one: one.source_identity)
        )
        return [*([TAG] if tags else []), *([SOURCE] if source else [])]

    @property
    def external_ids(self) -> list[str]:
        """That its trust policy can demand."""
        return _demanded(block.external_id for block in self.blocks)


def plan_of(scopes: Iterable[DeclaredScope], *, broker_arn: str, broker_policy: str) -> Plan:
    """Of the aws scopes of a map, which must be good. Raises ValueError on names that are none, or do not fit."""
    if not BROKER.fullmatch(broker_arn):
        raise ValueError(
            f"{broker_arn!a} is no ARN of a user or a role; of a session it is the role's, arn:aws:iam::…:role/…"
        )
    if not POLICY_NAME.fullmatch(broker_policy):
        raise ValueError(f"{broker_policy!a} is no name of a policy: letters, digits and _+=,.@-")
    uses, hints = _uses(scopes, broker_arn)
    vias = sorted({use.by for use in uses} - {broker_arn})
    own = [use for use in uses if use.by == broker_arn]
    through = [_via(arn, broker_arn, [use for use in uses if use.by == arn]) for arn in vias]
    broker = Policy(arn=_policy_arn(broker_arn, broker_policy), document=_rights(own, vias))
    roles = (*through, *(_role(use) for use in uses))
    policies = [broker, *(role.boundary for role in roles if role.boundary)]
    for policy in policies:
        if (size := len(text(policy.document))) > MANAGED_CHARACTERS:
            hints.append(
                f"policy {policy.name} has {size} characters, and AWS takes {MANAGED_CHARACTERS} in one: write it shorter by hand"
            )
    return Plan(broker_arn=broker_arn, broker=broker, roles=roles, hints=tuple(hints))


def text(document: Document) -> str:
    """Compact, as AWS counts."""
    return json.dumps(document, separators=(",", ":"))


def _uses(scopes: Iterable[DeclaredScope], broker_arn: str) -> tuple[list[_Use], list[str]]:
    uses: dict[str, _Use] = {}
    for scope in scopes:
        block = AwsBlock.model_validate(scope.block)
        by = block.via or broker_arn
        use = uses.setdefault(block.role_arn, _Use(arn=block.role_arn, by=by))
        if use.by != by:
            raise ValueError(f"{block.role_arn} is assumed by {use.by} and by {by}: give each a role of its own")
        use.scopes.append((scope, block))
    found = sorted(uses.values(), key=lambda use: use.arn)
    if clash := {use.by for use in found} & uses.keys():
        raise ValueError(f"{min(clash)} is a scope's role, and assumes another one as well")
    return found, [hint for use in found for hint in _hints(use)]


def _hints(use: _Use) -> Iterable[str]:
    ids = {block.external_id for block in use.blocks}
    if None in ids and len(ids) > 1:
        yield f"{use.arn}: not every scope gives an external id, so that its trust policy cannot demand one"
    if any(block.policy_arns for block in use.blocks):
        yield f"{use.arn}: what policy_arns allow is yours to add to its policy and its boundary"
    home, account = use.by.split(":")[4], use.arn.split(":")[4]
    if use.denies and home != account:
        yield f"{use.arn}: is not of account {home}, so that its sessions cannot be denied: revoke: bound, or via"


def _role(use: _Use) -> Role:
    allowed = document_of(_allowed(use.blocks) or [NOTHING])
    longest = max((scope.ttl for scope, block in use.scopes if not block.stored), default=timedelta())
    return Role(
        arn=use.arn,
        trust=_trust(use.by, use.extras, use.external_ids),
        permissions=allowed,
        boundary=Policy(arn=_boundary_arn(use.arn), document=allowed) if use.denies else None,
        longest=min(LONGEST_MAXIMUM, max(SHORTEST_MAXIMUM, round(longest.total_seconds()))),
    )


def _via(arn: str, broker_arn: str, uses: Sequence[_Use]) -> Role:
    """A role that the broker goes through; its own sessions are never handed out."""
    rights = _rights(uses, [])
    trust = _trust(broker_arn, [], _demanded(block.via_external_id for use in uses for block in use.blocks))
    return Role(arn=arn, trust=trust, permissions=rights, boundary=None, longest=SHORTEST_MAXIMUM)


def _demanded(given: Iterable[str | None]) -> list[str]:
    """External ids; none when a scope gives none: then nothing may be demanded."""
    ids = set(given)
    return sorted(one for one in ids if one) if None not in ids else []


def _trust(who: str, extras: Sequence[str], external_ids: Sequence[str]) -> Document:
    principal = {"AWS": who}
    assume: Document = {"Effect": "Allow", "Principal": principal, "Action": "sts:AssumeRole"}
    if external_ids:
        assume["Condition"] = {"StringEquals": {"sts:ExternalId": one_or_list(external_ids)}}
    more = {"Effect": "Allow", "Principal": principal, "Action": one_or_list(extras)}
    return document_of([assume, more] if extras else [assume])


def _rights(uses: Sequence[_Use], vias: Sequence[str]) -> Document:
    """Of whoever assumes these roles, or goes through those. Roles are named; there is no pattern in it."""
    statements: list[JsonValue] = []
    if mints := [*vias, *(use.arn for use in uses)]:
        statements.append(_allow("Mint", ["sts:AssumeRole"], mints))
    for name, right in (("Tag", TAG), ("SetSource", SOURCE)):
        if arns := [use.arn for use in uses if right in use.extras]:
            statements.append(_allow(name, [right], arns))
    if denied := [use.arn for use in uses if use.denies]:
        bounded = {"StringEquals": {"iam:PermissionsBoundary": one_or_list([_boundary_arn(arn) for arn in denied])}}
        statements.append(_allow("Look", LOOK, denied))
        statements.append({**_allow("EndEarly", WRITE, denied), "Condition": bounded})
    return document_of(statements)


def _allow(sid: str, actions: Sequence[str], resources: Sequence[str]) -> Document:
    return {
        "Sid": sid,
        "Effect": "Allow",
        "Action": one_or_list(actions),
        "Resource": one_or_list(resources),
    }


def _allowed(blocks: Iterable[AwsBlock]) -> list[JsonValue]:
    """The union of what scopes allow, templates as wide as they can be, each statement once."""
    found: dict[str, JsonValue] = {}
    for block in blocks:
        for statement in json.loads(unbounded_policy(block, SOME_BOUND))["Statement"]:
            if statement["Effect"] == "Allow":
                wide = _widened(statement)
                found[json.dumps(wide, sort_keys=True)] = wide
    return list(found.values())


def _widened(statement: Mapping[str, Any]) -> Document:
    """Never narrower than the statement with its templates filled: an exception or a condition on a template goes."""
    made = {key: value for key, value in statement.items() if key != "Sid"}
    if "Resource" in made:
        made["Resource"] = one_or_list(list(dict.fromkeys(UNFILLED.sub("*", one) for one in _listed(made["Resource"]))))
    if "NotResource" in made:
        if kept := [one for one in _listed(made["NotResource"]) if not UNFILLED.search(one)]:
            made["NotResource"] = one_or_list(kept)
        else:
            del made["NotResource"]
            made["Resource"] = "*"
    conditions = {
        operator: {key: values for key, values in keys.items() if not UNFILLED.search(json.dumps(values))}
        for operator, keys in made.pop("Condition", {}).items()
    }
    if kept_conditions := {operator: keys for operator, keys in conditions.items() if keys}:
        made["Condition"] = kept_conditions
    return made


def document_of(statements: Sequence[JsonValue]) -> Document:
    """A policy."""
    return {"Version": VERSION, "Statement": list(statements)}


def one_or_list(values: Sequence[str]) -> JsonValue:
    """As people write it."""
    return values[0] if len(values) == 1 else list(values)


def _listed(value: Any) -> list[str]:
    return value if isinstance(value, list) else [value]


def _boundary_arn(role_arn: str) -> str:
    return _policy_arn(role_arn, role_arn.rpartition("/")[2] + "-boundary")


def _policy_arn(beside: str, name: str) -> str:
    return f"{':'.join(beside.split(':')[:5])}:policy/{name}"
