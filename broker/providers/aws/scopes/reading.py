"""What the session of a static scope may do: read one secret or parameter, and decrypt it with its key.

The broker must ask for it as the policy says: with `VersionStage` for a stage, with `VersionId` for a version.
SSM knows no condition on a parameter's version; there the request alone says which.
"""

from __future__ import annotations

from collections.abc import Iterator

from broker.model import JsonValue
from broker.providers.aws.scopes.block import AwsBlock
from broker.providers.aws.scopes.stored import Parameter, Secret


def reading(block: AwsBlock) -> Iterator[JsonValue]:
    """The statements of a static scope; none of another."""
    stored = block.stored
    if isinstance(stored, Secret):
        yield _allow("secretsmanager:GetSecretValue", stored.id, _version(stored))
    elif isinstance(stored, Parameter):
        yield {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": parameter_arn(block)}
    if stored and stored.kms_key:
        service = "secretsmanager" if block.secret else "ssm"
        # The end is the partition's own domain. AWS sets this key, so nobody else can match.
        via = {"StringLike": {"kms:ViaService": f"{service}.{block.used_regions[0]}.*"}}
        yield _allow("kms:Decrypt", stored.kms_key, via)


def parameter_arn(block: AwsBlock) -> str:
    """Of the block's parameter; in the role's account when it says only a name. "" when it has none."""
    if block.parameter is None:
        return ""
    return block.parameter.arn(block.partition, block.used_regions[0], block.account)


def _version(secret: Secret) -> JsonValue:
    if secret.staged:  # a version can have several stages
        return {"ForAnyValue:StringEquals": {"secretsmanager:VersionStage": secret.staged}}
    return {"StringEquals": {"secretsmanager:VersionId": secret.version_id}}


def _allow(action: str, resource: str, condition: JsonValue) -> JsonValue:
    return {"Effect": "Allow", "Action": action, "Resource": resource, "Condition": condition}
