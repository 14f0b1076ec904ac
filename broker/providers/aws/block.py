"""The `aws` block of a scope as strict types: what an operator may write, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)

from broker.model import JsonValue

# Ceph writes no account: arn:aws:iam:::role/x (measured). Names and paths as IAM limits them.
_ROLE_ARN = r"^arn:aws(-[a-z]+)*:iam::([0-9]{12})?:role/([A-Za-z0-9_+=,.@/-]{1,510}/)?[A-Za-z0-9_+=,.@-]{1,64}$"
_REGION = r"^[a-z][a-z0-9-]{1,31}$"
_ACTION = r"^(\*|[A-Za-z0-9-]{1,64}:[A-Za-z0-9*?]{1,128})$"
_RESOURCE = r"^(\*|arn:[ -~]{1,2000})$"
# Plain http carries the minted secret in clear: on the machine itself only.
_URL = r"^(https://[A-Za-z0-9.-]+(:[0-9]{1,5})?|http://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]{1,5})?)/?$"


def _listed(value: JsonValue) -> JsonValue:
    """AWS takes a text where it takes a list. One shape inside, so that a mistake gives one error."""
    if isinstance(value, str):
        return (value,)
    return tuple(value) if isinstance(value, list) else value


def _texts(value: JsonValue) -> JsonValue:
    """Condition values: AWS compares text; a YAML true or number is written as AWS writes it."""
    listed = _listed(value if isinstance(value, (str, list)) else [value])
    return tuple(str(item).lower() if isinstance(item, bool) else _number(item) for item in listed)


def _number(value: JsonValue) -> JsonValue:
    return str(value) if isinstance(value, int) else value


def _filled(value: tuple[str, ...]) -> tuple[str, ...]:
    if not value:
        raise ValueError("must not be empty")
    return value


def _one_or_more(item: JsonValue, *, least: int = 1) -> WithJsonSchema:
    """For editors: a text stands for a list of one."""
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item, "minItems": least}]})


_SCALAR: JsonValue = {"type": ["string", "boolean", "integer"]}  # of a condition; YAML's true is AWS's "true"

_Action: TypeAlias = Annotated[str, Field(pattern=_ACTION)]
_Resource: TypeAlias = Annotated[str, Field(pattern=_RESOURCE)]
_Text: TypeAlias = Annotated[str, Field(min_length=0, max_length=2000, pattern=r"^[ -~]*$")]
_Actions: TypeAlias = Annotated[
    tuple[_Action, ...],
    BeforeValidator(_listed),
    AfterValidator(_filled),
    _one_or_more({"type": "string", "pattern": _ACTION}),
]
_Resources: TypeAlias = Annotated[
    tuple[_Resource, ...],
    BeforeValidator(_listed),
    AfterValidator(_filled),
    _one_or_more({"type": "string", "pattern": _RESOURCE}),
]
_Texts: TypeAlias = Annotated[
    tuple[_Text, ...], BeforeValidator(_texts), AfterValidator(_filled), _one_or_more(_SCALAR)
]
_Operator: TypeAlias = Annotated[str, Field(pattern=r"^((ForAnyValue|ForAllValues):)?[A-Za-z]{2,40}$")]
_Key: TypeAlias = Annotated[str, Field(pattern=r"^[!-~]{3,256}$")]
_Region: TypeAlias = Annotated[str, Field(pattern=_REGION)]
_Url: TypeAlias = Annotated[str, Field(pattern=_URL)]


class Statement(BaseModel):
    """One policy statement in AWS's own spelling. A session policy names no Principal."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    Sid: Annotated[str, Field(pattern=r"^[A-Za-z0-9]{1,64}$")] | None = None
    Effect: Literal["Allow", "Deny"]
    Action: _Actions | None = None
    NotAction: _Actions | None = None
    Resource: _Resources | None = None
    NotResource: _Resources | None = None
    Condition: Mapping[_Operator, Mapping[_Key, _Texts]] | None = None

    @model_validator(mode="after")
    def _one_of_each(self) -> Self:
        if (self.Action is None) == (self.NotAction is None):
            raise ValueError("needs either Action or NotAction")
        if (self.Resource is None) == (self.NotResource is None):
            raise ValueError("needs either Resource or NotResource")
        return self


class AwsBlock(BaseModel):
    """What a scope says about an AWS session.

    Attributes:
        role_arn: the role to assume. Never a template: an agent must not steer which role (confused deputy).
        regions: where the session works; the first one is the session's default region.
        any_region: instead of `regions`, for stores that know none (Ceph). Said aloud, never by omission.
        statements: what the session may do, within what the role may do.
        may_chain: let the session make further sessions, which outlive this one's deny and bound.
        revoke: `deny` ends it early by a role policy; `bound` only waits for its time.
        when_full: with no room for one more deny: `refuse` leases, or `cutoff` all sessions of the role at once.
        external_id: the operator's, for the role's trust policy.
        sts_region: region of the STS endpoint; default: the broker's setting.
        sts_endpoint: another STS, for example FIPS; default: the region's own.
        endpoint_url: what the agent's SDK shall talk to when it is not AWS itself.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    role_arn: Annotated[str, Field(pattern=_ROLE_ARN)]
    regions: Annotated[
        tuple[_Region, ...],
        BeforeValidator(_listed),
        _one_or_more({"type": "string", "pattern": _REGION}, least=0),
    ] = ()
    any_region: bool = False
    statements: Annotated[
        tuple[Statement, ...], BeforeValidator(_listed), Field(min_length=1, json_schema_extra={"minItems": 1})
    ]
    may_chain: bool = False
    revoke: Literal["deny", "bound"] = "deny"
    when_full: Literal["refuse", "cutoff"] = "refuse"
    external_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_+=,.@:/-]{2,1224}$")] | None = None
    sts_region: _Region | None = None
    sts_endpoint: _Url | None = None
    endpoint_url: _Url | None = None

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        if bool(self.regions) == self.any_region:
            raise ValueError("needs either regions or any_region: true")
        if all(statement.Effect == "Deny" for statement in self.statements):
            raise ValueError("has no statement that allows anything")
        return self

    @property
    def role_name(self) -> str:
        """What IAM's API calls it: the ARN's last segment, without the path."""
        return self.role_arn.rpartition("/")[2]


def block_of(params: Mapping[str, JsonValue]) -> AwsBlock | None:
    """Of a lease; None when it cannot be read."""
    try:
        return AwsBlock.model_validate(params)
    except ValidationError:  # its text repeats the input
        return None
