"""What is wrong with an `aws` block, in an operator's words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import TypeAlias

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from broker.providers.aws.scopes.block import AwsBlock, Probe
from broker.providers.aws.scopes.statement import Statement
from broker.providers.aws.scopes.stored import Parameter, Secret

Problem: TypeAlias = tuple[tuple[str | int, ...], str]

_URL = "must be an https URL without a path (http on loopback only)"
_ROLE = "must be a role's ARN: arn:aws:iam::<12 digits>:role/<name>, without templates"
_ACTIONS = "must be actions such as s3:GetObject"
_REGION = "must be a region such as eu-west-1"

EXPECTED = {
    "role_arn": _ROLE,
    "via": _ROLE,
    "Action": _ACTIONS,
    "NotAction": _ACTIONS,
    "Resource": "must be * or ARNs",
    "NotResource": "must be * or ARNs",
    "Condition": "must be {Operator: {key: value or values}} with IAM's operators, such as StringEquals or DateLessThanIfExists",
    "Sid": "must be 1 to 64 letters and digits",
    "regions": "must be a list of regions such as eu-west-1",
    "sts_region": _REGION,
    "sts_endpoint": _URL,
    "endpoint_url": _URL,
    "policy_arns": "must be up to 10 ARNs of managed policies: arn:aws:iam::<12 digits or aws>:policy/<name>",
    "session_tags": (
        "must be {Key: value}: keys of 1 to 128, values of up to 256 letters, digits, space and _ . : / = + - @; "
        "values may hold {templates}"
    ),
    "transitive_tags": "must be true, or keys of session_tags",
    "source_identity": "must be lease, one {template}, or 2 to 64 letters, digits and _ + = , . @ -",
    "external_id": "must be 2 to 1,224 letters, digits and _ + = , . @ : / -",
    "call": "must be service:Operation, such as s3:ListObjectsV2",
    "id": "must be a secret's whole ARN, without templates: arn:aws:secretsmanager:<region>:<12 digits>:secret:<name>-<6 characters>",
    "version_id": "must be a version's id of 32 to 64 characters",
    "stage": "must be a stage such as AWSCURRENT",
    "name": "must be /its/name or the parameter's ARN; a {template} fills a segment, but not the first",
    "version": "must be a number from 1",
    "kms_key": "must be a key's ARN, not an alias: arn:aws:kms:<region>:<12 digits>:key/<id>",
}
_MODELS: dict[str, type[BaseModel]] = {
    "statements": Statement,
    "probe": Probe,
    "secret": Secret,
    "parameter": Parameter,
}
_SHAPES = {
    "probe": "must be {call: service:Operation, with: {Parameter: value}}",
    "secret": "must be {id: the secret's ARN}",
    "parameter": "must be {name: /its/name}",
}
_KEY = "[key]"  # pydantic's word for the key of a mapping
_IN_WORDS = ("missing", "extra_forbidden", "value_error", "literal_error", "bool_type", "model_type")


def problems(errors: Iterable[ErrorDetails]) -> list[Problem]:
    """Each as (path inside the block, message)."""
    return [_problem(error) for error in errors]


def _problem(error: ErrorDetails) -> Problem:
    path = tuple(part for part in error["loc"] if part != _KEY)
    if error["type"] == "missing":
        return path, f"needs {path[-1]}"
    if error["type"] == "extra_forbidden":
        return path, "unknown key" + _meant(path)
    if error["type"] == "value_error":
        return path, error["msg"].removeprefix("Value error, ")
    if error["type"] == "model_type" and path[-1] in _SHAPES:
        return path, _SHAPES[str(path[-1])]
    told = error["msg"][0].lower() + error["msg"][1:]
    if error["type"] in _IN_WORDS:
        return path, told
    return path, next((EXPECTED[part] for part in reversed(path) if part in EXPECTED and isinstance(part, str)), told)


def _meant(path: tuple[str | int, ...]) -> str:
    model = _MODELS.get(str(path[0]), AwsBlock) if len(path) > 1 else AwsBlock
    known = [field.alias or name for name, field in model.model_fields.items()]
    close = difflib.get_close_matches(str(path[-1]), known, n=1)
    return f"; did you mean {close[0]}?" if close else ""
