"""The `dev:` block of a map that is written by hand, without Vault or AWS.

- `{kind: login}`: a user and a password; `{kind: login, values: {password: hunter2}}`: this password
- `{kind: values, values: {api_key: abc}}`: stored values, of these names
- `{kind: token}`, `{kind: aws}`, `{kind: x509}`, `{kind: ssh}`: the others
- `{kind: token, fail: refused}`: never minted; `lost`: minted, and the answer is lost
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from enum import Enum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from broker.model import JsonValue, NamedBlock, Powers, Remark, Revocability, Tier


class Shape(Enum):
    """What a stand-in looks like, and how dead the real thing could be made."""

    TOKEN = "token", Revocability.EXACT
    LOGIN = "login", Revocability.EXACT
    AWS = "aws", Revocability.DENY_POLICY
    VALUES = "values", Revocability.STATIC
    X509 = "x509", Revocability.PUBLISHED
    SSH = "ssh", Revocability.EXPIRY_ONLY

    def __new__(cls, word: str, revocability: Revocability) -> Self:
        made = object.__new__(cls)
        made._value_ = word
        made.revocability = revocability
        return made

    revocability: Revocability

    @property
    def names(self) -> frozenset[str] | None:
        """What `values` may name; None: anything."""
        return _NAMES[self]


_NAMES: Mapping[Shape, frozenset[str] | None] = {
    Shape.TOKEN: frozenset({"token", "address", "namespace"}),
    Shape.LOGIN: None,
    Shape.AWS: frozenset({"access_key_id", "secret_access_key", "session_token", "region", "endpoint_url"}),
    Shape.VALUES: None,
    Shape.X509: frozenset({"common_name"}),
    Shape.SSH: frozenset(),
}


def _shape(word: object) -> object:
    if isinstance(word, str):
        known = {shape.value: shape for shape in Shape}
        if word not in known:
            raise ValueError(f"expected one of {', '.join(known)}")
        return known[word]
    return word


class DevBlock(BaseModel):
    """A stand-in. `fail`: what happens instead of a mint."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Annotated[Shape, BeforeValidator(_shape)]
    values: Mapping[str, str] = Field(default_factory=dict)
    fail: Literal["refused", "lost"] | None = None

    @model_validator(mode="after")
    def _check(self) -> DevBlock:
        check_values(self.kind, self.values)
        return self


def check_values(shape: Shape, values: Mapping[str, str]) -> None:
    """Raises ValueError for names that a credential of this shape does not have."""
    names = shape.names
    if names is None:
        return
    if unknown := sorted(set(values) - names):
        known = f"it has {', '.join(sorted(names))}" if names else "all of it is made by the broker"
        raise ValueError(f"a credential of kind {shape.value} has no value {unknown[0]!r}: {known}")


class DevScope:
    """What the scope map must know of it (`broker.model.ScopeKind`)."""

    name = "dev"

    def validate(self, block: Mapping[str, JsonValue]) -> Sequence[tuple[tuple[str | int, ...], str]]:
        """Every mistake as (path inside the block, message)."""
        try:
            DevBlock.model_validate(dict(block))
        except ValidationError as error:
            return [(one["loc"], one["msg"].removeprefix("Value error, ")) for one in error.errors(include_input=False)]
        return []

    def completed(self, block: Mapping[str, JsonValue], tier: Tier) -> Mapping[str, JsonValue]:  # noqa: ARG002 - as the protocol has it
        """A tier decides nothing here."""
        return block

    def longest_life(self, block: Mapping[str, JsonValue]) -> timedelta | None:  # noqa: ARG002 - as the protocol has it
        """Nothing bounds it."""
        return None

    def revocability(self, block: Mapping[str, JsonValue]) -> Revocability:
        """As of the real thing."""
        return DevBlock.model_validate(dict(block)).kind.revocability

    def powers(self, block: Mapping[str, JsonValue]) -> Sequence[str]:
        """Another block is another power: there is no role behind it that several scopes could share."""
        told = json.dumps(block, sort_keys=True).encode()
        return [f"{block['kind']}-{hashlib.sha256(told).hexdigest()[:12]}"]

    def regions(self, block: Mapping[str, JsonValue]) -> Sequence[str] | None:  # noqa: ARG002 - as the protocol has it
        """It is nowhere."""
        return None

    def describe(self, block: Mapping[str, JsonValue], *, now: datetime, until: datetime) -> Powers:  # noqa: ARG002 - as the protocol has it
        """It can do nothing. Values may be somebody's passwords, so only their names are told."""
        made = DevBlock.model_validate(dict(block))
        words = f"a stand-in of kind {made.kind.value}, good for nothing"
        return Powers(words=(words,), told={"kind": made.kind.value, "values": sorted(made.values)})

    def warnings(self, block: Mapping[str, JsonValue]) -> Sequence[Remark]:  # noqa: ARG002 - as the protocol has it
        """It can do nothing."""
        return []

    def joint_warnings(self, blocks: Sequence[NamedBlock]) -> Sequence[tuple[str, Remark]]:  # noqa: ARG002 - as the protocol has it
        """They do nothing to each other."""
        return []

    def json_schema(self) -> JsonValue:
        """Of the block."""
        return DevBlock.model_json_schema()
