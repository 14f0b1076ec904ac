"""Credentials, typed. A repr never shows a secret, and none can be pickled or copied: both would outlive the step."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Never

from stepcred._models import Lease

if TYPE_CHECKING:
    import boto3


class _Seal:
    """Keeps `dataclasses.asdict` and `astuple` from making a plain dict of a credential, which anything may print."""

    __slots__ = ()

    def __deepcopy__(self, memo: object) -> Never:
        raise TypeError("a credential is not turned into a dict or a tuple; take the one field that is needed")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Credential:
    """What `issue` returns. `lease` says until when it lives and how dead it can be made."""

    # Inherited variables that would be used instead of ours, or beside them.
    CONFLICTS: ClassVar[frozenset[str]] = frozenset()

    lease: Lease
    _seal: _Seal = field(default_factory=_Seal, init=False, repr=False)

    def env(self) -> dict[str, str]:
        """The conventional environment variables; empty for a kind that has none."""
        return {}

    def __reduce__(self) -> Never:
        raise TypeError("a credential cannot be pickled or copied")


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class VaultToken(Credential):
    """A token of HashiCorp Vault or OpenBao."""

    CONFLICTS = frozenset({"VAULT_TOKEN", "BAO_TOKEN", "VAULT_NAMESPACE", "BAO_NAMESPACE"})

    token: str = field(repr=False)
    address: str
    namespace: str

    def env(self) -> dict[str, str]:
        values = {"TOKEN": self.token, "ADDR": self.address, "NAMESPACE": self.namespace}
        return {f"{product}_{name}": value for product in ("VAULT", "BAO") for name, value in values.items() if value}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class UsernamePassword(Credential):
    """A login of its own, made for this step. `attributes` (host, port, database) are the operator's."""

    # A service file and a password file are read before, or instead of, PGUSER and PGPASSWORD.
    CONFLICTS = frozenset({"PGUSER", "PGPASSWORD", "PGPASSFILE", "PGSERVICE", "PGSERVICEFILE"})

    username: str
    password: str = field(repr=False)
    attributes: Mapping[str, str]

    def env(self) -> dict[str, str]:
        names = {"host": "PGHOST", "port": "PGPORT", "database": "PGDATABASE", "sslmode": "PGSSLMODE"}
        where = {names[key]: value for key, value in self.attributes.items() if key in names and value}
        return {"PGUSER": self.username, "PGPASSWORD": self.password, **where}


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class AwsSession(Credential):
    """A session of AWS STS. The lease's expiry, which is enforced by policy, may be sooner than STS's own."""

    CONFLICTS = frozenset(
        {
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_SESSION_TOKEN",
            "AWS_SECURITY_TOKEN",
            "AWS_CREDENTIAL_EXPIRATION",
            "AWS_PROFILE",
            "AWS_DEFAULT_PROFILE",
            "AWS_ROLE_ARN",
            "AWS_ROLE_SESSION_NAME",
            "AWS_WEB_IDENTITY_TOKEN_FILE",
            "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
        }
    )

    access_key_id: str
    secret_access_key: str = field(repr=False)
    session_token: str = field(repr=False)
    region: str
    endpoint_url: str
    session_expires_at: datetime | None

    def env(self) -> dict[str, str]:
        values = {
            "AWS_ACCESS_KEY_ID": self.access_key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret_access_key,
            "AWS_SESSION_TOKEN": self.session_token,
            "AWS_REGION": self.region,
            "AWS_DEFAULT_REGION": self.region,
            "AWS_ENDPOINT_URL": self.endpoint_url,
        }
        return {name: value for name, value in values.items() if value}

    def boto3_session(self) -> boto3.Session:
        """A boto3 session with this credential and no other; needs boto3 installed."""
        from stepcred._boto3 import make_session

        return make_session(self)


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class X509Certificate(Credential):
    """A certificate; `private_key_pem` is empty when the request carried a CSR."""

    certificate_pem: str
    chain_pem: tuple[str, ...]
    private_key_pem: str = field(repr=False)
    serial_number: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class SshCertificate(Credential):
    """A signed OpenSSH public key."""

    signed_key: str
    serial_number: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Jwt(Credential):
    """A signed token for one audience."""

    token: str = field(repr=False)
    audience: str


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class KeyValue(Credential):
    """Stored values. They outlive the step: only the access to them ends."""

    data: Mapping[str, str] = field(repr=False)
    version: int
    version_id: str = ""  # where versions have names, not numbers

    def env(self) -> dict[str, str]:
        """Keys in upper case; a key that is no variable name, or would steer the program loader, is left out.

        Raises ValueError when two keys differ only in case.
        """
        names = [name.upper() for name in self.data]
        if len(set(names)) < len(names):
            raise ValueError(f"scope {self.lease.scope}: two keys of the value differ only in case")
        return {name.upper(): value for name, value in self.data.items() if _usable_variable(name.upper())}


_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]*")
# Whoever may write the stored value must not get to choose what code the step runs.
_STEERING = re.compile(
    r"PATH|HOME|IFS|ENV|BASH_ENV|SHELL(OPTS)?|PS4|PROMPT_COMMAND|EDITOR|VISUAL|PAGER|BROWSER|LESS(OPEN|CLOSE)"
    r"|(LD|DYLD|STEPCRED|GIT)_[A-Z0-9_]*|GCONV_PATH|GLIBC_TUNABLES|PYTHON[A-Z0-9_]*|PERL5?(LIB|OPT|DB)|RUBY(LIB|OPT)"
    r"|NODE_(OPTIONS|PATH)|(JDK_|_)?JAVA(_TOOL)?_OPTIONS|LUA_[A-Z0-9_]*|PHPRC|DOTNET_STARTUP_HOOKS"
)


def _usable_variable(name: str) -> bool:
    return _VARIABLE.fullmatch(name) is not None and _STEERING.fullmatch(name) is None
