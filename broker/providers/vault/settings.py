"""Where the server is, and how the broker logs in."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import TypeAlias
from urllib.parse import urlsplit

from broker.providers.http import Origin


@dataclass(frozen=True, kw_only=True, slots=True)
class AppRole:
    """The secret id stays in a file and is read again at each login, so that it can be rotated."""

    role_id: str
    secret_id_file: Path
    mount: str = "approle"

    @property
    def files(self) -> tuple[Path, ...]:
        """What a login is made of: tried again at once when it changes."""
        return (self.secret_id_file,)


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenFile:
    """A token that something else, for example Vault Agent, keeps fresh in a file."""

    path: Path

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.path,)


@dataclass(frozen=True, kw_only=True, slots=True)
class Cert:
    """A client certificate; its files are read again at each login, so that it can be rotated."""

    cert_file: Path
    key_file: Path
    role: str = ""  # any that matches when empty
    mount: str = "cert"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.cert_file, self.key_file)


@dataclass(frozen=True, kw_only=True, slots=True)
class Kubernetes:
    """The service account's token, read again at each login: the kubelet rotates it."""

    role: str
    jwt_file: Path
    mount: str = "kubernetes"

    @property
    def files(self) -> tuple[Path, ...]:
        return (self.jwt_file,)


Auth: TypeAlias = AppRole | TokenFile | Cert | Kubernetes


@dataclass(frozen=True, kw_only=True, slots=True)
class VaultSettings:
    """Times are seconds."""

    address: str  # https://host:port; http only on loopback
    auth: Auth
    namespace: str = ""  # custom token ids work in the root namespace only (measured)
    ca_file: Path | None = None  # the system's trust store when None
    tomb_role: str = "stepcred-tomb"
    tomb_seconds: int = 86_400
    connect_timeout: float = 3.0
    request_timeout: float = 8.0  # of one request
    mint_timeout: float = 10.0  # of a whole mint: DESIGN section 4; the last possible send is this long after intent
    request_limit_seconds: float = 90.0  # the server's own bound on one request: its default
    max_connections: int = 64  # of mints; as many again for everything else

    @property
    def renews_login(self) -> bool:
        """A certificate is shown anew instead: renewing would need it in every connection."""
        return isinstance(self.auth, AppRole | Kubernetes)

    @property
    def namespace_name(self) -> str:
        """One spelling of each: "" is the root."""
        return namespace_name(self.namespace)

    @property
    def chooses_ids(self) -> bool:
        """Servers take token ids of ours in the root namespace only (measured)."""
        return in_root(self.namespace)

    def problems(self) -> list[str]:
        """Mistakes that can be seen without asking the server."""
        found = []
        origin = _origin(self.address)
        if origin is None:
            found.append("vault address: expected https://host:port")
        elif not origin.tls and not _loopback(origin.host):
            found.append("vault address: http sends tokens in the clear; use https")
        if self.ca_file and not self.ca_file.is_file():
            found.append(f"vault ca_file {self.ca_file}: no such file")
        return found


def namespace_name(namespace: str) -> str:
    """One spelling of each: "" is the root."""
    return "" if in_root(namespace) else namespace.strip("/")


def in_root(namespace: str) -> bool:
    """Is it no namespace but the server's own?"""
    return namespace.strip("/") in ("", "root")


def _origin(address: str) -> Origin | None:
    """None when it is more than one, or none."""
    try:
        parts, origin = urlsplit(address), Origin.of(address)
    except ValueError:
        return None
    return None if parts.path.strip("/") or parts.query else origin


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
