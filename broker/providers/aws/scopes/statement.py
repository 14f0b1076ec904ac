"""One policy statement in AWS's own spelling, as strict types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self, TypeAlias

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from broker.model import JsonValue
from broker.providers.aws.scopes.texts import FILLED, LISTED, listed, matching, one_or_more

_ACTION = r"^(\*|[A-Za-z0-9-]{1,64}:[A-Za-z0-9*?]{1,128})$"
_RESOURCE = r"^(\*|arn:[ -~]{1,2000})$"
# All of IAM's. A misspelt one would be refused by STS at the first mint.
_OPERATOR = (
    r"^(((ForAnyValue|ForAllValues):)?"
    r"(String(Not)?(Equals(IgnoreCase)?|Like)|Numeric((Not)?Equals|(Less|Greater)Than(Equals)?)"
    r"|Date((Not)?Equals|(Less|Greater)Than(Equals)?)|Arn(Not)?(Equals|Like)|(Not)?IpAddress|Bool|BinaryEquals)"
    r"(IfExists)?|Null)$"
)


def _texts(value: JsonValue) -> JsonValue:
    """Condition values: AWS compares text; a YAML true or number is written as AWS writes it."""
    values = listed(value if isinstance(value, (str, list)) else [value])
    return tuple(str(item).lower() if isinstance(item, bool) else _number(item) for item in values)


def _number(value: JsonValue) -> JsonValue:
    return str(value) if isinstance(value, int) else value


_SCALAR: JsonValue = {"type": ["string", "boolean", "integer"]}  # of a condition; YAML's true is AWS's "true"

_Action: TypeAlias = Annotated[str, Field(pattern=_ACTION)]
_Resource: TypeAlias = Annotated[str, Field(pattern=_RESOURCE)]
_Text: TypeAlias = Annotated[str, Field(min_length=0, max_length=2000, pattern=r"^[ -~]*$")]
_Actions: TypeAlias = Annotated[tuple[_Action, ...], LISTED, FILLED, matching(_ACTION)]
_Resources: TypeAlias = Annotated[tuple[_Resource, ...], LISTED, FILLED, matching(_RESOURCE)]
_Texts: TypeAlias = Annotated[tuple[_Text, ...], BeforeValidator(_texts), FILLED, one_or_more(_SCALAR)]
_Operator: TypeAlias = Annotated[str, Field(pattern=_OPERATOR)]
_Key: TypeAlias = Annotated[str, Field(pattern=r"^[!-~]{3,256}$")]


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


def distinct_sids(statements: tuple[Statement, ...]) -> tuple[Statement, ...]:
    """AWS takes no policy in which two statements have the same Sid."""
    sids = [statement.Sid for statement in statements if statement.Sid is not None]
    for sid in sids:
        if sids.count(sid) > 1:
            raise ValueError(f"Sid {sid} is there twice")
    return statements
