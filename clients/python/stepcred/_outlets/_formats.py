"""One credential as bytes: a field of it, or a format that programs read."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any
from urllib.parse import quote

from stepcred._credentials import (
    AwsSession,
    Credential,
    Jwt,
    SshCertificate,
    UsernamePassword,
    VaultToken,
    X509Certificate,
)
from stepcred._outlets._errors import Unusable

_USUAL = (
    (VaultToken, "token"),
    (Jwt, "token"),
    (UsernamePassword, "pgpass"),
    (AwsSession, "aws"),
    (X509Certificate, "fullchain_pem"),
    (SshCertificate, "signed_key"),
)
_NOT_SHOWN = frozenset({"lease", "_seal"})


def render(credential: Credential, what: str) -> bytes:
    """A field (`token`, `password`, `certificate_pem`, `data.KEY`, `attributes.KEY`), or a format.

    Formats: `env` (lines for a shell's `.`), `json`, `pgpass`, `dsn`, `aws` (a shared credentials file),
    `fullchain_pem` (the certificate and its chain). Raises Unusable naming what there is.
    """
    if what in _FORMATS:
        kind, make = _FORMATS[what]
        if not isinstance(credential, kind):
            raise _no_such(credential, what)
        return make(credential).encode()
    values = _fields(credential)
    if what not in values:
        raise _no_such(credential, what)
    return values[what].encode()


def usual(credential: Credential) -> str:
    """What is put into a file when nothing else is said: as the programs of its kind read it."""
    return next((what for kind, what in _USUAL if isinstance(credential, kind)), "json")


def dsn(credential: Credential, scheme: str = "postgresql") -> str:
    """A URL with user, password, host, port and database, everything percent-encoded. Raises Unusable."""
    if not isinstance(credential, UsernamePassword):
        raise _no_such(credential, "dsn")
    where = credential.attributes
    if not where.get("host"):
        raise Unusable(f"{credential.lease.scope}: no dsn without a host; the operator declares it in the scope")
    host = where["host"]
    netloc = f"[{host}]" if ":" in host else _encoded(host)
    port = f":{_encoded(where['port'])}" if where.get("port") else ""
    path = f"/{_encoded(where['database'])}" if where.get("database") else ""
    query = f"?sslmode={_encoded(where['sslmode'])}" if where.get("sslmode") else ""
    return f"{scheme}://{_encoded(credential.username)}:{_encoded(credential.password)}@{netloc}{port}{path}{query}"


def secrets_of(credential: Credential) -> tuple[str, ...]:
    """Every secret in it: what its repr does not show."""
    found: list[str] = []
    for item in fields(credential):
        if item.repr or item.name in _NOT_SHOWN:
            continue
        value = getattr(credential, item.name)
        found += value.values() if isinstance(value, Mapping) else [value]
    return tuple(secret for secret in found if secret)


def _fields(credential: Credential) -> dict[str, str]:
    """By the names that `render` takes. Maps by their keys, a chain as one text."""
    found: dict[str, str] = {}
    for item in fields(credential):
        value = getattr(credential, item.name)
        if item.name in _NOT_SHOWN or value is None:
            continue
        if isinstance(value, Mapping):
            found |= {f"{item.name}.{key}": part for key, part in value.items()}
        elif isinstance(value, tuple):
            found[item.name] = _pem(*value)
        else:
            found[item.name] = str(value)
    return found


def _no_such(credential: Credential, what: str) -> Unusable:
    formats = [name for name, (kind, _) in _FORMATS.items() if isinstance(credential, kind)]
    there = ", ".join(ascii(name)[1:-1] for name in [*sorted(_fields(credential)), *formats])
    kind = type(credential).__name__
    return Unusable(f"{credential.lease.scope}: a {kind} has no {what!a}; there is {there}")


def _env(credential: Credential) -> str:
    try:
        variables = credential.env()
    except ValueError as problem:
        raise Unusable(str(problem)) from None
    if not variables:
        raise Unusable(f"{credential.lease.scope}: a {type(credential).__name__} has no variables; name a field")
    if any("\0" in value for value in variables.values()):
        raise Unusable(f"{credential.lease.scope}: a value has a NUL, which no variable can hold")
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in variables.items())


def _json(credential: Credential) -> str:
    shown: dict[str, Any] = {"scope": credential.lease.scope}
    if credential.lease.expires_at is not None:
        shown["expires_at"] = credential.lease.expires_at.isoformat()
    for item in fields(credential):
        if item.name not in _NOT_SHOWN:
            value = getattr(credential, item.name)
            shown[item.name] = dict(value) if isinstance(value, Mapping) else value
    return json.dumps(shown, indent=2, default=lambda moment: moment.isoformat()) + "\n"


def _pgpass(credential: Any) -> str:
    where = credential.attributes
    parts = [where.get("host") or "*", where.get("port") or "*", where.get("database") or "*"]
    values = [*parts, credential.username, credential.password]
    if any(sign in value for value in values for sign in "\r\n\0"):
        raise Unusable(f"{credential.lease.scope}: a value has a line break, which pgpass cannot hold")
    return ":".join(value.replace("\\", "\\\\").replace(":", "\\:") for value in values) + "\n"


def _aws(credential: Any) -> str:
    values = {
        "aws_access_key_id": credential.access_key_id,
        "aws_secret_access_key": credential.secret_access_key,
        "aws_session_token": credential.session_token,
        "region": credential.region,
        "endpoint_url": credential.endpoint_url,
    }
    if any(sign in value for value in values.values() for sign in "\r\n\0"):
        raise Unusable(f"{credential.lease.scope}: a value has a line break, which a credentials file cannot hold")
    return "[default]\n" + "".join(f"{name} = {value}\n" for name, value in values.items() if value)


def _fullchain(credential: Any) -> str:
    return _pem(credential.certificate_pem, *credential.chain_pem)


def _pem(*parts: str) -> str:
    return "".join(part if part.endswith("\n") else part + "\n" for part in parts)


def _encoded(value: str) -> str:
    return quote(value, safe="")


_FORMATS: Mapping[str, tuple[type[Credential], Callable[[Any], str]]] = {
    "env": (Credential, _env),
    "json": (Credential, _json),
    "pgpass": (UsernamePassword, _pgpass),
    "dsn": (UsernamePassword, dsn),
    "aws": (AwsSession, _aws),
    "fullchain_pem": (X509Certificate, _fullchain),
}
