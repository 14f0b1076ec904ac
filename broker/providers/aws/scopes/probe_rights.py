"""Lint: may a session make the call that is to prove its end, by its own statements? And can it spoil that proof?"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from broker.model import Remark
from broker.providers.aws.scopes.block import AwsBlock, Probe
from broker.providers.aws.scopes.statement import Statement
from broker.providers.aws.scopes.texts import UNFILLED

_RIGHTS = {"s3:ListObjectsV2": "s3:ListBucket", "s3:ListBuckets": "s3:ListAllMyBuckets"}  # the others: as the call
# Who may write the policy of what is called can have the call refused, also where the deny has not arrived.
_POLICIES = {
    "s3": ("s3:PutBucketPolicy",),
    "sqs": ("sqs:AddPermission", "sqs:SetQueueAttributes"),
    "sns": ("sns:AddPermission", "sns:SetTopicAttributes"),
    "kms": ("kms:PutKeyPolicy",),
    "secretsmanager": ("secretsmanager:PutResourcePolicy",),
    "dynamodb": ("dynamodb:PutResourcePolicy",),
    "ecr": ("ecr:SetRepositoryPolicy",),
    "kinesis": ("kinesis:PutResourcePolicy",),
    "glue": ("glue:PutResourcePolicy",),
    "logs": ("logs:PutResourcePolicy",),
}
_ALLOW = (
    "Refused before the deny, the call proves nothing (PROBE_USELESS): allow it, or probe with a call that is allowed."
)
_SPOIL = "Probe something whose policy this session cannot change, or leave that action out."


def probe_remarks(block: AwsBlock) -> Iterator[Remark]:
    """By action and bucket alone; what managed policies allow is not known here."""
    if block.probe is None:
        return
    call = block.probe.call
    right = _RIGHTS.get(call, call)
    granting = [one for one in block.statements if one.Effect == "Allow" and _acts(one, right)]
    if not block.policy_arns and not any(_reaches(one, block.probe) for one in granting):
        where = f" on {_bucket(block.probe)}" if granting else ""
        message = f"no statement allows {right}{where}, which the call needs"
        yield Remark(path=("probe", "call"), rule="probe-not-allowed", message=message, help=_ALLOW)
    for action in _POLICIES.get(call.partition(":")[0], ()):
        if any(one.Effect == "Allow" and _acts(one, action) for one in block.statements):
            message = f"the session may {action}: it can have its own probe refused"
            yield Remark(path=("probe", "call"), rule="probe-spoiled", message=message, help=_SPOIL)
            return


def _acts(statement: Statement, action: str) -> bool:
    if statement.NotAction is not None:
        return not _any(statement.NotAction, action.lower(), lower=True)
    return _any(statement.Action or (), action.lower(), lower=True)


def _reaches(statement: Statement, probe: Probe) -> bool:
    """Whether its resources have the bucket in them; True where that cannot be told."""
    bucket = _bucket(probe)
    if bucket is None or statement.Resource is None:
        return True
    return any(_any((one if one == "*" else one.split(":", 5)[-1],), bucket) for one in statement.Resource)


def _bucket(probe: Probe) -> str | None:
    """None: another kind of thing, or one that a template names."""
    name = probe.arguments.get("Bucket")
    return name if isinstance(name, str) and not UNFILLED.search(name) and not name.startswith("arn:") else None


def _any(patterns: Iterable[str], text: str, *, lower: bool = False) -> bool:
    """IAM's * and ?; a template may be anything."""
    for pattern in patterns:
        known = UNFILLED.sub("*", pattern.lower() if lower else pattern)
        expression = "".join({"*": ".*", "?": "."}.get(letter, re.escape(letter)) for letter in known)
        if re.fullmatch(expression, text, re.DOTALL):
            return True
    return False
