"""What a scope's session will be able to do, from the very request that would be sent for it. Pure.

An agent is told what decides what it may do. External ids, the roles and the STS that the broker goes through, and what
ends a session early are the broker's own affair: whoever knows them can try them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime

from broker.model import JsonValue, Powers
from broker.providers.aws.request import session_request
from broker.providers.aws.scopes.block import AwsBlock, block_of
from broker.providers.aws.scopes.compile import global_services
from broker.providers.aws.scopes.reading import parameter_arn
from broker.providers.aws.scopes.statement import Statement
from broker.providers.aws.scopes.tags import LEASE
from broker.providers.base import MintRefused

THE_LEASE = "the lease's id"
_ANY_LEASE = "a" * 16  # as long as each
_STATEMENTS, _NAMES = 10, 5  # in words; the policy itself has them all


def powers_of(params: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:
    """Of a scope's block, templates filled."""
    block = block_of(params)
    if block is None:
        return Powers(words=(), told={}, refused="the scope's aws block, filled, is not valid")
    try:
        request = session_request(block, _ANY_LEASE, now=now, end=until)
    except MintRefused as error:
        return Powers(words=(), told={}, refused=str(error))
    if block.stored:
        return Powers(words=(_reads(block),), told=_stored(block))
    return Powers(words=tuple(_words(block)), told=_session(block, request))


def _session(block: AwsBlock, request: Mapping[str, JsonValue]) -> Mapping[str, JsonValue]:
    told: dict[str, JsonValue] = {
        "kind": "session",
        "role_arn": request["RoleArn"],
        "session_name": THE_LEASE,
        "regions": list(block.used_regions),
        "session_policy": json.loads(request["Policy"]),
        "policy_arns": [one["arn"] for one in request.get("PolicyArns", [])],
        "session_tags": {tag["Key"]: tag["Value"] for tag in request.get("Tags", [])},
        "transitive_tags": list(request.get("TransitiveTagKeys", [])),
        "may_chain": block.may_chain,
    }
    if block.source_identity is not None:
        told["source_identity"] = THE_LEASE if block.source_identity == LEASE else request["SourceIdentity"]
    if block.endpoint_url:
        told["endpoint_url"] = block.endpoint_url
    return told


def _words(block: AwsBlock) -> Iterator[str]:
    for statement in block.statements[:_STATEMENTS]:
        yield _sentence(statement)
    if (more := len(block.statements) - _STATEMENTS) > 0:
        yield f"and what {more} more statements of the policy say"
    if block.policy_arns:
        yield f"may: also what these policies allow: {_some(block.policy_arns)}"
    yield "never more than the role itself allows, which is said in AWS"
    if block.used_regions:
        everywhere = global_services(block)
        yield f"only in {_some(block.used_regions)}" + (f" ({_some(everywhere)}: anywhere)" if everywhere else "")
    else:
        yield "in any region"
    if block.may_chain:
        yield "may assume other roles; sessions made so live on when this one is ended"
    else:
        yield "may not assume other roles, nor make sessions or tokens in any other way"


def _sentence(statement: Statement) -> str:
    verb = "may" if statement.Effect == "Allow" else "may not"
    what = _some(statement.Action) if statement.Action else f"everything but {_some(statement.NotAction or ())}"
    where = _some(statement.Resource) if statement.Resource else f"everything but {_some(statement.NotResource or ())}"
    condition = ", under the statement's conditions" if statement.Condition else ""
    return f"{verb}: {what} on {where}{condition}"


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _stored(block: AwsBlock) -> Mapping[str, JsonValue]:
    (region,) = block.used_regions
    if (secret := block.secret) is not None:
        version = {"version_id": secret.version_id} if secret.version_id else {"stage": secret.staged}
        return {"kind": "secret", "id": secret.id, "region": region, **version}
    told: dict[str, JsonValue] = {"kind": "parameter", "name": parameter_arn(block), "region": region}
    if block.parameter is not None and block.parameter.version is not None:
        told["version"] = block.parameter.version
    return told


def _reads(block: AwsBlock) -> str:
    told = _stored(block)
    which = next((f"{name} {told[name]}" for name in ("version", "version_id", "stage") if name in told), "the latest")
    return f"the value of {told['kind']} {told.get('id') or told['name']} ({which}), read by the broker; no session"
