"""The `vault:` block of a scope: which token role, and what the broker fetches with the token.

- `{role: orders-ro}`: the step gets the token itself
- `{role: orders-ro, read: database/creds/orders-ro}`: a leased login (database, RabbitMQ)
- `{…, attributes: {host: db.acme.internal, port: 5432, database: orders}}`: where that login is good
- `{role: orders-kv, read: secret/data/orders}`: a static value (KV v2)
- `{role: web, write: {path: pki/issue/web, data: {common_name: web.acme.internal}}}`: an X.509 certificate
- `{role: web, write: {path: pki/sign/web, input: csr}}`: one for the caller's own request
- `{role: ops, write: {path: ssh/sign/ops, data: {valid_principals: ops}}}`: an SSH certificate for the caller's key
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import Enum
from functools import lru_cache
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from broker.model import JsonValue, Revocability

# Every segment is allow-listed: role_name='../../../sys/seal' was seen to request /v1/sys/seal (measured).
SEGMENT = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
PATH = re.compile(r"(?!\.+(?:/|\Z))[A-Za-z0-9_.-]+(?:/(?!\.+(?:/|\Z))[A-Za-z0-9_.-]+)*", re.ASCII)
TEMPLATE = re.compile(r"\{[a-z][a-z0-9_]*\}", re.ASCII)
MIN_SEGMENTS = 2
# A policy has its role's name, and servers put policies' names into lower case: `App` and `app` would be one.
ROLE = re.compile(r"[a-z0-9][a-z0-9_.-]*", re.ASCII)
STEP_SELF = "step-self"  # the policy with which a step's token ends itself
TOMB_POLICY = "stepcred-nothing"
RESERVED = frozenset({"root", "default", STEP_SELF, TOMB_POLICY})
# They would hand out, or change, what is the broker's or the token's own.
SERVERS_OWN = frozenset({"auth", "sys", "identity", "cubbyhole"})
# Said by the broker: the life is the scope's ttl, and the input the caller's.
MAX_ATTRIBUTES, MAX_ATTRIBUTE = 16, 256
OURS = frozenset({"ttl", "not_after", "csr", "public_key", "format", "private_key_format"})


class Kind(Enum):
    """What a scope gives, and how dead it can be made."""

    TOKEN = Revocability.EXACT, "the token"
    LEASED = Revocability.EXACT, "a login with a lease of its own"
    X509 = Revocability.PUBLISHED, "an X.509 certificate"
    SSH = Revocability.EXPIRY_ONLY, "an SSH certificate"
    STATIC = Revocability.STATIC, "a stored value"

    @property
    def revocability(self) -> Revocability:
        """What the map promises of it."""
        return self.value[0]

    @property
    def has_lease(self) -> bool:
        """The server gives it a lease of its own, which has to be ended apart from the token."""
        return self in (Kind.LEASED, Kind.X509)


def is_segment(text: str) -> bool:
    """One path segment, and not a step upwards."""
    return SEGMENT.fullmatch(text) is not None and set(text) != {"."}


def is_path(text: str) -> bool:
    """Segments joined by single slashes, none at the ends."""
    return PATH.fullmatch(text) is not None


def read_block(params: Mapping[str, JsonValue]) -> VaultBlock:
    """A scope's block. Raises ValidationError."""
    try:
        return _remembered(tuple(params.items()))
    except TypeError:  # it holds more than words
        return VaultBlock.model_validate(dict(params))


@lru_cache(maxsize=4096)  # of a few words; asked for several times by each mint and end
def _remembered(params: tuple[tuple[str, JsonValue], ...]) -> VaultBlock:
    return VaultBlock.model_validate(dict(params))


def _role(value: str) -> str:
    if not is_segment(value):  # no template either: a step's name must not choose a policy
        raise ValueError("expected the name of a token role: letters, digits, '_', '.', '-'")
    return value


def _is_creds(read: str) -> bool:
    """`<mount>/creds/<name>`, where secrets engines give secrets with a lease of their own."""
    parts = read.split("/")
    return len(parts) > MIN_SEGMENTS and parts[-2] == "creds"


def _read(value: str) -> str:
    parts = value.split("/")
    if len(parts) < MIN_SEGMENTS or not all(is_segment(part) or TEMPLATE.fullmatch(part) for part in parts):
        raise ValueError("expected <mount>/<path>, segments of letters, digits, '_', '.', '-', or a whole {template}")
    if TEMPLATE.fullmatch(parts[0]):
        raise ValueError("a mount cannot be a template")
    if _is_creds(value) and any(map(TEMPLATE.fullmatch, parts)):  # its leases are listed and ended under this very path
        raise ValueError("a leased login's path cannot hold a template")
    return value


def _written(value: str) -> str:
    parts = value.split("/")
    if len(parts) <= MIN_SEGMENTS or not is_path(value) or parts[-2] not in ("issue", "sign"):
        raise ValueError("expected <mount>/issue/<role> or <mount>/sign/<role>, without templates")
    return value


def _data(value: Mapping[str, str | int | bool]) -> Mapping[str, str | int | bool]:
    if ours := sorted(OURS & set(value)):
        raise ValueError(f"{', '.join(ours)}: said by the broker (the life is the scope's ttl)")
    return value


def _attributes(value: Mapping[str, str | int]) -> Mapping[str, str | int]:
    if known := sorted({"username", "password"} & set(value)):
        raise ValueError(f"{', '.join(known)}: made by the server")
    if len(value) > MAX_ATTRIBUTES or any(len(str(word)) > MAX_ATTRIBUTE for pair in value.items() for word in pair):
        raise ValueError(f"at most {MAX_ATTRIBUTES} of {MAX_ATTRIBUTE} characters")
    return value


class _Strict(BaseModel):
    """Nothing is coerced, nothing unknown is let through."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class WriteBlock(_Strict):
    """What is sent to a secrets engine that signs or issues. `input`: what the caller has to bring."""

    path: Annotated[str, AfterValidator(_written)]
    data: Annotated[Mapping[str, str | int | bool], AfterValidator(_data)] = Field(default_factory=dict)
    input: Literal["csr", "public_key"] | None = None

    @model_validator(mode="after")
    def _check(self) -> WriteBlock:
        if self.input and self.path.split("/")[-2] != "sign":
            raise ValueError("input belongs to <mount>/sign/<role>; issue makes a key of its own")
        return self

    @property
    def mount(self) -> str:
        """Of `<mount>/issue/<role>` or `<mount>/issuer/<ref>/issue/<role>`."""
        parts = self.path.split("/")[:-2]
        return "/".join(parts[:-2] if parts[-2:-1] == ["issuer"] else parts)

    @property
    def name(self) -> str:
        """The secrets engine's own role."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def needs(self) -> str:
        """`csr`, `public_key`, or "" when the server makes the key."""
        return self.input or ("public_key" if self.path.split("/")[-2] == "sign" else "")


class VaultBlock(_Strict):
    """A role alone, or with one thing to fetch."""

    role: Annotated[str, AfterValidator(_role)]
    read: Annotated[str, AfterValidator(_read)] | None = None
    write: WriteBlock | None = None
    # Told with a login, so that a program finds its server. Never a secret: it is in the map.
    attributes: Annotated[Mapping[str, str | int], AfterValidator(_attributes)] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check(self) -> VaultBlock:
        if self.read and self.write:
            raise ValueError("either read or write: one lease is one credential")
        if self.attributes and self.kind is not Kind.LEASED:
            raise ValueError("attributes say where a login is good: they belong to read: <mount>/creds/<role>")
        return self

    @property
    def kind(self) -> Kind:
        """What the step gets."""
        if self.write:
            return Kind.SSH if self.write.needs == "public_key" else Kind.X509
        if self.read is None:
            return Kind.TOKEN
        return Kind.LEASED if _is_creds(self.read) else Kind.STATIC

    @property
    def path(self) -> str:
        """What is asked with the token; "" when nothing is."""
        return self.read or (self.write.path if self.write else "")

    @property
    def leased_under(self) -> str:
        """Where the server lists the leases of what it gave; "" when it gives none."""
        return self.path if self.kind.has_lease else ""
